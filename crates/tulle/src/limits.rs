//! The flags that set a node's limits, the same for `tulle node` and `tulle up`: docs/limits.md.

use std::time::Duration;

use clap::Args;
use tulle_node::Bounds;

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// How long a link to another node may take to open [default: 5s]
    #[arg(long, value_name = "TIME", value_parser = crate::units::parse_time_to_do)]
    link_handshake_timeout: Option<Duration>,
    /// How much memory connections and requests may take, shared fairly by workload [default: half of what
    /// the cgroup allows, or an eighth of the host's]
    #[arg(long, value_name = "SIZE", value_parser = crate::units::parse_memory)]
    memory_limit: Option<u64>,
}

impl LimitArgs {
    /// What the flags say, and the defaults where they say nothing.
    pub fn bounds(&self) -> Bounds {
        let default = Bounds::default();
        Bounds {
            link_handshake: self.link_handshake_timeout.unwrap_or(default.link_handshake),
            memory: self.memory_limit,
            ..default
        }
    }
}
