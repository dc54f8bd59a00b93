//! The ports that everything listens at where nothing else is said.

pub const API_PORT: u16 = 15014;
pub const NODES_PORT: u16 = 15010;
pub const LINKS_PORT: u16 = 15008;
pub const ADMIN_PORT: u16 = 15020;
