//! What Tulle asks of the kernel: cgroups, nftables, original destinations, processes and who belongs
//! to them. All `unsafe` of the project stands here.

pub mod begun;
pub mod cgroup;
pub mod cgroup_limits;
pub mod conntrack;
pub mod descriptors;
pub mod family;
pub mod listening;
pub mod memory;
pub mod mounts;
mod netlink;
pub mod network;
pub mod nft;
pub mod nft_counters;
pub mod nft_watch;
pub mod peer;
pub mod process;
pub mod restrict;
pub mod run_as;
mod socket;

pub use socket::{
    LISTENER_MARK, NODE_MARK, PROCESS_MARK, is_of_same_user, knows_users, mark_listener, mark_of_node,
    mark_to_process, original_destination, take_diverted,
};

/// How long the host has been up, suspended or not: a clock that nobody sets (CLOCK_BOOTTIME).
///
/// # Errors
/// Where the kernel has no such clock.
pub fn since_boot() -> std::io::Result<std::time::Duration> {
    Ok(nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)?.into())
}

/// What the kernel calls its present boot (random(4)); empty where it does not say. Clones of a host have others.
pub fn boot_id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
