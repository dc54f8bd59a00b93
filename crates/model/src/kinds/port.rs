//! What the ports of Services and EndpointSlices share.

use crate::port_settings::Named;
use crate::snapshot::AppProtocol;
use crate::validate::field::{Code, Errors, Field, shown};
use crate::validate::syntax::qualified_name_problem;

/// The mesh carries TCP.
pub(super) fn check_transport(port: &Field<'_>, errors: &mut Errors) {
    if let Some(protocol) = port.get("protocol")
        && let Some(text @ ("UDP" | "SCTP")) = protocol.str()
    {
        let message = format!("`{text}` is not supported: the mesh carries TCP only; leave the port out");
        errors.push(&protocol, Code::NotSupported, message);
    }
}

pub(super) fn check_app_protocol(port: &Field<'_>, errors: &mut Errors) {
    if let Some(protocol) = port.get("appProtocol")
        && let Some(problem) = protocol.str().filter(|p| !p.is_empty()).and_then(qualified_name_problem)
    {
        let message = format!(
            "{} is no protocol: it {problem}; e.g. `http`, `kubernetes.io/h2c`, `grpc`, `tcp`",
            shown(protocol.value)
        );
        errors.invalid(&protocol, message);
    }
}

/// Whether a port with that protocol carries TCP, as those do where none is given.
pub(crate) fn is_tcp(protocol: Option<&str>) -> bool {
    matches!(protocol, None | Some("" | "TCP"))
}

/// A port as annotations name it.
pub(crate) fn named(number: u16, name: &str, protocol: AppProtocol) -> Named<'_> {
    let http1 = matches!(protocol, AppProtocol::Detect | AppProtocol::Http1);
    Named { number, name, http1, bytes: protocol == AppProtocol::Tcp }
}

/// What a port with that `appProtocol` is taken to speak (KEP-3726 for the names of Kubernetes).
pub(crate) fn app_protocol(declared: Option<&str>) -> AppProtocol {
    match declared.unwrap_or_default().to_ascii_lowercase().as_str() {
        "" => AppProtocol::Detect,
        "http" | "http1" | "http/1.1" | "grpc-web" | "kubernetes.io/ws" => AppProtocol::Http1,
        "http2" | "h2c" | "grpc" | "kubernetes.io/h2c" => AppProtocol::Http2,
        _ => AppProtocol::Tcp,
    }
}
