//! Who asks, what he may, and what he has done: for the decision over a request, and for the audit log.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::Value;
use tulle_model::kinds::flow::account::{SERVICE_ACCOUNTS, USE, account_to_use};
use tulle_model::kinds::role_binding::RoleBinding;
use tulle_model::rbac::defaults::{self, AUTOUPDATE};
use tulle_model::rbac::{ApiAction, NotCovered, Permit, ResourceAction, covers, role_of, rules_of};
use tulle_model::registry::{Kind, KindId};

use super::flow_runs::RunAction;
use super::path::{Query, Route, Target};
use super::status::Failure;
use super::user::User;
use crate::access::Access;
use crate::audit::diff::masked;
use crate::history::ROLLBACK;
use crate::objects::{ObjectError, WriteCheck};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Something that was written.
pub(super) struct WrittenObject {
    pub(super) kind: &'static Kind,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) before: Option<Value>,
    pub(super) after: Option<Value>,
}

/// What is known of a request for the audit log.
#[derive(Default)]
struct Trail {
    verb: String,
    object: String,
    subresource: String,
    reason: String,
    changes: Vec<WrittenObject>,
    /// What changed that is no object.
    detail: Option<Value>,
    /// What the last write was asked with, until it has succeeded.
    asked: Option<(Option<Value>, Value)>,
}

/// Who acts as the request's user, and the groups that he has asked for.
#[derive(Clone)]
struct Impersonation {
    by: User,
    groups: Vec<String>,
}

impl Impersonation {
    /// Whether he is still known, and may still act as the user.
    fn is_good(&self, access: &Access, name: &str) -> bool {
        let may = |action| access.decide(self.by.asker(), &ApiAction::Resource(action)).is_some();
        self.by.is_good(access, SystemTime::now()) && impersonations(name, &self.groups).all(may)
    }
}

/// What it takes to act as a user with groups.
fn impersonations<'a>(name: &'a str, groups: &'a [String]) -> impl Iterator<Item = ResourceAction<'a>> {
    let action = |resource, namespace, name| ResourceAction {
        verb: "impersonate",
        resource,
        namespace,
        name,
        ..Default::default()
    };
    let user = match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, account)) => action("serviceaccounts", namespace, account),
        None => action("users", "", name),
    };
    std::iter::once(user).chain(groups.iter().map(move |group| action("groups", "", group)))
}

/// A request's user.
pub(super) struct Caller {
    pub(super) user: User,
    impersonation: Option<Impersonation>,
    access: Access,
    trail: Arc<Mutex<Trail>>,
}

/// What the audit log is told of a request.
pub(super) struct AuditTrail {
    pub(super) verb: String,
    pub(super) object: String,
    pub(super) subresource: String,
    pub(super) reason: String,
    pub(super) changes: Vec<WrittenObject>,
    pub(super) detail: Option<Value>,
}

impl Caller {
    pub(super) fn new(user: User, access: Access) -> Self {
        Self { user, impersonation: None, access, trail: Arc::default() }
    }

    pub(super) fn access(&self) -> &Access {
        &self.access
    }

    /// What allows something.
    ///
    /// # Errors
    /// Forbidden, where nothing does.
    pub(super) fn require(&self, action: &ApiAction<'_>) -> Result<Permit, Failure> {
        let decided = self.access.decide(self.user.asker(), action);
        let failure = || Failure::forbidden(&self.user.name, action);
        decided.ok_or_else(failure)
    }

    /// As [`Caller::require`], for what the request is about: the audit log names it.
    pub(super) fn authorize(&self, action: &ApiAction<'_>) -> Result<(), Failure> {
        self.describe(action);
        let permit = self.require(action)?;
        self.trail.lock().reason = permit.to_string();
        Ok(())
    }

    fn describe(&self, action: &ApiAction<'_>) {
        let mut trail = self.trail.lock();
        match action {
            ApiAction::Path { verb, path } => {
                trail.verb = (*verb).to_owned();
                trail.object = (*path).to_owned();
            }
            ApiAction::Resource(action) => {
                trail.verb = action.verb.to_owned();
                trail.object = object_name(action);
                trail.subresource = action.subresource.to_owned();
            }
        }
    }

    /// Lets a user act as another one, if he may (Kubernetes, "User impersonation").
    pub(super) fn impersonate(&mut self, headers: &HeaderMap) -> Result<(), Failure> {
        let texts = |name: &str| -> Result<Vec<String>, Failure> {
            let values = headers.get_all(name).iter();
            let read = values.map(|value| value.to_str().map(str::to_owned));
            read.collect::<Result<_, _>>().map_err(|_| Failure::bad_request(format!("{name} is no text")))
        };
        let (names, groups) = (texts("impersonate-user")?, texts("impersonate-group")?);
        let others = headers.keys().any(|name| {
            let name = name.as_str();
            name.starts_with("impersonate-") && name != "impersonate-user" && name != "impersonate-group"
        });
        let [name] = names.as_slice() else {
            return match names.is_empty() && groups.is_empty() && !others {
                true => Ok(()),
                false => Err(Failure::bad_request("impersonation needs one user: Impersonate-User")),
            };
        };
        if others {
            return Err(Failure::bad_request(
                "users have names and groups here: only Impersonate-User and Impersonate-Group are known",
            ));
        }
        self.require_impersonation(name, &groups)?;
        let by = std::mem::replace(&mut self.user, User::new(name.clone(), groups.clone(), None));
        self.impersonation = Some(Impersonation { by, groups });
        Ok(())
    }

    /// Checks that the user may act as another one, or give him what it takes to act.
    pub(super) fn require_impersonation(&self, name: &str, groups: &[String]) -> Result<(), Failure> {
        impersonations(name, groups).try_for_each(|action| {
            let action = ApiAction::Resource(action);
            self.require(&action).map(drop).inspect_err(|_| self.describe(&action))
        })
    }

    /// Who acts as the user.
    pub(super) fn impersonated_by(&self) -> Option<&str> {
        self.impersonation.as_ref().map(|impersonation| impersonation.by.name.as_str())
    }

    /// An object that was written as its writer may see it: whoever may write a Secret need not be allowed to read it. `name`
    /// is empty for what is seen of many.
    pub(super) fn visible(&self, verb: &str, target: &Target, name: &str, object: Value) -> Value {
        let action = resource(verb, target.kind, "", scope(target, name), name);
        let seen = target.kind.id != KindId::Secret
            || self.access.decide(self.user.asker(), &ApiAction::Resource(action)).is_some();
        if seen { object } else { masked(object) }
    }

    /// Asked of every write of an object: nobody gives away what he does not have, and what was written is remembered.
    pub(super) fn write_check(&self, target: &Target) -> WriteCheck {
        let kind = target.kind;
        let (namespace, subresource) = (target.namespace().to_owned(), target.subresource());
        let (user, access, trail) = (self.user.clone(), self.access.clone(), self.trail.clone());
        let applied = target.name.clone();
        WriteCheck::new(move |current, object| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            let asker = user.asker();
            // Who may change an object need not be allowed to make one (server-side apply).
            if current.is_none() && applied.is_some() {
                let action = resource("create", kind, subresource, &namespace, name);
                if access.decide(asker, &ApiAction::Resource(action)).is_none() {
                    let message = Failure::reason(&user.name, &ApiAction::Resource(action));
                    return Err(forbidden(kind, name, message));
                }
            }
            if kind.id.is_of_roles() {
                check_escalation(&access, &user, (kind, &namespace, name), current, object)?;
            }
            if kind.id == KindId::Flow {
                check_account(&access, &user, (kind, &namespace, name), current, object)?;
            }
            trail.lock().asked = Some((current.cloned(), object.clone()));
            Ok(())
        })
    }

    /// Asked before a deletion: a default role that is gone is back with the next start, with all that it allows, for whoever
    /// is bound to it.
    pub(super) fn check_comes_back(&self, kind: &'static Kind, name: &str) -> Result<(), ObjectError> {
        let Some(rules) = defaults::rules_of_default(kind, name) else { return Ok(()) };
        let (access, asker) = (&self.access, self.user.asker());
        let escalates = ResourceAction {
            verb: "escalate",
            group: RBAC,
            resource: kind.plural,
            name,
            ..Default::default()
        };
        if access.decide(asker, &ApiAction::Resource(escalates)).is_some() {
            return Ok(());
        }
        let covered = access.with(|rbac| covers(&rbac.rules(asker, ""), &rules));
        covered.map_err(|why| forbidden(kind, name, lacking(&self.user, &why)))
    }

    /// A write is tried, or tried again: what was asked for before came to nothing.
    pub(super) fn tries(&self) {
        self.trail.lock().asked = None;
    }

    /// Remembers that the write that was asked for last has succeeded.
    pub(super) async fn wrote(&self, target: &Target, object: &Value) {
        let Some((before, _)) = self.trail.lock().asked.take() else { return };
        self.remember(target.kind, before, Some(object.clone())).await;
    }

    /// Remembers that an object was deleted.
    pub(super) async fn deleted(&self, kind: &'static Kind, object: &Value, gone: bool) {
        let after = (!gone).then(|| object.clone());
        self.remember(kind, Some(object.clone()), after).await;
    }

    async fn remember(&self, kind: &'static Kind, before: Option<Value>, after: Option<Value>) {
        let shown = after.as_ref().or(before.as_ref());
        let text = |field: &str| {
            shown.and_then(|object| object["metadata"][field].as_str()).unwrap_or_default().to_owned()
        };
        let (namespace, name, version) = (text("namespace"), text("name"), text("resourceVersion"));
        self.trail.lock().changes.push(WrittenObject { kind, namespace, name, before, after });
        // The next request is decided by it.
        if kind.id.is_of_roles()
            && let Ok(revision) = version.parse()
        {
            self.access.settled(revision).await;
        }
    }

    /// What it writes was there before.
    pub(super) fn puts_back(&self) {
        self.trail.lock().verb = ROLLBACK.to_owned();
    }

    /// Remembers a change of what is no object.
    pub(super) fn note(&self, detail: Value) {
        self.trail.lock().detail = Some(detail);
    }

    /// What the audit log is told.
    pub(super) fn told(&self) -> AuditTrail {
        let Trail { verb, object, subresource, reason, changes, detail, .. } =
            std::mem::take(&mut *self.trail.lock());
        AuditTrail { verb, object, subresource, reason, changes, detail }
    }

    /// Whether a watch may go on: asked whenever something changes of who may do what.
    pub(super) fn still(&self, target: &Target, name: &str) -> impl Fn() -> bool + Send + Sync + use<> {
        let (access, user, target, name) =
            (self.access.clone(), self.user.clone(), target.clone(), name.to_owned());
        let impersonation = self.impersonation.clone();
        move || {
            let namespace = scope(&target, &name);
            let action = resource("watch", target.kind, target.subresource(), namespace, &name);
            user.is_good(&access, SystemTime::now())
                && impersonation.as_ref().is_none_or(|by| by.is_good(&access, &user.name))
                && access.decide(user.asker(), &ApiAction::Resource(action)).is_some()
        }
    }
}

/// `services/shop/cart`, as the audit log names what was asked for.
fn object_name(action: &ResourceAction<'_>) -> String {
    let mut name = match action.group {
        "" => action.resource.to_owned(),
        group => format!("{}.{group}", action.resource),
    };
    // As a Namespace is in itself.
    let namespace = if action.resource == "namespaces" { "" } else { action.namespace };
    for part in [namespace, action.name].into_iter().filter(|part| !part.is_empty()) {
        name.push('/');
        name.push_str(part);
    }
    name
}

fn resource<'a>(
    verb: &'a str,
    kind: &'static Kind,
    subresource: &'a str,
    namespace: &'a str,
    name: &'a str,
) -> ResourceAction<'a> {
    ResourceAction { verb, group: kind.group, resource: kind.plural, subresource, namespace, name }
}

fn forbidden(kind: &'static Kind, name: &str, message: String) -> ObjectError {
    ObjectError::Forbidden { kind, name: name.to_owned(), message }
}

fn lacking(user: &User, why: &NotCovered) -> String {
    format!(
        "user \"{}\" (groups={:?}) is attempting to grant RBAC permissions not currently held:{why}",
        user.name, user.groups
    )
}

/// Nobody gives away what he does not have (Kubernetes, "Privilege escalation prevention and bootstrapping").
fn check_escalation(
    access: &Access,
    user: &User,
    (kind, namespace, name): (&'static Kind, &str, &str),
    current: Option<&Value>,
    object: &Value,
) -> Result<(), ObjectError> {
    let same = |fields: &[&str]| {
        current.is_some_and(|current| fields.iter().all(|f| current.get(f) == object.get(f)))
    };
    let asker = user.asker();
    let may = |verb: &str, resource: &str, name: &str| {
        let action = ResourceAction { verb, group: RBAC, resource, namespace, name, ..Default::default() };
        access.decide(asker, &ApiAction::Resource(action)).is_some()
    };
    let refused = |why: NotCovered| forbidden(kind, name, lacking(user, &why));
    if matches!(kind.id, KindId::Role | KindId::ClusterRole) {
        let updated = |object: &Value| object["metadata"]["annotations"][AUTOUPDATE] != "false";
        // A default role that is let go of is completed with the next start.
        let let_go = current.is_some_and(|current| !updated(current)) && updated(object);
        let restored = let_go.then(|| defaults::restored(kind, name, object)).flatten();
        if (same(&["rules"]) && restored.is_none()) || may("escalate", kind.plural, name) {
            return Ok(());
        }
        let wanted = restored.unwrap_or_else(|| rules_of(object));
        return access.with(|rbac| covers(&rbac.rules(asker, namespace), &wanted)).map_err(refused);
    }
    if same(&["roleRef", "subjects"]) {
        return Ok(());
    }
    let binding = serde_json::from_value::<RoleBinding>(object.clone())
        .map_err(|error| ObjectError::BadRequest(format!("the binding cannot be read: {error}")))?;
    let role = role_of(namespace, &binding);
    let resource = if binding.role_ref.kind == "ClusterRole" { "clusterroles" } else { "roles" };
    if may("bind", resource, &role.name) {
        return Ok(());
    }
    match access.covers_role(asker, namespace, &role) {
        Some(covered) => covered.map_err(refused),
        // It may come to be anything.
        None => Err(forbidden(
            kind,
            name,
            format!(
                "there is no {} \"{}\" yet: only who may `bind` it may say who has it",
                binding.role_ref.kind, role.name
            ),
        )),
    }
}

/// Nobody has things done as a service account that he may not use.
fn check_account(
    access: &Access,
    user: &User,
    (kind, namespace, name): (&'static Kind, &str, &str),
    current: Option<&Value>,
    flow: &Value,
) -> Result<(), ObjectError> {
    let Some((field, account)) = account_to_use(current, flow) else { return Ok(()) };
    let action = ResourceAction {
        verb: USE,
        resource: SERVICE_ACCOUNTS,
        namespace,
        name: account,
        ..Default::default()
    };
    let action = ApiAction::Resource(action);
    if access.decide(user.asker(), &action).is_some() {
        return Ok(());
    }
    let why = Failure::reason(&user.name, &action);
    let message = format!("{field}: the Flow would do it as service account \"{account}\", and {why}");
    Err(forbidden(kind, name, message))
}

/// What a request wants to do, by its method and path.
pub(super) fn authorize(caller: &Caller, route: &Route, request: &Parts, path: &str) -> Result<(), Failure> {
    match route {
        Route::Objects(target) => {
            let query = Query::parse(request.uri.query());
            let verb = verb(target, request, &query);
            let named = named_by_selector(target, verb, &query);
            let name = target.name.as_deref().or(named.as_deref()).unwrap_or_default();
            let namespace = scope(target, name);
            let action = resource(verb, target.kind, target.subresource(), namespace, name);
            caller.authorize(&ApiAction::Resource(action))
        }
        Route::Review(review) => {
            let (group, resource) = review.resource();
            let action = ResourceAction { verb: "create", group, resource, ..Default::default() };
            caller.authorize(&ApiAction::Resource(action))
        }
        Route::Run { namespace, name, action } => {
            let kind = if *action == RunAction::Start { KindId::Flow } else { KindId::FlowRun };
            let action = resource(action.verb(), kind.kind(), action.name(), namespace, name);
            caller.authorize(&ApiAction::Resource(action))
        }
        // Who may read an object may read what it was, and who may change it may put it back.
        Route::History(target) => {
            let verb = if request.method == http::Method::POST { "update" } else { "get" };
            let name = target.name.as_deref().unwrap_or_default();
            let action = resource(verb, target.kind, "", scope(target, name), name);
            caller.authorize(&ApiAction::Resource(action))
        }
        _ => {
            let verb = request.method.as_str().to_ascii_lowercase();
            caller.authorize(&ApiAction::Path { verb: &verb, path })
        }
    }
}

/// The namespace that roles have to be in. As in Kubernetes, a Namespace is in itself.
fn scope<'a>(target: &'a Target, name: &'a str) -> &'a str {
    if target.kind.id == KindId::Namespace { name } else { target.namespace() }
}

fn verb(target: &Target, request: &Parts, query: &Query) -> &'static str {
    match (request.method.as_str(), target.name.is_some()) {
        ("GET", _) if query.flag("watch") => "watch",
        ("GET", true) => "get",
        ("GET", false) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", true) => "delete",
        ("DELETE", false) => "deletecollection",
        // Nothing is done by others, and no role allows it.
        _ => "other",
    }
}

/// The one object that a list, watch or deletion is about, by its field selector: who may list the object of that name may.
pub(super) fn named_by_selector(target: &Target, verb: &str, query: &Query) -> Option<String> {
    // What others are about is not chosen by a selector: an object in a body has a name of its own.
    if target.name.is_some() || !matches!(verb, "list" | "watch" | "deletecollection") {
        return None;
    }
    let selector = query.get("fieldSelector")?;
    let name = selector.split(',').find_map(|part| {
        let (field, value) = part.split_once('=')?;
        (field.trim() == "metadata.name").then(|| value.trim_start_matches('=').trim())
    })?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::objects::Objects;
    use crate::store::Store;

    /// Somebody else was faster, and has written the same.
    #[tokio::test]
    async fn what_a_failed_attempt_wanted_was_not_written() {
        let store = Store::in_memory();
        let objects = Objects::open(store.clone()).await.unwrap();
        let access = Access::open(objects, store).await.unwrap();
        let caller = Caller::new(User::new("ann".to_owned(), Vec::new(), None), access);
        let Ok(Route::Objects(target)) = super::super::path::parse("/api/v1/namespaces/shop/services/c")
        else {
            panic!()
        };
        let object = json!({ "metadata": { "name": "c" } });
        for (tries_again, changes) in [(false, 1), (true, 0)] {
            caller.trail.lock().asked = Some((None, object.clone()));
            if tries_again {
                caller.tries();
            }
            caller.wrote(&target, &object).await;
            assert_eq!(caller.told().changes.len(), changes);
        }
    }
}
