//! Summaries as the API shows them.

use serde::{Deserialize, Serialize};

use super::{Callee, Comer, Summary, Wish};
use crate::name::NamespacedName;

/// What is said of who is outside of the mesh where its address is not known.
const OUTSIDE: &str = "outside";

/// A summary, in a form that people and other programs read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SummaryView {
    /// A SPIFFE ID, an address outside of the mesh, or `outside`.
    pub source: String,
    pub destination: CalleeView,
    pub port: u16,
    /// `http`, `grpc` or `tcp`.
    pub protocol: String,
    /// Of requests; left out where they are not told apart, as `path`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// Without a query; `{x}` is a segment that varies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// Whether it was let in.
    pub allowed: bool,
    /// In seconds since the epoch.
    pub last_seen: i64,
}

/// Where to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CalleeView {
    /// `Service`, or `Workload` where no Service stands for the port.
    pub kind: String,
    #[serde(flatten)]
    pub name: NamespacedName,
}

/// Why a view is none of a summary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not understood")]
pub struct InvalidSummary(String);

impl SummaryView {
    pub fn new(summary: &Summary, last_seen: i64) -> Self {
        let (kind, name) = match &summary.to {
            Callee::Service(name) => ("Service", name),
            Callee::Workload(name) => ("Workload", name),
        };
        let (protocol, method, path) = match &summary.asked {
            Wish::Tcp => ("tcp", None, None),
            Wish::Http { method, path } => ("http", Some(method), Some(path)),
            Wish::Grpc { path } => ("grpc", None, Some(path)),
            Wish::Requests => ("http", None, None),
        };
        Self {
            source: summary.from.to_string(),
            destination: CalleeView { kind: kind.to_owned(), name: name.clone() },
            port: summary.port,
            protocol: protocol.to_owned(),
            method: method.map(|method| method.to_string()),
            path: path.map(|path| path.to_string()),
            allowed: summary.allowed,
            last_seen,
        }
    }
}

impl TryFrom<&SummaryView> for Summary {
    type Error = InvalidSummary;

    fn try_from(view: &SummaryView) -> Result<Self, InvalidSummary> {
        let name = view.destination.name.clone();
        let to = match view.destination.kind.as_str() {
            "Service" => Callee::Service(name),
            "Workload" => Callee::Workload(name),
            other => return Err(InvalidSummary(other.to_owned())),
        };
        let asked = match (view.protocol.as_str(), &view.method, &view.path) {
            ("tcp", ..) => Wish::Tcp,
            ("http", Some(method), Some(path)) => {
                Wish::Http { method: method.as_str().into(), path: path.as_str().into() }
            }
            ("grpc", _, Some(path)) => Wish::Grpc { path: path.as_str().into() },
            ("http" | "grpc", ..) => Wish::Requests,
            (other, ..) => return Err(InvalidSummary(other.to_owned())),
        };
        Ok(Self { from: view.source.parse()?, to, port: view.port, asked, allowed: view.allowed })
    }
}

impl std::fmt::Display for Comer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mesh(identity) => f.write_str(identity.as_str()),
            Self::Outside(Some(address)) => address.fmt(f),
            Self::Outside(None) => f.write_str(OUTSIDE),
        }
    }
}

impl std::str::FromStr for Comer {
    type Err = InvalidSummary;

    fn from_str(text: &str) -> Result<Self, InvalidSummary> {
        if text == OUTSIDE {
            return Ok(Self::Outside(None));
        }
        let address = text.parse().ok().map(|address| Self::Outside(Some(address)));
        let from = address.or_else(|| text.parse().ok().map(Self::Mesh));
        from.ok_or_else(|| InvalidSummary(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_is_shown_and_read_again() {
        let summary = |from: &str, asked| Summary {
            from: from.parse().unwrap(),
            to: Callee::Service(NamespacedName::new("shop", "c")),
            port: 80,
            asked,
            allowed: true,
        };
        for summary in [
            summary("spiffe://mesh.test/ns/shop/sa/web", Wish::Tcp),
            summary("192.0.2.7", Wish::Http { method: "GET".into(), path: "/{x}".into() }),
            summary("2001:db8::1", Wish::Grpc { path: "/a.B/C".into() }),
            summary("outside", Wish::Requests),
            Summary {
                to: Callee::Workload(NamespacedName::new("shop", "c-1")),
                allowed: false,
                ..summary("outside", Wish::Tcp)
            },
        ] {
            let view = SummaryView::new(&summary, 7);
            let text = serde_json::to_string(&view).unwrap();
            let read: SummaryView = serde_json::from_str(&text).unwrap();
            assert_eq!(Summary::try_from(&read), Ok(summary), "{text}");
        }
    }
}
