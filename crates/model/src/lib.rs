//! What Tulle knows about a mesh, with no clock, no socket and no thread: the resource kinds and
//! their validation, names and identities, the compiler from resources to what a proxy runs, and
//! the pure decisions (matching, balancing, detection, retry budgets, clocks) that take `now` and a seed.

pub mod apart;
pub mod audience;
pub mod authorization;
pub mod balance;
pub mod clock;
pub mod columns;
pub mod compile;
pub mod condition;
pub mod decision;
pub mod detect;
pub mod document;
pub mod egress;
pub mod explain;
pub mod exposition;
pub mod fair_share;
pub mod flow;
pub mod fnv;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod grpc;
pub mod head;
pub mod health;
pub mod host;
pub mod identity;
pub mod json_bounds;
pub mod json_pointer;
pub mod kinds;
pub mod kubernetes;
pub mod legible;
pub mod name;
pub mod path;
pub mod policy;
pub mod port_settings;
pub mod rbac;
pub mod registry;
pub mod retry;
pub mod retry_budget;
pub mod routing;
pub mod schema;
pub mod snapshot;
pub mod split;
pub mod staleness;
pub mod stamp;
pub mod summary;
pub mod telemetry;
pub mod validate;
pub mod waiting_room;
