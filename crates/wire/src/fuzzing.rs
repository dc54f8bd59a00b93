//! The fuzz target of what servers and nodes say to each other: docs/fuzzing.md.

use std::fmt::Debug;

use prost::Message;
use tulle_model::snapshot as model;

use crate::{discovery, node, xds};

/// A message of another process, whose kind the first byte says. What can be read of it is the same when it is written
/// and read again.
///
/// # Panics
/// Where that is not so.
pub fn discovery(input: &[u8]) {
    let Some((kind, bytes)) = input.split_first() else { return };
    match kind % 9 {
        0 => converts::<discovery::Mesh, model::MeshSettings>(bytes),
        1 | 2 => converts::<discovery::Service, model::ServiceConfig>(bytes),
        3 => converts::<discovery::Endpoints, model::EndpointSet>(bytes),
        4 => {
            let Some(response) = again::<xds::DeltaDiscoveryResponse>(bytes) else { return };
            for resource in response.resources.iter().filter_map(|resource| resource.resource.as_ref()) {
                converts::<discovery::Service, model::ServiceConfig>(&resource.value);
                converts::<discovery::Endpoints, model::EndpointSet>(&resource.value);
                converts::<discovery::Workload, model::WorkloadConfig>(&resource.value);
            }
        }
        5 => drop(again::<xds::DeltaDiscoveryRequest>(bytes)),
        6 => drop(again::<node::NodeReport>(bytes)),
        8 => converts::<discovery::Workload, model::WorkloadConfig>(bytes),
        _ => {
            again::<node::SignRequest>(bytes);
            again::<node::JoinRequest>(bytes);
            again::<node::ReportReply>(bytes);
        }
    }
}

/// The message, which is the same when it is written and read again.
fn again<M: Message + Default + PartialEq>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let written = message.encode_to_vec();
    // A number that is none differs from itself: bytes do not.
    let read = M::decode(&*written).expect("what is written is read");
    assert_eq!(read.encode_to_vec(), written);
    Some(message)
}

/// The same of what the message is to the model.
fn converts<W, M>(bytes: &[u8])
where
    W: Message + Debug + Default + PartialEq + for<'m> From<&'m M>,
    M: TryFrom<W>,
    M::Error: Debug,
{
    let Some(message) = again::<W>(bytes) else { return };
    let Ok(meant) = M::try_from(message) else { return };
    let said = W::from(&meant);
    let understood = M::try_from(W::from(&meant)).expect("what is meant can be said");
    assert_eq!(W::from(&understood), said);
}

#[cfg(test)]
mod tests {
    #[test]
    fn messages_mean_the_same_when_they_are_passed_on() {
        tulle_fuzz::check("discovery", super::discovery);
    }
}
