//! The Mesh object: there always is one, and its trust domain is that of the mesh's authority for good.

use serde_json::{Value, json};
use tulle_model::identity::TrustDomain;
use tulle_model::kinds::mesh::MESH;
use tulle_model::registry::{Kind, KindId};

use super::write::{encode, without_version};
use super::{FieldProblem, ObjectError, Objects, WriteOptions, decode_at, key, metadata};
use crate::store::{Precondition, StoreError};

impl Objects {
    /// The same objects, of a mesh with that trust domain.
    pub fn of_mesh(mut self, domain: &TrustDomain) -> Self {
        self.trust_domain = Some(domain.as_str().into());
        self
    }

    /// Makes sure that the Mesh object is there, with the trust domain of [`Objects::of_mesh`]. `false` where it
    /// is missing and there is no room for it now.
    ///
    /// # Errors
    /// Where the store fails.
    pub async fn ensure_mesh(&self) -> Result<bool, ObjectError> {
        let kind = KindId::Mesh.kind();
        let made = match self.get(kind, "", MESH).await? {
            Some(kept) => self.correct_trust_domain(&kept).await,
            None => {
                let mesh = json!({ "metadata": { "name": MESH } });
                self.create(kind, "", mesh, &WriteOptions::controller()).await.map(drop)
            }
        };
        match made {
            Ok(()) | Err(ObjectError::AlreadyExists { .. }) => Ok(true),
            // Nodes need the server all the same.
            Err(error) if error.is_for_want_of_room() => {
                tracing::warn!(%error, "the Mesh object is missing, and cannot be made now");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// A Mesh of an earlier server may name another trust domain: nothing ever heeded it.
    async fn correct_trust_domain(&self, kept: &Value) -> Result<(), ObjectError> {
        let Some(domain) = self.trust_domain.as_deref() else { return Ok(()) };
        if kept["spec"]["trustDomain"] == domain {
            return Ok(());
        }
        tracing::warn!("the Mesh object names a trust domain that is not the mesh's: it is `{domain}` again");
        let key = key::key(KindId::Mesh.kind(), "", MESH);
        let Some(stored) = self.store.get(&key).await? else { return Ok(()) };
        let mut mesh = without_version(&decode_at(&stored.value, stored.revision)?);
        set_trust_domain(&mut mesh, domain);
        match self
            .store
            .put(&key, encode(KindId::Mesh.kind(), &mesh), Precondition::Revision(stored.revision))
            .await
        {
            // Somebody writes it now, and cannot write another domain.
            Ok(_) | Err(StoreError::Conflict { .. }) => Ok(()),
            // It is there; only what it says is wrong.
            Err(error) => match ObjectError::from(error) {
                error if error.is_for_want_of_room() => Ok(()),
                error => Err(error),
            },
        }
    }

    /// Gives a Mesh that is about to be written the mesh's trust domain, where it names none.
    pub(super) fn check_trust_domain(
        &self,
        kind: &'static Kind,
        object: &mut Value,
    ) -> Result<(), ObjectError> {
        let Some(domain) = self.trust_domain.as_deref().filter(|_| kind.id == KindId::Mesh) else {
            return Ok(());
        };
        match &object["spec"]["trustDomain"] {
            Value::Null => set_trust_domain(object, domain),
            Value::String(given) if given.is_empty() => set_trust_domain(object, domain),
            Value::String(given) if given != domain => {
                return Err(ObjectError::Invalid {
                    kind,
                    name: metadata::text(object, "name").unwrap_or_default().to_owned(),
                    problems: vec![FieldProblem {
                        field: "spec.trustDomain".to_owned(),
                        reason: "FieldValueForbidden",
                        message: format!("cannot change: every identity of this mesh is in `{domain}`"),
                    }],
                });
            }
            // Validation says what is wrong with others.
            _ => {}
        }
        Ok(())
    }
}

fn set_trust_domain(mesh: &mut Value, domain: &str) {
    if mesh["spec"].is_null() {
        mesh["spec"] = json!({});
    }
    if let Some(spec) = mesh["spec"].as_object_mut() {
        spec.insert("trustDomain".to_owned(), domain.into());
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{objects, options};
    use super::*;

    #[tokio::test]
    async fn a_mesh_names_the_trust_domain_of_the_authority_whatever_was_stored() {
        let objects = objects().await;
        let kind = KindId::Mesh.kind();
        let earlier = json!({ "metadata": { "name": MESH }, "spec": { "trustDomain": "other.local" } });
        objects.create(kind, "", earlier, &options()).await.unwrap();
        let objects = objects.of_mesh(&TrustDomain::new("shop.example").unwrap());
        for _ in 0..2 {
            assert!(objects.ensure_mesh().await.unwrap());
            let mesh = objects.require(kind, "", MESH).await.unwrap();
            assert_eq!(mesh["spec"]["trustDomain"], "shop.example");
        }
        let revision = objects.revision().await.unwrap();
        objects.ensure_mesh().await.unwrap();
        assert_eq!(objects.revision().await.unwrap(), revision, "it is right already");
    }

    #[tokio::test]
    async fn a_mesh_is_given_the_trust_domain_or_refused_for_another() {
        let objects = objects().await.of_mesh(&TrustDomain::new("shop.example").unwrap());
        for (spec, expected) in [
            (Value::Null, Some(json!({ "trustDomain": "shop.example" }))),
            (json!({}), Some(json!({ "trustDomain": "shop.example" }))),
            (json!({ "trustDomain": null }), Some(json!({ "trustDomain": "shop.example" }))),
            (json!({ "trustDomain": "" }), Some(json!({ "trustDomain": "shop.example" }))),
            (json!({ "trustDomain": "shop.example" }), Some(json!({ "trustDomain": "shop.example" }))),
            (json!({ "trustDomain": "other.local" }), None),
            // Validation says what is wrong with it.
            (json!({ "trustDomain": 7 }), Some(json!({ "trustDomain": 7 }))),
        ] {
            let mut mesh = json!({ "spec": spec });
            let result = objects.check_trust_domain(KindId::Mesh.kind(), &mut mesh);
            assert_eq!(result.is_ok().then_some(&mesh["spec"]), expected.as_ref(), "{spec}");
        }
        let mut service = json!({ "spec": { "trustDomain": "other.local" } });
        assert!(objects.check_trust_domain(KindId::Service.kind(), &mut service).is_ok());
    }
}
