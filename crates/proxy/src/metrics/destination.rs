//! What a request or connection is for, as it is counted.

use std::borrow::Cow;
use std::fmt;

use tulle_model::name::ServiceName;

use super::{EXTERNAL, UNKNOWN};

/// Where a request goes, as it is counted.
#[derive(Debug, Clone)]
pub enum DestinationName {
    Service(ServiceName),
    /// No part of the mesh.
    External,
    /// It does not say, or to a service that does not exist.
    Unknown,
}

impl DestinationName {
    /// What it is counted as.
    pub fn name(&self) -> Cow<'_, ServiceName> {
        match self {
            Self::Service(service) => Cow::Borrowed(service),
            Self::External => Cow::Owned(ServiceName::new("", EXTERNAL)),
            Self::Unknown => Cow::Owned(ServiceName::new("", UNKNOWN)),
        }
    }
}

impl From<ServiceName> for DestinationName {
    fn from(service: ServiceName) -> Self {
        Self::Service(service)
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(service) => service.fmt(f),
            Self::External => f.write_str(EXTERNAL),
            Self::Unknown => f.write_str(UNKNOWN),
        }
    }
}
