//! The table of TLSRoutes, as `kubectl get` shows it.

use crate::columns::Table;
use crate::kinds::route::columns::{columns, table};

pub(super) const TABLE: Table = table(&columns("Servers that the route is for, as clients name them (SNI)."));
