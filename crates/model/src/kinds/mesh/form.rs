//! The Mesh as it is compiled.

use crate::snapshot::MeshSettings;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MeshForm {
    /// `None`: that of the mesh's authority.
    pub trust_domain: Option<String>,
    pub settings: MeshSettings,
}
