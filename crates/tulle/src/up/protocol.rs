//! What a port of `tulle.yaml` may be said to speak: `port: 8080/grpc`, or `appProtocol: grpc`.

use tulle_model::validate::suggest::did_you_mean;

/// What the mesh treats in a way of its own, and `tcp` for everything else: docs/up.md.
const KNOWN: &[&str] =
    &["http", "http1", "http/1.1", "http2", "h2c", "grpc", "grpc-web", "https", "tls", "tcp"];

/// Names of protocols (IANA's registry of services) that pass as bytes, as in a Service of Kubernetes.
const BYTES: &[&str] = &[
    "amqp",
    "amqps",
    "cassandra",
    "ftp",
    "imap",
    "imaps",
    "kafka",
    "ldap",
    "ldaps",
    "memcached",
    "mongo",
    "mongodb",
    "mqtt",
    "mysql",
    "nats",
    "pop3",
    "postgres",
    "postgresql",
    "redis",
    "rediss",
    "rtsp",
    "sip",
    "smtp",
    "ssh",
];

/// What is expected, for messages.
pub const EXPECTED: &str = "http, http2, grpc, tls or tcp is expected";

pub fn is_protocol(text: &str) -> bool {
    problem(text).is_none()
}

/// Why a text is no protocol.
pub fn problem(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    if KNOWN.contains(&lower.as_str()) || BYTES.contains(&lower.as_str()) {
        return None;
    }
    // Everybody may make names under a domain of their own; Kubernetes' are such.
    if let Some((domain, name)) = lower.split_once('/')
        && domain.contains('.')
        && !name.is_empty()
        && tulle_model::name::dns_subdomain_problem(domain).is_none()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    {
        return None;
    }
    Some(match lower.as_str() {
        "udp" | "sctp" => format!("the mesh carries TCP alone, not {}", text.to_ascii_uppercase()),
        "ws" | "wss" | "websocket" => format!("`{text}` is no protocol: WebSockets are `http`"),
        _ => format!("`{text}` is no protocol that is known{}", did_you_mean(&lower, KNOWN.iter().copied())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn protocols_are_known_by_name() {
        for good in ["http", "HTTP", "grpc", "tcp", "redis", "kubernetes.io/h2c", "example.com/x"] {
            assert_eq!(problem(good), None, "{good}");
        }
        assert!(problem("udp").unwrap().contains("TCP alone"));
        assert!(problem("htpp").unwrap().contains("did you mean `http`"));
        for bad in ["", "foo", "a/b", "example.com/", "h t", "ws", "/http"] {
            assert!(problem(bad).is_some(), "{bad}");
        }
    }
}
