//! What comes of a route that is being written, for whoever writes it: its status says the same, later.

use std::collections::BTreeMap;

use serde_json::Value;

use super::read::name_of;
use super::route::RouteKey;
use super::{Change, Compiler};
use crate::identity::TrustDomain;
use crate::kinds::route::form::{ParentForm, RouteForm};
use crate::name::ServiceName;
use crate::registry::Kind;
use crate::validate::FieldPath;

/// The Services and Flows that a route names: as parents, as backends, and for copies; each once. None of one that does not read.
pub fn services_of_route(kind: &'static Kind, route: &Value) -> Vec<ServiceName> {
    let Some(compiler) = compiler_of([(kind, route)]) else { return Vec::new() };
    let forms = compiler.routes.values().filter_map(|state| state.form.as_deref());
    let mut names: Vec<_> =
        forms.flat_map(|form| form.parent_services().chain(form.backend_services()).cloned()).collect();
    names.sort();
    names.dedup();
    names
}

/// What is to be told of a route that is written: where it does nothing, what of it decides nothing or leads nowhere; and of
/// `others`, the routes of its namespace, what they lose by it. (Those of other
/// namespaces lose nothing: where they have routes of their own, these replace it.) As far as `named`, the Services and Flows that it names, and `others` tell.
pub fn foretell(
    kind: &'static Kind,
    route: &Value,
    others: &[(&'static Kind, Value)],
    named: &[(&'static Kind, Value)],
) -> Vec<String> {
    let key = RouteKey { kind: kind.id, name: name_of(route, true) };
    let others = || {
        let named = others
            .iter()
            .map(|(kind, other)| (RouteKey { kind: kind.id, name: name_of(other, true) }, *kind, other));
        named.filter(|(other, ..)| *other != key)
    };
    let named = named.iter().map(|(kind, object)| (*kind, object));
    let known = named.chain(others().map(|(_, kind, other)| (kind, other)));
    let Some(mut compiler) = compiler_of(known) else { return Vec::new() };
    let none = BTreeMap::new();
    let before: Vec<_> = others().map(|(other, ..)| (compiler.losses_of(&other, &none), other)).collect();
    compiler.apply(put(kind, route));

    let mut told: Vec<_> =
        compiler.losses_of(&key, &none).into_iter().map(|(field, why)| format!("{field}: {why}")).collect();
    if let Some(state) = compiler.routes.get(&key) {
        told.extend(state.unresolved.iter().map(|(_, message)| message.clone()));
    }
    for (before, other) in before {
        let after = compiler.losses_of(&other, &none).into_iter().filter(|loss| !before.contains(loss));
        told.extend(
            after.map(|(field, why)| format!("{} {}, {field}: {why}", other.kind.kind(), other.name)),
        );
    }
    told
}

/// A compiler that knows these objects, and no others.
pub(super) fn compiler_of<'a>(
    objects: impl IntoIterator<Item = (&'static Kind, &'a Value)>,
) -> Option<Compiler> {
    let mut compiler = Compiler::new(TrustDomain::new("foretold").ok()?);
    compiler.apply_all(objects.into_iter().map(|(kind, object)| put(kind, object)));
    Some(compiler)
}

fn put(kind: &'static Kind, object: &Value) -> Change {
    Change::Put(kind, std::sync::Arc::new(object.clone()))
}

impl Compiler {
    /// Where a route does nothing, or not all that it says: parents, ports of them, and matches, each once.
    /// Services in `made_up` are not known but for their ports, where it says so: of what they speak nothing is said.
    pub(super) fn losses_of(
        &self,
        key: &RouteKey,
        made_up: &BTreeMap<ServiceName, bool>,
    ) -> Vec<(FieldPath, String)> {
        let Some(form) = self.routes.get(key).and_then(|state| state.form.as_deref()) else {
            return Vec::new();
        };
        let mut losses = self.idle_parents(form, made_up);
        losses.extend(self.unreached_of(key));
        losses
    }

    /// The parents at which a route does nothing, or not at all that it names.
    fn idle_parents(
        &self,
        form: &RouteForm,
        made_up: &BTreeMap<ServiceName, bool>,
    ) -> Vec<(FieldPath, String)> {
        let parents = FieldPath::root().field("spec").field("parentRefs");
        let idle = |parent: &ParentForm| {
            let knows_ports = parent.service.as_ref().and_then(|service| made_up.get(service));
            match (self.accept(form, parent), knows_ports) {
                (_, Some(false)) | (Err(("Conflicted", _)) | Ok(_), Some(true)) => Vec::new(),
                (Err((_, why)), _) => vec![format!("the route does nothing there: {why}")],
                (Ok(ports), None) => self.not_there(form, parent, &ports),
            }
        };
        let of_parent = |(index, parent)| idle(parent).into_iter().map(move |why| (index, why));
        let all = form.parents.iter().enumerate().flat_map(of_parent);
        all.map(|(index, why)| (parents.clone().index(index), why)).collect()
    }
}
