//! What was asked of workloads, as nodes tell it to the server.

use tulle_model::summary::{Callee, Summary, Wish};

use super::{ConvertError, Result, error, object_name, port_number};
use crate::node as wire;

/// How long a method, and a path, may be in bytes; what nodes of ours tell is shorter.
const LONGEST_METHOD: usize = 64;
const LONGEST_PATH: usize = 1024;

impl wire::Summary {
    /// A summary that was last seen so long ago.
    pub fn new(summary: &Summary, seconds_ago: u64) -> Self {
        let (is_service, to) = match &summary.to {
            Callee::Service(name) => (true, name),
            Callee::Workload(name) => (false, name),
        };
        let (protocol, method, path) = match &summary.asked {
            Wish::Tcp => (wire::SummaryProtocol::Tcp, "", ""),
            Wish::Http { method, path } => (wire::SummaryProtocol::Http, &**method, &**path),
            Wish::Grpc { path } => (wire::SummaryProtocol::Grpc, "", &**path),
            Wish::Requests => (wire::SummaryProtocol::Http, "", ""),
        };
        Self {
            source: summary.from.to_string(),
            destination_namespace: to.namespace.to_string(),
            destination: to.name.to_string(),
            is_service,
            port: summary.port.into(),
            protocol: protocol.into(),
            method: method.to_owned(),
            path: path.to_owned(),
            allowed: summary.allowed,
            seconds_ago,
        }
    }
}

impl TryFrom<wire::Summary> for Summary {
    type Error = ConvertError;

    fn try_from(message: wire::Summary) -> Result<Self> {
        let protocol = message.protocol();
        let to = object_name("destination_", message.destination_namespace, message.destination)?;
        for (field, text, longest) in
            [("method", &message.method, LONGEST_METHOD), ("path", &message.path, LONGEST_PATH)]
        {
            if text.len() > longest || text.contains(|c: char| c.is_control()) {
                return Err(error(field, "is too long, or has control characters"));
            }
        }
        let (method, path) = (message.method.as_str(), message.path.as_str());
        let asked = match protocol {
            wire::SummaryProtocol::Tcp => Wish::Tcp,
            wire::SummaryProtocol::Http | wire::SummaryProtocol::Grpc if path.is_empty() => Wish::Requests,
            wire::SummaryProtocol::Http => Wish::Http { method: method.into(), path: path.into() },
            wire::SummaryProtocol::Grpc => Wish::Grpc { path: path.into() },
        };
        Ok(Self {
            from: message.source.parse().map_err(|_| error("source", "is nobody"))?,
            to: if message.is_service { Callee::Service(to) } else { Callee::Workload(to) },
            port: port_number("port", message.port)?,
            asked,
            allowed: message.allowed,
        })
    }
}

#[cfg(test)]
mod tests {
    use tulle_model::name::NamespacedName;

    use super::*;

    #[test]
    fn a_summary_survives_the_way_and_what_is_none_is_refused() {
        let name = NamespacedName::new("shop", "c");
        for (from, asked) in [
            ("spiffe://mesh.test/ns/shop/sa/web", Wish::Tcp),
            ("192.0.2.7", Wish::Http { method: "GET".into(), path: "/a/{x}".into() }),
            ("outside", Wish::Requests),
            ("spiffe://mesh.test/ns/shop/sa/web", Wish::Grpc { path: "/a.B/C".into() }),
        ] {
            for to in [Callee::Service(name.clone()), Callee::Workload(name.clone())] {
                let asked = asked.clone();
                let summary = Summary { from: from.parse().unwrap(), to, port: 80, asked, allowed: false };
                let message = wire::Summary::new(&summary, 7);
                assert_eq!(message.seconds_ago, 7);
                assert_eq!(Summary::try_from(message.clone()), Ok(summary));
                for spoil in [
                    (|message| message.port = 0) as fn(&mut wire::Summary),
                    |message| message.port = 70_000,
                    |message| message.source = "nobody".to_owned(),
                    |message| message.destination.clear(),
                    |message| message.path = "/".repeat(LONGEST_PATH + 1),
                    |message| message.path = "/a\nb".to_owned(),
                    |message| message.method = "M".repeat(LONGEST_METHOD + 1),
                ] {
                    let mut bad = message.clone();
                    spoil(&mut bad);
                    assert!(Summary::try_from(bad.clone()).is_err(), "{bad:?}");
                }
            }
        }
    }
}
