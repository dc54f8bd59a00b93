//! Virtual addresses: the address out of `127.64.0.0/10` by which this node's workloads reach a service.
//!
//! An address never moves from one service to another: processes cache it for longer than any TTL
//! says. So the assignments are kept on disk. They start from a hash of the name, so even a node that
//! has lost its disk mostly gives the same addresses again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use tulle_model::apart;
use tulle_model::name::ServiceName;
use xxhash_rust::xxh3::xxh3_64;

use crate::files;
use crate::keeper::Keeper;

/// The range: `127.64.0.0/10`.
const FIRST: u32 = u32::from_be_bytes([127, 64, 0, 0]);
const SIZE: u32 = 1 << 22;

/// How many services get an address, at most.
const MOST: usize = 1 << 16;

/// How many of them single endpoints get. They come and go, and theirs are given to others when all are taken.
pub const MOST_APART: usize = MOST / 2;

/// Whether an address is one of the range.
pub fn is_virtual(address: Ipv4Addr) -> bool {
    (FIRST..FIRST + SIZE).contains(&u32::from(address))
}

/// The assignments, without the file.
#[derive(Debug, Default, PartialEq, Eq)]
struct Table {
    by_service: BTreeMap<ServiceName, Ipv4Addr>,
    by_address: HashMap<Ipv4Addr, ServiceName>,
}

impl Table {
    /// Takes over an assignment; `false` where it clashes with another or is out of range.
    fn insert(&mut self, service: ServiceName, address: Ipv4Addr) -> bool {
        let taken = self.by_service.contains_key(&service) || self.by_address.contains_key(&address);
        if taken || !is_virtual(address) || self.by_service.len() >= MOST {
            return false;
        }
        self.by_address.insert(address, service.clone());
        self.by_service.insert(service, address);
        true
    }

    /// A free address for a service without one, beside those that are about to be given to others.
    fn free_address(&self, service: &ServiceName, promised: &HashSet<Ipv4Addr>) -> Option<Ipv4Addr> {
        if self.by_service.len() + promised.len() >= MOST {
            return None;
        }
        let start = xxh3_64(service.to_string().as_bytes()) % u64::from(SIZE);
        (0..SIZE)
            .map(|i| Ipv4Addr::from(FIRST + (start as u32 + i) % SIZE))
            // Some programs take these for a network's own or its broadcast address.
            .filter(|a| !matches!(a.octets()[3], 0 | 255))
            .find(|a| !self.by_address.contains_key(a) && !promised.contains(a))
    }
}

/// The assignments of a node, kept in a file.
#[derive(Debug)]
pub struct VirtualAddresses {
    file: PathBuf,
    table: Table,
}

/// Addresses for services that had none, with all others.
pub struct Assignment {
    file: PathBuf,
    saved: BTreeMap<String, Ipv4Addr>,
    pub new: Vec<(ServiceName, Ipv4Addr)>,
}

impl Assignment {
    /// Writes it to disk, now or when that takes it. Until then a restart may lose it; as it starts from
    /// the name's hash, the same address is most likely given again.
    pub fn keep(&self, keeper: &Keeper) {
        // Texts are never refused.
        keeper.keep(&self.file, serde_json::to_vec_pretty(&self.saved).unwrap_or_default());
    }
}

impl VirtualAddresses {
    /// Reads the assignments from `file`, if it exists.
    ///
    /// # Errors
    /// Where the file cannot be read. One that makes no sense is replaced by the next assignment.
    pub fn open(file: &Path) -> io::Result<Self> {
        let mut table = Table::default();
        if let Some(content) = files::read_if_there(file)? {
            match serde_json::from_slice::<BTreeMap<String, Ipv4Addr>>(&content) {
                Ok(assignments) => {
                    for (service, address) in assignments {
                        match service.parse() {
                            Ok(service) if table.insert(Clone::clone(&service), address) => {}
                            _ => tracing::warn!("{}: {service}: {address} is ignored", file.display()),
                        }
                    }
                }
                Err(e) => tracing::warn!("{} is ignored: {e}", file.display()),
            }
        }
        Ok(Self { file: file.to_owned(), table })
    }

    /// The address of a service that has one.
    pub fn get(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        self.table.by_service.get(service).copied()
    }

    /// The addresses of services that all have one, in their order.
    pub fn all(&self, services: &[ServiceName]) -> Option<Vec<Ipv4Addr>> {
        services.iter().map(|service| self.get(service)).collect()
    }

    /// New addresses for those of the services that have none; `None` where all have one. They are the services' once
    /// [`Assignment::keep`] was called and it was given to [`VirtualAddresses::enter`]; one assignment after the other.
    ///
    /// # Errors
    /// Where the range is full.
    pub fn assign(&self, services: &[ServiceName]) -> io::Result<Option<Assignment>> {
        let full = || io::Error::other(format!("all {MOST} virtual addresses are taken"));
        let mut new = Vec::new();
        let mut promised = HashSet::new();
        let without: BTreeSet<_> = services.iter().filter(|service| self.get(service).is_none()).collect();
        for service in without {
            let address = self.table.free_address(service, &promised).ok_or_else(full)?;
            promised.insert(address);
            new.push((service.clone(), address));
        }
        if new.is_empty() {
            return Ok(None);
        }
        let all = self.table.by_service.iter().chain(new.iter().map(|(service, address)| (service, address)));
        let saved = all.map(|(service, address)| (service.to_string(), *address)).collect();
        Ok(Some(Assignment { file: self.file.clone(), saved, new }))
    }

    /// Takes over an assignment.
    pub fn enter(&mut self, assignment: &Assignment) {
        for (service, address) in &assignment.new {
            self.table.insert(service.clone(), *address);
        }
    }

    /// How many addresses single endpoints have.
    pub fn apart(&self) -> usize {
        self.table.by_service.keys().filter(|service| apart::parent(service).is_some()).count()
    }

    /// Takes the addresses of single endpoints back of which `is_there` does not know. Returns them.
    pub fn take_back(&mut self, is_there: impl Fn(&ServiceName) -> bool) -> Vec<Ipv4Addr> {
        let gone = |service: &ServiceName| apart::parent(service).is_some() && !is_there(service);
        let mut addresses = Vec::new();
        self.table.by_service.retain(|service, address| {
            let gone = gone(service);
            if gone {
                addresses.push(*address);
            }
            !gone
        });
        for address in &addresses {
            self.table.by_address.remove(address);
        }
        addresses
    }

    /// The service that an address was given to.
    pub fn service(&self, address: Ipv4Addr) -> Option<&ServiceName> {
        self.table.by_address.get(&address)
    }

    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &ServiceName)> {
        self.table.by_address.iter().map(|(a, s)| (IpAddr::V4(*a), s))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assign(addresses: &mut VirtualAddresses, service: &ServiceName) -> Ipv4Addr {
        if let Some(address) = addresses.get(service) {
            return address;
        }
        assign_all(addresses, std::slice::from_ref(service));
        addresses.get(service).unwrap()
    }

    fn assign_all(addresses: &mut VirtualAddresses, services: &[ServiceName]) {
        let assignment = addresses.assign(services).unwrap().unwrap();
        files::write_private(&assignment.file, &serde_json::to_vec(&assignment.saved).unwrap()).unwrap();
        addresses.enter(&assignment);
    }

    #[test]
    fn addresses_stay_over_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("addresses.json");
        let names: Vec<_> = (0..50).map(|i| ServiceName::new("shop", format!("s{i}"))).collect();
        let mut first = VirtualAddresses::open(&file).unwrap();
        let assigned: Vec<_> = names.iter().map(|n| assign(&mut first, n)).collect();
        assert!(assigned.iter().all(|&a| is_virtual(a)));
        let mut second = VirtualAddresses::open(&file).unwrap();
        assert_eq!(first.table, second.table);
        // Whatever the order, and with others there already.
        assign(&mut second, &ServiceName::new("shop", "new"));
        for (name, address) in names.iter().zip(&assigned) {
            assert_eq!(assign(&mut second, name), *address);
            assert_eq!(second.service(*address), Some(name));
        }
    }

    #[test]
    fn many_are_assigned_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("addresses.json");
        let mut addresses = VirtualAddresses::open(&file).unwrap();
        let old = ServiceName::new("shop", "old");
        let kept = assign(&mut addresses, &old);
        // So many that some have hashes in common; and one twice.
        let mut names: Vec<_> = (0..20_000).map(|i| ServiceName::new("shop", format!("s{i}"))).collect();
        let starts: BTreeSet<_> =
            names.iter().map(|n| addresses.table.free_address(n, &HashSet::new()).unwrap()).collect();
        assert!(starts.len() < names.len());
        names.extend([names[0].clone(), old.clone()]);
        assign_all(&mut addresses, &names);
        let all = addresses.all(&names).unwrap();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 20_001);
        assert_eq!((all[20_000], all[20_001]), (all[0], kept));
        assert!(addresses.assign(&names).unwrap().is_none());
        assert_eq!(VirtualAddresses::open(&file).unwrap().table, addresses.table);
        // All or none.
        let more: Vec<_> = (0..MOST - 20_000).map(|i| ServiceName::new("more", format!("s{i}"))).collect();
        assert!(addresses.assign(&more).is_err());
        assert_eq!(addresses.assign(&more[1..]).unwrap().unwrap().new.len(), MOST - 20_001);
        assert_eq!((addresses.all(&more[..1]), addresses.all(&[])), (None, Some(Vec::new())));
    }

    #[test]
    fn clashing_hashes_get_different_addresses() {
        let name = ServiceName::new("a", "b");
        let mut table = Table::default();
        let first = table.free_address(&name, &HashSet::new()).unwrap();
        assert!(table.insert(ServiceName::new("x", "y"), first));
        let second = table.free_address(&name, &HashSet::new()).unwrap();
        assert_ne!(first, second);
        assert!(!table.insert(name.clone(), first), "taken");
        assert!(!table.insert(name, Ipv4Addr::new(127, 0, 0, 1)), "out of range");
    }

    #[test]
    fn addresses_of_endpoints_that_are_gone_are_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let mut addresses = VirtualAddresses::open(&folder.path().join("addresses.json")).unwrap();
        let names = ["db", "db-0.db", "db-1.db"].map(|name| ServiceName::new("shop", name));
        let [_, _, gone] = names.each_ref().map(|name| assign(&mut addresses, name));
        assert_eq!(addresses.apart(), 2);
        assert_eq!(addresses.take_back(|name| *name == names[1]), [gone]);
        assert_eq!((addresses.apart(), addresses.service(gone)), (1, None));
        assert!(addresses.get(&names[0]).is_some() && addresses.get(&names[1]).is_some());
    }

    #[test]
    fn a_broken_file_is_no_reason_to_fail() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("addresses.json");
        for broken in ["", "{", r#"{"a":"127.64.0.1"}"#, r#"{"a/b":"10.0.0.1"}"#] {
            std::fs::write(&file, broken).unwrap();
            let mut addresses = VirtualAddresses::open(&file).unwrap();
            assign(&mut addresses, &ServiceName::new("shop", "cart"));
        }
    }
}
