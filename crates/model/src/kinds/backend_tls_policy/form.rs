//! A BackendTLSPolicy as it is compiled: with references to certificates in the place of these.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use crate::kinds::id::KindId;
use crate::kinds::route::ParentReference;
use crate::name::NamespacedName;
use crate::snapshot::CertificateName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BackendTlsForm {
    pub name: NamespacedName,
    /// Those of the object.
    pub generation: Option<i64>,
    pub created: Option<Timestamp>,
    /// As the object has them.
    pub targets: Vec<TlsTarget>,
    pub hostname: Arc<str>,
    pub names: Vec<CertificateName>,
    pub roots: RootsForm,
}

/// What it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TlsTarget {
    External {
        service: NamespacedName,
        port: Option<Arc<str>>,
    },
    /// Of which nothing comes.
    Other {
        kind: String,
        name: String,
        section: Option<String>,
        group: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootsForm {
    System,
    /// What is not known here.
    Unknown(Arc<str>),
    References(Vec<RootsReference>),
}

/// Where certificates are to be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RootsReference {
    Of(KindId, NamespacedName),
    Unsupported(String),
}

impl TlsTarget {
    /// As a status has it.
    pub(crate) fn reference(&self, namespace: &str) -> ParentReference {
        let (group, kind, name, section) = match self {
            Self::External { service, port } => {
                ("tulle.dev", "ExternalService", &*service.name, port.as_deref())
            }
            Self::Other { kind, name, section, group } => {
                (group.as_str(), kind.as_str(), name.as_str(), section.as_deref())
            }
        };
        ParentReference {
            group: Some(group.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(namespace.to_owned()),
            name: name.to_owned(),
            section_name: section.map(str::to_owned),
            port: None,
        }
    }
}

/// The targets of an object that need not be valid, as a status has them.
pub(crate) fn references_of(object: &Value) -> Vec<ParentReference> {
    let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or("default");
    let targets = object.pointer("/spec/targetRefs").and_then(Value::as_array);
    let text = |target: &Value, field: &str| target.get(field).and_then(Value::as_str).map(str::to_owned);
    let reference = |target: &Value| {
        Some(ParentReference {
            group: Some(text(target, "group").unwrap_or_default()),
            kind: text(target, "kind"),
            namespace: Some(namespace.to_owned()),
            name: text(target, "name")?,
            section_name: text(target, "sectionName"),
            port: None,
        })
    };
    targets.into_iter().flatten().take(16).filter_map(reference).collect()
}
