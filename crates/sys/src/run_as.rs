//! Whom a process runs as: a user and his groups, by the host's databases (passwd(5), group(5)).

use std::ffi::CString;
use std::path::PathBuf;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user and the groups that a process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunAs {
    pub(crate) user: u32,
    pub(crate) group: u32,
    /// All of them.
    pub(crate) groups: Vec<u32>,
    /// `None` for a number that is nobody's.
    known: Option<Known>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    name: String,
    home: PathBuf,
}

/// There is no such user or group, or no way to become him.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoUser {
    #[error("this host has no user `{0}`")]
    User(String),
    #[error("this host has no group `{0}`")]
    Group(String),
    #[error("only root can start processes as another user or group")]
    NotRoot,
    #[error("the user `{0}` cannot be looked up: {1}")]
    LookUp(String, String),
}

impl RunAs {
    /// A user by name or number, with his own groups, or with that one alone, by name or number. A number that is nobody's has
    /// the group of that number.
    ///
    /// # Errors
    /// Where there is none, and where this process could not start any as that one.
    pub fn named(user: &str, group: Option<&str>) -> Result<Self, NoUser> {
        let failed = |e: nix::errno::Errno| NoUser::LookUp(user.to_owned(), e.to_string());
        let number = user.parse::<u32>().ok().filter(|number| *number != u32::MAX);
        let found = match number {
            Some(number) => User::from_uid(Uid::from_raw(number)),
            None => User::from_name(user),
        };
        let found = found.map_err(failed)?;
        let uid = match (&found, number) {
            (Some(found), _) => found.uid.as_raw(),
            (None, Some(number)) => number,
            (None, None) => return Err(NoUser::User(user.to_owned())),
        };
        let own = found.as_ref().map_or(uid, |found| found.gid.as_raw());
        let group = group.map(named_group).transpose()?;
        let groups = match (group, &found) {
            (Some(group), _) => vec![group],
            (None, Some(found)) => {
                let name = CString::new(found.name.as_str()).map_err(|_| NoUser::User(user.to_owned()))?;
                let groups = getgrouplist(&name, Gid::from_raw(own)).map_err(failed)?;
                groups.into_iter().map(Gid::as_raw).collect()
            }
            (None, None) => vec![own],
        };
        let known = found.map(|found| Known { name: found.name, home: found.dir });
        let run_as = Self { user: uid, group: group.unwrap_or(own), groups, known };
        if run_as.is_other() && !crate::is_root() {
            return Err(NoUser::NotRoot);
        }
        Ok(run_as)
    }

    pub fn is_root(&self) -> bool {
        self.user == 0
    }

    /// Whether that is another user or group than this process's.
    fn is_other(&self) -> bool {
        (self.user, self.group) != (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
    }

    /// What a session of that user has in its environment (environ(7)), where he is not the present one.
    pub fn variables(&self) -> Vec<(String, String)> {
        let known = self.known.as_ref().filter(|_| self.user != nix::unistd::geteuid().as_raw());
        let variables = known.map(|Known { name, home }| {
            [("HOME", home.display().to_string()), ("USER", name.clone()), ("LOGNAME", name.clone())]
        });
        variables.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn named_group(group: &str) -> Result<u32, NoUser> {
    if let Some(number) = group.parse::<u32>().ok().filter(|number| *number != u32::MAX) {
        return Ok(number);
    }
    let found = Group::from_name(group).map_err(|e| NoUser::LookUp(group.to_owned(), e.to_string()))?;
    found.map(|found| found.gid.as_raw()).ok_or_else(|| NoUser::Group(group.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_known_by_name_and_number() {
        let own = nix::unistd::geteuid().as_raw();
        let group = nix::unistd::getegid().as_raw();
        let this = RunAs::named(&own.to_string(), Some(&group.to_string())).unwrap();
        assert_eq!((this.user, this.group, this.groups.as_slice()), (own, group, &[group][..]));
        assert!(this.variables().is_empty());
        assert_eq!(this.is_root(), own == 0);
        let nobody = |name: &str, group: Option<&str>| RunAs::named(name, group).unwrap_err();
        assert_eq!(nobody("no-such-user", None), NoUser::User("no-such-user".to_owned()));
        assert_eq!(nobody("", None), NoUser::User(String::new()));
        assert_eq!(
            nobody(&own.to_string(), Some("no-such-group")),
            NoUser::Group("no-such-group".to_owned())
        );
        assert!(RunAs::named("4294967295", None).is_err(), "no number of anybody (setuid(2))");
        if own != 0 {
            assert_eq!(nobody("0", Some("0")), NoUser::NotRoot);
            return;
        }
        let root = RunAs::named("root", None).unwrap();
        assert!(root.is_root() && root.groups.contains(&0));
        let stranger = RunAs::named("3999999999", None).unwrap();
        assert_eq!(
            (stranger.user, stranger.group, stranger.groups.as_slice()),
            (3_999_999_999, 3_999_999_999, &[3_999_999_999][..])
        );
        assert!(stranger.variables().is_empty() && !stranger.is_root());
        if let Ok(Some(known)) = User::from_name("nobody") {
            let nobody = RunAs::named("nobody", None).unwrap();
            assert_eq!((nobody.user, nobody.group), (known.uid.as_raw(), known.gid.as_raw()));
            assert!(nobody.variables().contains(&("USER".to_owned(), "nobody".to_owned())));
        }
    }
}
