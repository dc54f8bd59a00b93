//! What a request's path and query ask for.

use percent_encoding::percent_decode_str;
use tulle_model::registry::{self, Kind};

use super::flow_runs::RunAction;
use super::status::Failure;

/// Objects that a path names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: &'static Kind,
    /// None for all namespaces, and for cluster-wide kinds.
    pub(super) namespace: Option<String>,
    /// None for all objects.
    pub(super) name: Option<String>,
    pub(super) status: bool,
}

impl Target {
    /// The namespace for calls on objects.
    pub(super) fn namespace(&self) -> &str {
        self.namespace.as_deref().unwrap_or_default()
    }

    pub(super) fn subresource(&self) -> &'static str {
        if self.status { "status" } else { "" }
    }
}

/// What a path is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    Objects(Target),
    /// `/api`
    CoreVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Resources {
        group: String,
        version: String,
    },
    /// `/openapi/v2`
    OpenApiV2,
    /// `/openapi/v3`
    OpenApi,
    /// `/openapi/v3/api/v1`, `/openapi/v3/apis/<group>/<version>`
    OpenApiDocument {
        group: String,
        version: String,
    },
    /// Definitions of kinds, which clients ask for where they meet a kind that the schemas lack.
    CustomResourceDefinitions,
    /// `POST` of a `SelfSubjectAccessReview`, `SubjectAccessReview`, `SelfSubjectRulesReview` or `SelfSubjectReview`.
    Review(Review),
    /// A subresource by which runs of Flows are started, looked at and told what to do: the namespace, and the name of the Flow or run.
    Run {
        namespace: String,
        name: String,
        action: RunAction,
    },
    /// What an object was: `/tulle/v1alpha1/history/` and the object's path.
    History(Target),
    /// Everything else: versions, health, views.
    Other(String),
}

impl Route {
    /// The path as roles name it: without a `/` at its end, doubled ones and what is percent-encoded.
    pub(super) fn path(&self, asked: &str) -> String {
        match self {
            Self::Other(path) => format!("/{path}"),
            _ => asked.to_owned(),
        }
    }
}

/// Kinds that are answered and never stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Review {
    Access,
    /// Of somebody else.
    AccessOf,
    Rules,
    Subject,
}

impl Review {
    /// Its group and plural.
    pub(super) fn resource(self) -> (&'static str, &'static str) {
        match self {
            Self::Access => ("authorization.k8s.io", "selfsubjectaccessreviews"),
            Self::AccessOf => ("authorization.k8s.io", "subjectaccessreviews"),
            Self::Rules => ("authorization.k8s.io", "selfsubjectrulesreviews"),
            Self::Subject => ("authentication.k8s.io", "selfsubjectreviews"),
        }
    }
}

/// Reads a path. Paths of the resource API that name nothing that exists are not found.
pub(super) fn parse(path: &str) -> Result<Route, Failure> {
    let mut segments = Vec::new();
    for segment in path.trim_matches('/').split('/').filter(|segment| !segment.is_empty()) {
        let decoded = percent_decode_str(segment).decode_utf8();
        let decoded = decoded.map_err(|_| Failure::bad_request("the path is not valid UTF-8"))?;
        segments.push(decoded.into_owned());
    }
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let group_version = |group: &str, version: &str| (group.to_owned(), version.to_owned());
    match segments.as_slice() {
        ["api"] => Ok(Route::CoreVersions),
        ["apis"] => Ok(Route::Groups),
        ["openapi", "v2"] => Ok(Route::OpenApiV2),
        ["openapi", "v3"] => Ok(Route::OpenApi),
        ["openapi", "v3", "api", version] => {
            let (group, version) = group_version("", version);
            Ok(Route::OpenApiDocument { group, version })
        }
        ["openapi", "v3", "apis", group, version] => {
            let (group, version) = group_version(group, version);
            Ok(Route::OpenApiDocument { group, version })
        }
        ["apis", group] => Ok(Route::Group((*group).to_owned())),
        ["apis", "authorization.k8s.io", "v1", "selfsubjectaccessreviews"] => {
            Ok(Route::Review(Review::Access))
        }
        ["apis", "authorization.k8s.io", "v1", "subjectaccessreviews"] => Ok(Route::Review(Review::AccessOf)),
        ["apis", "authorization.k8s.io", "v1", "selfsubjectrulesreviews"] => Ok(Route::Review(Review::Rules)),
        ["apis", "authentication.k8s.io", "v1", "selfsubjectreviews"] => Ok(Route::Review(Review::Subject)),
        ["apis", "apiextensions.k8s.io", "v1", "customresourcedefinitions"] => {
            Ok(Route::CustomResourceDefinitions)
        }
        ["api", version] => {
            let (group, version) = group_version("", version);
            Ok(Route::Resources { group, version })
        }
        ["apis", group, version] => {
            let (group, version) = group_version(group, version);
            Ok(Route::Resources { group, version })
        }
        ["apis", "tulle.dev", "v1alpha1", "namespaces", namespace, plural, name, action]
            if let Some(action) = RunAction::named(plural, action) =>
        {
            Ok(Route::Run { namespace: (*namespace).to_owned(), name: (*name).to_owned(), action })
        }
        ["api", version, rest @ ..] => objects("", version, rest).map(Route::Objects),
        ["apis", group, version, rest @ ..] => objects(group, version, rest).map(Route::Objects),
        ["tulle", "v1alpha1", "history", rest @ ..] => history(rest).map(Route::History),
        _ => Ok(Route::Other(segments.join("/"))),
    }
}

/// `api/v1/namespaces/shop/services/cart`: one object, by its path.
fn history(rest: &[&str]) -> Result<Target, Failure> {
    let target = match rest {
        ["api", version, rest @ ..] => objects("", version, rest)?,
        ["apis", group, version, rest @ ..] => objects(group, version, rest)?,
        _ => return Err(Failure::no_such_path()),
    };
    if target.name.is_none() || target.status { Err(Failure::no_such_path()) } else { Ok(target) }
}

fn objects(group: &str, version: &str, rest: &[&str]) -> Result<Target, Failure> {
    let served =
        |plural: &str| registry::by_resource(group, version, plural).ok_or_else(Failure::no_such_path);
    let (kind, namespace, rest) = match rest {
        // A namespace is an object too: two segments name it, and `status` its status.
        ["namespaces", namespace, plural, rest @ ..] if !(group.is_empty() && *plural == "status") => {
            let kind = served(plural)?;
            if !kind.namespaced {
                return Err(Failure::no_such_path());
            }
            (kind, Some((*namespace).to_owned()), rest)
        }
        [plural, rest @ ..] => (served(plural)?, None, rest),
        [] => return Err(Failure::no_such_path()),
    };
    let (name, status) = match rest {
        [] => (None, false),
        [name] => (Some((*name).to_owned()), false),
        [name, "status"] if kind.has_status => (Some((*name).to_owned()), true),
        _ => return Err(Failure::no_such_path()),
    };
    if kind.namespaced && namespace.is_none() && name.is_some() {
        return Err(Failure::no_such_path());
    }
    Ok(Target { kind, namespace, name, status })
}

/// The parameters after the `?`.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(query: Option<&str>) -> Self {
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    /// A parameter that is there and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All that a parameter is set to, also to nothing.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// A switch: whatever its value is turns it on (`?watch`, `?watch=1`, Python's `?watch=True`), but for `0` and
    /// `false` in any case. `None`: it is not there.
    pub(super) fn switch(&self, name: &str) -> Option<bool> {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value != "0" && !value.eq_ignore_ascii_case("false"))
    }

    /// A [`switch`](Self::switch) that is off where it is not there.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.switch(name).unwrap_or(false)
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Failure> {
        self.get(name)
            .map(|text| {
                text.parse().map_err(|_| {
                    Failure::bad_request(format!("the parameter {name} must be a number, not \"{text}\""))
                })
            })
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Option<(&'static str, Option<String>, Option<String>, bool)> {
        match parse(path) {
            Ok(Route::Objects(target)) => {
                Some((target.kind.kind, target.namespace, target.name, target.status))
            }
            _ => None,
        }
    }

    #[test]
    fn paths_name_objects() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(target("/api/v1/services"), Some(("Service", None, None, false)));
        assert_eq!(
            target("/api/v1/namespaces/shop/services/c"),
            Some(("Service", some("shop"), some("c"), false))
        );
        assert_eq!(target("/api/v1/namespaces/shop"), Some(("Namespace", None, some("shop"), false)));
        assert_eq!(target("/api/v1/namespaces/shop/status"), Some(("Namespace", None, some("shop"), true)));
        assert_eq!(
            target("/apis/gateway.networking.k8s.io/v1/namespaces/shop/httproutes/r/status"),
            Some(("HTTPRoute", some("shop"), some("r"), true))
        );
        assert_eq!(
            target("/apis/tulle.dev/v1alpha1/meshes/default"),
            Some(("Mesh", None, some("default"), false))
        );
        let version = |version: &str| {
            let path = format!("/apis/gateway.networking.k8s.io/{version}/httproutes");
            parse(&path).ok().and_then(|route| match route {
                Route::Objects(target) => Some(target.kind.version),
                _ => None,
            })
        };
        assert_eq!(["v1", "v1beta1", "v1alpha2"].map(version), [Some("v1"), Some("v1beta1"), None]);
        for nothing in [
            "/api/v1/pods",
            "/api/v2/services",
            "/api/v1/services/c",
            "/apis/tulle.dev/v1alpha1/namespaces/shop/meshes",
            "/api/v1/namespaces/shop/services/c/scale",
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices/e/status",
        ] {
            assert!(parse(nothing).is_err(), "{nothing}");
        }
        let run = parse("/apis/tulle.dev/v1alpha1/namespaces/shop/flowruns/r/cancel").ok();
        let (namespace, name) = ("shop".to_owned(), "r".to_owned());
        assert_eq!(run, Some(Route::Run { namespace, name, action: RunAction::Cancel }));
        assert!(parse("/apis/tulle.dev/v1alpha1/namespaces/shop/flows/r/cancel").is_err());
        assert_eq!(parse("/healthz").ok(), Some(Route::Other("healthz".to_owned())));
    }

    #[test]
    fn switches_are_on_but_for_0_and_false() {
        for (query, on) in [
            ("", None),
            ("force", Some(true)),
            ("force=", Some(true)),
            ("force=true&force=false", Some(true)),
            ("force=1", Some(true)),
            ("force=True", Some(true)),
            ("force=yes", Some(true)),
            ("force=0", Some(false)),
            ("force=false", Some(false)),
            ("force=False", Some(false)),
            ("force=FALSE", Some(false)),
        ] {
            assert_eq!(Query::parse(Some(query)).switch("force"), on, "{query}");
        }
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::parse(Some("labelSelector=a%3Db%2Cc&watch&limit=5&dryRun="));
        assert_eq!(query.get("labelSelector"), Some("a=b,c"));
        assert!(query.flag("watch") && !query.flag("follow"));
        assert_eq!(query.number("limit").ok(), Some(Some(5)));
        assert_eq!(query.get("dryRun"), None);
        let query = Query::parse(Some("dryRun=All&a=b&dryRun&dryRun=x"));
        assert_eq!(query.all("dryRun").collect::<Vec<_>>(), ["All", "", "x"]);
        assert_eq!(query.all("c").next(), None);
    }
}
