//! The table of GRPCRoutes, as `kubectl get` shows it.

use crate::columns::Table;
use crate::kinds::route::columns::{columns, table};

pub(super) const TABLE: Table = table(&columns("Host names that the route is for, at a Gateway."));
