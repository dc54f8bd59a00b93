//! Which names the addresses of the outside were resolved for: what connects to one is held to these names. One table a workload.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::FastMap;

/// How many addresses a workload may have; for one more, the one goes whose names are the first to be forgotten.
pub const MOST_ADDRESSES: usize = 4096;
/// How many names an address may have; the same holds for them.
pub const MOST_NAMES: usize = 32;
/// How long a name is kept at least: clients hold on to addresses for longer than DNS says, and what they connect to is held to
/// the name all the same.
pub const SHORTEST: Duration = Duration::from_secs(600);
/// How long at most, whatever the answer says.
pub const LONGEST: Duration = Duration::from_secs(86_400);

/// The names that were resolved, by the addresses that they had.
#[derive(Debug, Default)]
pub struct Resolved {
    names: FastMap<IpAddr, Vec<ResolvedName>>,
}

#[derive(Debug)]
struct ResolvedName {
    name: Arc<str>,
    until: Duration,
}

impl Resolved {
    /// Takes in that a name, in lower case, has that address for so long. `now`: since whenever, the same at each call.
    pub fn enter(&mut self, name: &Arc<str>, address: IpAddr, lasts: Duration, now: Duration) {
        let address = address.to_canonical();
        let until = now + lasts.clamp(SHORTEST, LONGEST);
        if !self.names.contains_key(&address) && self.names.len() >= MOST_ADDRESSES {
            self.make_room(now);
        }
        let names = self.names.entry(address).or_default();
        match names.iter_mut().find(|known| known.name == *name) {
            Some(known) => known.until = known.until.max(until),
            None => {
                if names.len() >= MOST_NAMES
                    && let Some(first) = (0..names.len()).min_by_key(|place| names[*place].until)
                {
                    names.swap_remove(first);
                }
                names.push(ResolvedName { name: name.clone(), until });
            }
        }
    }

    /// The names that an address was resolved for, and still counts as.
    pub fn names(&self, address: IpAddr, now: Duration) -> Vec<Arc<str>> {
        let known = self.names.get(&address.to_canonical()).into_iter().flatten();
        known.filter(|known| known.until > now).map(|known| known.name.clone()).collect()
    }

    fn make_room(&mut self, now: Duration) {
        let last =
            |names: &Vec<ResolvedName>| names.iter().map(|known| known.until).max().unwrap_or_default();
        self.names.retain(|_, names| last(names) > now);
        if self.names.len() >= MOST_ADDRESSES
            && let Some(first) = self.names.iter().min_by_key(|(_, names)| last(names)).map(|(a, _)| *a)
        {
            self.names.remove(&first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn names_last_as_long_as_dns_says_within_bounds() {
        let mut resolved = Resolved::default();
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        for (name, lasts) in [("short", 1), ("long", 3600), ("for-ever", u64::from(u32::MAX))] {
            resolved.enter(&name.into(), address, seconds(lasts), seconds(5));
        }
        let names = |now| resolved.names(address, seconds(now));
        assert_eq!(names(5).len(), 3);
        assert_eq!(names(604).len(), 3);
        assert_eq!(names(605), ["long".into(), "for-ever".into()]);
        assert_eq!(names(3605), ["for-ever".into()]);
        assert!(names(86_405).is_empty());
        // The same address as IPv6 writes it.
        assert_eq!(resolved.names("::ffff:192.0.2.1".parse().unwrap(), seconds(5)).len(), 3);
    }

    #[test]
    fn both_are_bounded() {
        let mut resolved = Resolved::default();
        for number in 0..2 * MOST_ADDRESSES as u32 {
            let name: Arc<str> = "a.example.com".into();
            resolved.enter(&name, IpAddr::V4(number.into()), seconds(600 + u64::from(number)), seconds(0));
        }
        assert_eq!(resolved.names.len(), MOST_ADDRESSES);
        let last = IpAddr::V4((2 * MOST_ADDRESSES as u32 - 1).into());
        assert_eq!(resolved.names(last, seconds(1)).len(), 1);
        assert!(resolved.names(IpAddr::V4(0.into()), seconds(1)).is_empty(), "the first to be forgotten");
        for number in 0..2 * MOST_NAMES as u64 {
            resolved.enter(&format!("{number}.example.com").into(), last, seconds(9000 + number), seconds(0));
        }
        let names = resolved.names(last, seconds(1));
        assert_eq!(names.len(), MOST_NAMES);
        assert!(names.contains(&format!("{}.example.com", 2 * MOST_NAMES - 1).into()));
        // What is forgotten already makes room first.
        resolved.enter(&"b.example.com".into(), "2001:db8::1".parse().unwrap(), seconds(1), seconds(80_000));
        assert!(resolved.names.len() < MOST_ADDRESSES);
    }
}
