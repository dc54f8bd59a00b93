//! What a node calls what it makes on a host: it tells its own from what other nodes of the host have made.

use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

/// The node `name` with the state in `home`: nodes of different homes on one host may have the same name.
pub(crate) fn of_node(name: &str, home: &Path) -> String {
    format!("{name}-{}", of_home(home))
}

/// The end of the scope of every node that has its state in `home`.
pub(crate) fn of_home(home: &Path) -> String {
    let home = std::fs::canonicalize(home).unwrap_or_else(|_| home.to_owned());
    format!("{:08x}", xxh3_64(home.as_os_str().as_encoded_bytes()) as u32)
}

/// Whose things are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Whose {
    /// One node's, by its scope.
    Node(String),
    /// Those of all nodes of a home.
    Home(String),
}

impl Whose {
    /// Whether what has this scope is one of them.
    pub fn is(&self, scope: &str) -> bool {
        match self {
            Self::Node(node) => scope == node,
            Self::Home(home) => scope.strip_suffix(home.as_str()).is_some_and(|name| name.ends_with('-')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_has_nodes_of_many_names() {
        let home = Path::new("/none/such");
        let (one, other) = (of_node("one", home), of_node("two-x", home));
        let of = Whose::Home(of_home(home));
        assert!(of.is(&one) && of.is(&other) && !of.is(&of_node("one", Path::new("/none/other"))));
        let node = Whose::Node(one.clone());
        assert!(node.is(&one) && !node.is(&other) && !node.is(&of_home(home)));
    }
}
