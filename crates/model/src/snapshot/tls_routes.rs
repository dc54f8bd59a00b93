//! Which server names of TLS lead where.

use std::sync::Arc;

use super::TcpRule;

/// The host names of a port's TLSRoutes, each once, ordered so that they can be looked up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsRouteTable(Vec<TlsRouteEntry>);

/// A host name, and what happens to connections whose clients ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsRouteEntry {
    pub name: ServerName,
    pub rule: Arc<TcpRule>,
}

/// What clients may name, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServerName {
    Exact(Arc<str>),
    /// Whatever ends with a dot and that, be it one label more or several.
    Below(Arc<str>),
}

impl TlsRouteTable {
    /// Of entries for one name the first counts.
    pub fn new(mut entries: Vec<TlsRouteEntry>) -> Self {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries.dedup_by(|later, first| later.name == first.name);
        Self(entries)
    }

    pub fn entries(&self) -> &[TlsRouteEntry] {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who has that very name.
    pub fn holder(&self, name: &ServerName) -> Option<&Arc<TcpRule>> {
        let at = self.0.binary_search_by(|entry| entry.name.cmp(name)).ok()?;
        Some(&self.0[at].rule)
    }

    /// What decides over connections for `server`, which is in lower case: that name itself, else the longest that it is below
    /// (Gateway API: a wildcard matches a suffix).
    pub fn find(&self, server: &str) -> Option<&Arc<TcpRule>> {
        let found = |below: bool, name: &str| {
            let key = |entry: &TlsRouteEntry| entry.name.is_below();
            let at = self.0.binary_search_by(|entry| (key(entry), entry.name.text()).cmp(&(below, name)));
            at.ok().map(|at| &self.0[at].rule)
        };
        let mut above = server.match_indices('.').map(|(at, _)| &server[at + 1..]);
        found(false, server).or_else(|| above.find_map(|suffix| found(true, suffix)))
    }
}

impl ServerName {
    /// As a route writes it: `a.example.com`, `*.example.com`.
    pub fn new(hostname: &str) -> Self {
        match hostname.strip_prefix("*.") {
            Some(suffix) => Self::Below(suffix.into()),
            None => Self::Exact(hostname.into()),
        }
    }

    /// Whether a host, in lower case, has that name.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => **name == *host,
            Self::Below(suffix) => {
                host.strip_suffix(&**suffix).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    fn is_below(&self) -> bool {
        matches!(self, Self::Below(_))
    }

    fn text(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Below(text) => text,
        }
    }
}

impl std::fmt::Display for ServerName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wildcard = if self.is_below() { "*." } else { "" };
        write!(f, "{wildcard}{}", self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::NamespacedName;

    fn table(entries: &[(&str, &str)]) -> TlsRouteTable {
        let entry = |&(hostname, route): &(&str, &str)| {
            let rule = TcpRule { route: NamespacedName::new("shop", route), backends: Vec::new() };
            TlsRouteEntry { name: ServerName::new(hostname), rule: Arc::new(rule) }
        };
        TlsRouteTable::new(entries.iter().map(entry).collect())
    }

    #[test]
    fn a_whole_name_goes_before_the_longest_that_it_is_below() {
        let table = table(&[
            ("*.example.com", "wide"),
            ("*.a.example.com", "narrow"),
            ("b.a.example.com", "whole"),
            ("a.example.com", "a"),
            ("b.a.example.com", "late"),
            ("*.com", "com"),
            ("localhost", "local"),
        ]);
        let found = |server: &str| table.find(server).map(|rule| rule.route.name.to_string());
        for (server, route) in [
            ("b.a.example.com", "whole"),
            ("c.a.example.com", "narrow"),
            ("c.b.a.example.com", "narrow"),
            ("a.example.com", "a"),
            ("x.example.com", "wide"),
            ("x.y.example.com", "wide"),
            ("example.com", "com"),
            ("xexample.com", "com"),
            ("localhost", "local"),
        ] {
            assert_eq!(found(server).as_deref(), Some(route), "{server}");
        }
        for server in ["com", "", "example.org", ".", "a.localhost", "*.example.org"] {
            assert_eq!(found(server), None, "{server}");
        }
        assert_eq!(table.entries().len(), 6, "each name once");
        assert_eq!(&*table.holder(&ServerName::new("*.com")).unwrap().route.name, "com");
        assert!(table.holder(&ServerName::new("com")).is_none());
        assert_eq!(ServerName::new("*.com").to_string(), "*.com");
    }

    #[test]
    fn looking_up_agrees_with_walking_all() {
        let labels = ["a", "b", "com"];
        let mut names = vec![String::new()];
        for _ in 0..3 {
            let longer = |name: &String| {
                labels.map(|label| if name.is_empty() { label.to_owned() } else { format!("{label}.{name}") })
            };
            names.extend(names.iter().flat_map(longer).collect::<Vec<_>>());
        }
        names.retain(|name| !name.is_empty());
        // Every third of them, in turns whole and as a wildcard.
        let routes: Vec<String> = (names.iter().step_by(3).enumerate())
            .map(|(i, name)| if i % 2 == 0 { name.clone() } else { format!("*.{name}") })
            .collect();
        let entries: Vec<(&str, &str)> = routes.iter().map(|name| (&**name, &**name)).collect();
        let table = table(&entries);
        for server in &names {
            let matching = routes.iter().filter(|route| match route.strip_prefix('*') {
                Some(suffix) => server.ends_with(suffix),
                None => *route == server,
            });
            let best = matching.max_by_key(|route| (!route.starts_with('*'), route.len()));
            let found = table.find(server).map(|rule| rule.route.name.to_string());
            assert_eq!(found.as_ref(), best, "{server}");
        }
    }
}
