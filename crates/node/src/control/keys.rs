//! Keys of those who issue tokens, where a token names one that is not known: the server reads them anew.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tulle_wire::node::ReadKeysRequest;

use super::{CALL_DEADLINE, Server, channel};

/// Asks for what the proxy names. Clients try again: what the server does not hear of once, it does the next time.
pub async fn ask_for_keys(server: Server, mut missing: mpsc::Receiver<Arc<str>>) {
    while let Some(source) = missing.recv().await {
        let mut client = server.nodes();
        let call = client.read_keys(ReadKeysRequest { source: source.to_string() });
        match timeout(CALL_DEADLINE, call).await {
            Ok(Ok(_)) => {}
            Ok(Err(status)) => {
                tracing::debug!(%source, "no newer keys: {}", channel::explain_status(&status));
            }
            Err(_) => tracing::debug!(%source, "no newer keys: the server gives no answer"),
        }
    }
}
