//! Stories told from a user's side, with the real binary and clients that we did not write.
#![allow(clippy::unwrap_used)]

mod access;
mod bad_input;
mod chain;
mod completions;
mod documented;
mod egress;
mod egress_in_tls;
mod exit_codes;
mod external;
mod flow_harm;
mod flow_waits;
mod flows;
mod footprint;
mod gateway_api;
mod inbound;
mod kubectl;
mod pods;
mod policies;
mod protocols;
mod published;
mod real_clients;
mod replicas;
mod revoked;
mod rules;
mod run;
mod run_as;
mod server_crash;
mod split;
mod stopping;
mod tokens;
mod two_nodes;
mod up_changes;
mod up_services;
mod up_status;
mod workload_api;
