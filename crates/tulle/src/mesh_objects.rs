//! The objects that a mesh is made of, as its server has them.

use std::sync::Arc;

use serde_json::Value;
use tulle_model::compile::{Change, Compiler};
use tulle_model::identity::TrustDomain;
use tulle_model::registry::{Kind, KindId};
use tulle_model::split::MeshObject;
use tulle_server::ServerConfig;

use crate::client::{Client, JSON, resource};
use crate::exit::{Failure, Result};

/// All objects of those kinds, or those in a namespace.
pub async fn fetch(
    client: &Client,
    kinds: impl IntoIterator<Item = &'static Kind>,
    namespace: Option<&str>,
) -> Result<Vec<MeshObject>> {
    let mut objects = Vec::new();
    for kind in kinds {
        let mut list = client.get(&resource(kind, namespace, None), JSON).await?;
        let Value::Array(items) = list["items"].take() else { continue };
        objects.extend(items.into_iter().map(|mut item| {
            item["apiVersion"] = kind.api_version().into();
            item["kind"] = kind.kind.into();
            (kind, Arc::new(item))
        }));
    }
    Ok(objects)
}

/// The trust domain that the Mesh among them says, or the one that there is where nothing is said.
pub fn trust_domain(objects: &[MeshObject]) -> Result<TrustDomain> {
    let mut meshes = objects.iter().filter(|(kind, _)| kind.id == KindId::Mesh);
    let said = meshes.find_map(|(_, mesh)| mesh["spec"]["trustDomain"].as_str());
    let domain = said.map_or_else(|| ServerConfig::local("").trust_domain, str::to_owned);
    TrustDomain::new(&domain).map_err(|error| Failure::new(error.to_string()))
}

/// What nodes are told of them.
pub fn compile(objects: &[MeshObject]) -> Result<Compiler> {
    let mut compiler = Compiler::new(trust_domain(objects)?);
    compiler.apply_all(objects.iter().map(|(kind, object)| Change::Put(kind, object.clone())));
    Ok(compiler)
}
