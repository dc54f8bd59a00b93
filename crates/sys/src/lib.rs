//! What Tulle asks of the kernel: cgroups, nftables, original destinations, processes that cannot
//! outlive their parent. All `unsafe` of the project stands here.

pub mod cgroup;
pub mod descriptors;
pub mod memory;
pub mod nft;
pub mod process;
mod socket;

pub use socket::{is_of_same_user, knows_users, original_destination};

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
