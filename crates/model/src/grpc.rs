//! Calls of gRPC, and what the mesh answers itself as their clients understand it.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

/// Whether a message is one of gRPC: its body consists of messages, and an answer ends with a status in trailers.
/// gRPC-Web's is none.
#[inline]
pub fn is_grpc(headers: &HeaderMap) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).is_some_and(|kind| {
        kind.get(..GRPC.len()).is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(kind.get(GRPC.len()), None | Some(b'+' | b';' | b' ' | b'\t'))
    })
}

/// The `grpc-status` that stands for an answer with that status of HTTP, and its name: as gRPC derives it, but for a
/// backend that is none (Gateway API, GRPCRouteRule.backendRefs).
pub fn code_of(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("13", "INTERNAL"),
        401 => ("16", "UNAUTHENTICATED"),
        403 => ("7", "PERMISSION_DENIED"),
        404 | 501 => ("12", "UNIMPLEMENTED"),
        429 | 500 | 502 | 503 | 504 => ("14", "UNAVAILABLE"),
        _ => ("2", "UNKNOWN"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_has_its_code() {
        for (status, code) in [(400, "13"), (404, "12"), (431, "2"), (500, "14"), (501, "12"), (504, "14")] {
            assert_eq!(code_of(status).0, code, "{status}");
        }
    }

    #[test]
    fn only_grpc_itself_is_grpc() {
        for (kind, is) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/GRPC;x=y", true),
            ("application/grpc ; x=y", true),
            ("application/grpc-web+proto", false),
            ("application/grpcfoo", false),
            ("application/json", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_grpc(&headers), is, "{kind}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
