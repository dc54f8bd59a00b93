//! All that is listed for a workload outside of the mesh, kept so that a name or an address is found without a look at the others.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

use super::{ExternalConfig, FastMap, ServerName};

/// Those of a workload's own namespace first, each in the order of their names.
#[derive(Debug, Clone, Default)]
pub struct ExternalServices(Arc<ExternalIndex>);

/// What lists something: its place among all, and that of the name or range among its own.
type ListedAt = (usize, usize);

#[derive(Debug, Default)]
struct ExternalIndex {
    all: Vec<Arc<ExternalConfig>>,
    /// By the name itself, and by what it is below.
    exact: FastMap<Arc<str>, Vec<ListedAt>>,
    below: FastMap<Arc<str>, Vec<ListedAt>>,
    /// By the range, as its first address and length.
    ranges: FastMap<IpNet, Vec<ListedAt>>,
    /// How long ranges are, of IPv4 and of IPv6.
    lengths: [Vec<u8>; 2],
    originates_tls: bool,
}

impl From<Vec<Arc<ExternalConfig>>> for ExternalServices {
    fn from(all: Vec<Arc<ExternalConfig>>) -> Self {
        let mut index = ExternalIndex::default();
        for (at, service) in all.iter().enumerate() {
            for (place, host) in service.hosts.iter().enumerate() {
                let (names, name) = match host {
                    ServerName::Exact(name) => (&mut index.exact, name),
                    ServerName::Below(suffix) => (&mut index.below, suffix),
                };
                names.entry(name.clone()).or_default().push((at, place));
            }
            for (place, range) in service.ranges.iter().enumerate() {
                index.ranges.entry(range.trunc()).or_default().push((at, place));
                let lengths = &mut index.lengths[usize::from(range.addr().is_ipv6())];
                if !lengths.contains(&range.prefix_len()) {
                    lengths.push(range.prefix_len());
                }
            }
        }
        let originates_tls = all.iter().any(|service| service.originates_tls());
        Self(Arc::new(ExternalIndex { all, originates_tls, ..index }))
    }
}

impl Deref for ExternalServices {
    type Target = [Arc<ExternalConfig>];

    fn deref(&self) -> &Self::Target {
        &self.0.all
    }
}

impl PartialEq for ExternalServices {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.all == other.0.all
    }
}

impl Eq for ExternalServices {}

impl ExternalServices {
    /// Whether TLS is originated at some port of them.
    pub fn originate_tls(&self) -> bool {
        self.0.originates_tls
    }

    /// Whether something lists a host, which is in lower case.
    pub fn list_host(&self, host: &str) -> bool {
        self.names_of(host).next().is_some()
    }

    /// All that list a host, which is in lower case, in their order, each with the place of the name by which it does.
    pub fn by_host(&self, host: &str) -> impl Iterator<Item = (&Arc<ExternalConfig>, usize)> {
        self.in_order(self.names_of(host).flatten().copied().collect())
    }

    /// The same for an address.
    pub fn by_address(&self, address: IpAddr) -> impl Iterator<Item = (&Arc<ExternalConfig>, usize)> {
        let lengths = &self.0.lengths[usize::from(address.is_ipv6())];
        let ranges = lengths.iter().filter_map(|length| {
            let range = IpNet::new(address, *length).ok()?;
            self.0.ranges.get(&range.trunc())
        });
        self.in_order(ranges.flatten().copied().collect())
    }

    fn names_of(&self, host: &str) -> impl Iterator<Item = &Vec<ListedAt>> {
        let ExternalIndex { exact, below, .. } = &*self.0;
        // A name is below what is behind one of its dots, and the first of its labels is not empty.
        let dots = host.match_indices('.').filter(|(at, _)| *at > 0 && !below.is_empty());
        exact.get(host).into_iter().chain(dots.filter_map(|(at, _)| below.get(&host[at + 1..])))
    }

    fn in_order(&self, mut found: Vec<ListedAt>) -> impl Iterator<Item = (&Arc<ExternalConfig>, usize)> {
        found.sort_unstable();
        found.dedup_by_key(|(at, _)| *at);
        found.into_iter().map(|(at, place)| (&self.0.all[at], place))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn services(hosts: &[Vec<String>], ranges: &[Vec<IpNet>]) -> ExternalServices {
        let service = |(at, (hosts, ranges)): (usize, (&Vec<String>, &Vec<IpNet>))| {
            Arc::new(ExternalConfig {
                name: format!("shop/s{at}").parse().unwrap(),
                hosts: hosts.iter().map(|host| ServerName::new(host)).collect(),
                ranges: ranges.clone(),
                ports: Vec::new(),
                policies: Vec::new().into(),
            })
        };
        hosts.iter().zip(ranges).enumerate().map(service).collect::<Vec<_>>().into()
    }

    fn range() -> impl Strategy<Value = IpNet> {
        let v4 = (any::<[u8; 2]>(), 14..=32u8)
            .prop_map(|([a, b], length)| IpNet::new(IpAddr::from([10, 0, a & 3, b & 3]), length).unwrap());
        let v6 = (any::<u8>(), 110..=128u8).prop_map(|(last, length)| {
            IpNet::new(IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(last & 3)]), length).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        /// What is found is what a look at all of them finds.
        #[test]
        fn nothing_is_missed_and_nothing_else_is_found(
            hosts in prop::collection::vec(prop::collection::vec("(\\*\\.)?([ab]\\.){0,2}[ab]", 0..4), 6),
            ranges in prop::collection::vec(prop::collection::vec(range(), 0..3), 6),
            asked in "\\.?([ab]\\.){0,3}[ab]?",
            address in range(),
        ) {
            let all = services(&hosts, &ranges);
            let place = |find: &dyn Fn(&ExternalConfig) -> Option<usize>| -> Vec<_> {
                all.iter().filter_map(|service| Some((service.name.clone(), find(service)?))).collect()
            };
            let by_name = place(&|service| service.hosts.iter().position(|name| name.matches(&asked)));
            let found: Vec<_> = all.by_host(&asked).map(|(of, at)| (of.name.clone(), at)).collect();
            prop_assert_eq!(&found, &by_name);
            prop_assert_eq!(all.list_host(&asked), !by_name.is_empty());
            let address = address.addr();
            let by_range = place(&|service| service.ranges.iter().position(|range| range.contains(&address)));
            let found: Vec<_> = all.by_address(address).map(|(of, at)| (of.name.clone(), at)).collect();
            prop_assert_eq!(found, by_range);
        }
    }

    /// By hand, after a change of how things are found: what a look-up costs does not grow with what is listed.
    #[test]
    #[ignore = "a measurement"]
    fn a_thousand_hosts() {
        for count in [1, 1000, 10_000] {
            let hosts: Vec<_> =
                (0..count).map(|n| vec![format!("h{n}.example.com"), format!("*.w{n}.test")]).collect();
            let ranges = vec![Vec::new(); count];
            let all = services(&hosts, &ranges);
            let last = format!("a.w{}.test", count - 1);
            for (what, host) in [("name", "h0.example.com"), ("wildcard", &last), ("nothing", "none.test")] {
                let started = std::time::Instant::now();
                let found: usize = (0..10_000).map(|_| all.by_host(std::hint::black_box(host)).count()).sum();
                let of_index = started.elapsed() / 10_000;
                let started = std::time::Instant::now();
                let linear =
                    |_| all.iter().filter(|of| of.hosts.iter().any(|name| name.matches(host))).count();
                let same: usize = (0..100).map(linear).sum();
                println!(
                    "{count} {what}: {of_index:?} by the index, {:?} one by one",
                    started.elapsed() / 100
                );
                assert_eq!(found, same * 100);
            }
        }
    }
}
