//! Two hosts with a wire between them, a server and a node on the first, a node on the second.

use std::time::Duration;

use crate::harness::{Home, Hosts, Process, eventually};

const PATIENCE: Duration = Duration::from_secs(15);

/// A mesh of two hosts, `one` and `two`.
pub struct TwoHosts {
    pub server: Process,
    pub node_one: Process,
    pub node_two: Process,
    pub one: Home,
    pub two: Home,
    pub hosts: Hosts,
}

impl TwoHosts {
    #[track_caller]
    pub fn start() -> Self {
        let hosts = Hosts::new();
        let [first, second] = hosts.addresses;
        let (one, two) = (Home::in_netns(&hosts.names[0]), Home::in_netns(&hosts.names[1]));
        let listen = [format!("{first}:15010"), format!("{first}:15014")];
        let server = one.start(&["server", "--listen-nodes", &listen[0], "--listen-api", &listen[1]]);
        eventually("an answer of the API", PATIENCE, || {
            one.tulle(&["get", "namespaces"]).status.success().then_some(())
        });
        let node = |home: &Home, name: &str, address: &str| {
            let token = one.tulle(&["token", "create"]).ok().trim().to_owned();
            let arguments =
                ["node", "--name", name, "--server", &listen[0], "--token", &token, "--advertise", address];
            let process = home.start(&arguments);
            eventually("the node's socket", PATIENCE, || {
                home.path().join("node.sock").exists().then_some(())
            });
            process
        };
        let (node_one, node_two) = (node(&one, "one", first), node(&two, "two", second));
        Self { server, node_one, node_two, one, two, hosts }
    }
}
