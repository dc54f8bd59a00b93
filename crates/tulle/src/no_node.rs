//! What commands say that speak to the node of this host, where there is none.

use std::path::Path;

use crate::exit::{Exit, Failure};

/// Why the node of `home` did not do what it was asked to.
pub fn no_node(home: &Path, error: anyhow::Error) -> Failure {
    use std::io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    let socket = home.join("node.sock");
    let shown = socket.display();
    let Some(io) = error.downcast_ref::<std::io::Error>() else {
        return Failure::new(format!("{error:#}"));
    };
    let failure = match io.kind() {
        PermissionDenied => {
            return Failure::new(format!("no permission to speak to the node: {shown} is its owner's alone"))
                .exit(Exit::Unreachable)
                .help(
                    "use the user who started the node (sudo for root), or --home DIR for a node of your own",
                );
        }
        NotFound => Failure::new(format!("no node runs here: there is no {shown}")),
        ConnectionRefused => Failure::new(format!("no node runs here any more: nobody answers at {shown}")),
        _ => Failure::new(format!("the node cannot be reached at {shown}: {error:#}")),
    };
    failure
        .exit(Exit::Unreachable)
        .help("start one: `tulle up DIR`, or `tulle node`")
        .help("is it elsewhere? Say where: --home DIR")
}
