//! What a server and its nodes say to each other: the generated protobuf types and services, and
//! their translation from and to the model's snapshot.

pub mod convert;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;

/// Envoy's incremental discovery transport.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod xds {
    include!("generated/envoy.service.discovery.v3.rs");
}

/// The resources that nodes subscribe to.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod discovery {
    include!("generated/tulle.discovery.v1.rs");
}

/// Joining, certificates and reports.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod node {
    include!("generated/tulle.node.v1.rs");
}

/// Who runs Flows.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod flow {
    include!("generated/tulle.flow.v1.rs");
}

/// The SPIFFE Workload API, which the node serves to its workloads.
#[allow(clippy::all, clippy::unwrap_used)]
pub mod spiffe {
    include!("generated/_.rs");
}

/// The type URLs of the resources that nodes subscribe to.
pub mod type_url {
    pub const MESH: &str = "type.googleapis.com/tulle.discovery.v1.Mesh";
    pub const SERVICE: &str = "type.googleapis.com/tulle.discovery.v1.Service";
    pub const ENDPOINTS: &str = "type.googleapis.com/tulle.discovery.v1.Endpoints";
    pub const WORKLOAD: &str = "type.googleapis.com/tulle.discovery.v1.Workload";

    /// What a server's answer to a discovery stream says of the types that it knows: their URLs, with commas between them.
    /// A server that says nothing knows those above but [`WORKLOAD`], and ends the stream of whoever asks for others.
    pub const KNOWN: &str = "tulle-resource-types";

    /// How many bytes of what is wrong with a response a node says: `name: why` of each resource that it refuses, with `; ` between
    /// them.
    pub const LONGEST_ERROR: usize = 4096;
}
