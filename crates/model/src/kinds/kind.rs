//! What there is to know of a kind: its names, its scope, its schema, its table, its checks.

use std::fmt;
use std::hash::{Hash, Hasher};

use jiff::Timestamp;
use serde_json::Value;

use super::id::KindId;
use crate::columns::{Column, Table};
use crate::name::dns_subdomain_problem;
use crate::validate::field::{Errors, Field};

/// Groups and versions.
pub(super) const CORE: (&str, &str) = ("", "v1");
pub(super) const DISCOVERY: (&str, &str) = ("discovery.k8s.io", "v1");
pub(super) const GATEWAY: (&str, &str) = ("gateway.networking.k8s.io", "v1");
pub(crate) const RBAC: (&str, &str) = ("rbac.authorization.k8s.io", "v1");
pub(in crate::kinds) const TULLE: (&str, &str) = ("tulle.dev", "v1alpha1");

/// A resource kind, as API discovery describes it.
///
/// There is one value a kind, in [`crate::registry::KINDS`], and one more for each older version that is served, in
/// [`crate::registry::OLDER`]: pass `&'static Kind` around. Two are equal when their [`KindId`] is.
#[derive(Clone, Copy)]
pub struct Kind {
    pub id: KindId,
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// That of the objects' form: the newest, but for the kinds in [`crate::registry::OLDER`].
    pub version: &'static str,
    /// As in an object's `kind`, e.g. `HTTPRoute`.
    pub kind: &'static str,
    /// As in a URL, e.g. `httproutes`.
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub categories: &'static [&'static str],
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Whether there is a `status` subresource.
    pub has_status: bool,
    /// Whether fields that the kind does not have are dropped, where who writes does not ask for more; else they are errors.
    pub prunes_unknown: bool,
    /// The `kind` of a list of objects, e.g. `HTTPRouteList`.
    pub list_kind: &'static str,
    /// What the kind is, in a sentence.
    pub description: &'static str,
    /// Of its struct, by [`crate::schema::structural::derived`].
    pub(crate) schema: fn() -> Value,
    pub(crate) table: Table,
    /// What makes a text no name of an object.
    pub(crate) name_problem: fn(&str) -> Option<&'static str>,
    /// Says what is wrong with an object, beyond what its schema and its metadata tell.
    pub(crate) check: fn(&Field<'_>, &mut Errors),
    /// Says what is wrong with putting the second in the place of the first.
    pub(crate) check_update: fn(&Field<'_>, &Field<'_>, &mut Errors),
    /// Says what of a valid object nothing comes of.
    pub(crate) warn: fn(&Field<'_>, &mut Errors),
    /// Fills in defaults, beyond those of its schema. The object need not be valid.
    pub(crate) fill_defaults: fn(&mut Value),
}

impl Kind {
    /// A kind in namespaces, with a status, and with nothing to say beyond its schema.
    pub(crate) const fn new(
        id: KindId,
        (group, version): (&'static str, &'static str),
        (kind, list_kind): (&'static str, &'static str),
        (plural, singular): (&'static str, &'static str),
        description: &'static str,
        schema: fn() -> Value,
        table: Table,
    ) -> Self {
        Self {
            id,
            group,
            version,
            kind,
            plural,
            singular,
            short_names: &[],
            categories: &[],
            namespaced: true,
            has_status: true,
            prunes_unknown: true,
            list_kind,
            description,
            schema,
            table,
            name_problem: dns_subdomain_problem,
            check: |_, _| {},
            check_update: |_, _, _| {},
            warn: |_, _| {},
            fill_defaults: |_| {},
        }
    }

    /// The kind in an older version, in which its objects have the same fields.
    pub(crate) const fn in_version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    /// Whether this is not the newest version, in which objects are stored.
    pub fn is_older(&self) -> bool {
        self.version != self.id.kind().version
    }

    /// As in an object's `apiVersion`: `v1`, `gateway.networking.k8s.io/v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    /// `httproutes.gateway.networking.k8s.io`, or `services` for the core group: how kubectl and
    /// `Status` messages name the resource.
    pub fn qualified_name(&self) -> String {
        if self.group.is_empty() { self.plural.to_owned() } else { format!("{}.{}", self.plural, self.group) }
    }

    /// Whether nobody writes its objects: they are kept under another kind, or otherwise, and only shown under this one.
    pub fn is_view(&self) -> bool {
        matches!(self.id, KindId::EventV1 | KindId::FlowRun)
    }

    /// Whether it says where traffic of a Service goes.
    pub fn is_route(&self) -> bool {
        self.group == GATEWAY.0 && self.kind.ends_with("Route")
    }

    /// The columns of a table of objects of this kind, as kubectl shows it.
    pub fn columns(&self) -> &'static [Column] {
        self.table.columns
    }

    /// The cells of `object`'s row in such a table: as many as there are columns.
    pub fn row(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        (self.table.row)(object, now).into_iter().map(Value::String).collect()
    }
}

impl PartialEq for Kind {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Kind {}

impl Hash for Kind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

/// The kind's name, e.g. `HTTPRoute`.
impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}
