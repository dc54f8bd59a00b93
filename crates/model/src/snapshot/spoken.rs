//! How applications are spoken to.

use super::AppProtocol;

/// How requests are spoken to the applications behind a port, as its Service says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spoken {
    pub protocol: AppProtocol,
    /// See [`crate::port_settings::Http1Settings::preserve_case`].
    pub preserve_case: bool,
}

impl Spoken {
    /// The same, with the protocol of the port that was asked where it says none.
    pub fn or(self, asked: Self) -> Self {
        let protocol = if self.protocol == AppProtocol::Detect { asked.protocol } else { self.protocol };
        Self { protocol, ..self }
    }
}
