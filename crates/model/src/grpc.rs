//! What the mesh answers itself, as clients of gRPC understand it.

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
}
