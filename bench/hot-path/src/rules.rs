//! What an HTTPRoute may make of a request, each alone: what it costs is what a request costs more than under a rule that
//! makes nothing of it.

use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::{Context, Result, anyhow, bail};
use clap::ValueEnum;
use tulle_model::compile::{Change, Compiler};
use tulle_model::document;
use tulle_model::identity::TrustDomain;
use tulle_model::name::{NamespacedName, ServiceName, WorkloadName};
use tulle_model::registry::KindId;
use tulle_model::snapshot::{HttpRouteTable, WorkloadConfig};

/// Routes of `ManyRoutes`.
const MANY: usize = 1000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Rules {
    /// No route at all
    NoRoute,
    /// One rule, which sends all on
    OneRule,
    /// A rule that sets a field of the request
    RequestHeader,
    /// A rule that sets a field of the answer
    ResponseHeader,
    /// A rule that replaces the beginning of the path
    Rewrite,
    /// A rule that bounds the time of the request
    RequestTimeout,
    /// The same of each attempt
    BackendTimeout,
    /// A rule that says how often a request is tried again
    Retry,
    /// A rule that sends a copy of each request elsewhere
    Mirror,
    /// A rule that says what pages of other origins may do, of a request that comes from none
    Cors,
    /// A rule whose clients stay with their endpoint, of one that is new
    Session,
    /// A thousand rules by exact path, prefix and method, one of which fits
    ManyRoutes,
    /// No policy, of a workload that the server has spoken of
    NoPolicies,
    /// A thousand AuthorizationPolicies with twenty rules each, twenty of them about the workload, by source and port
    ManyPolicies,
    /// The same by source, method and path
    ManyRequestPolicies,
    /// The same by method and path alone: all rules are about every caller
    ManyAnybodyPolicies,
}

/// AuthorizationPolicies, how many of them are about the workload, and the rules of each.
const POLICIES: usize = 1000;
const OWN_POLICIES: usize = 20;
const POLICY_RULES: usize = 20;

impl Rules {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// What the routes of the service with that port become, where it has any.
    pub fn compile(self, service: &ServiceName, port: u16) -> Result<HttpRouteTable> {
        let mut compiler = Compiler::new(TrustDomain::new("bench.test")?);
        let name = &service.name;
        let object = format!(
            "{{kind: Service, apiVersion: v1, metadata: {{name: {name}}}, spec: {{ports: [{{port: {port}}}]}}}}"
        );
        put(&mut compiler, KindId::Service, &object)?;
        for (index, rules) in self.rules(name, port).chunks(16).enumerate() {
            let mut route = format!(
                "kind: HTTPRoute\napiVersion: gateway.networking.k8s.io/v1\nmetadata: {{name: r{index}}}\nspec:\n  \
                 parentRefs: [{{group: '', kind: Service, name: {name}}}]\n  rules:\n"
            );
            rules.iter().for_each(|rule| writeln!(route, "  - {{{rule}}}").unwrap_or_default());
            put(&mut compiler, KindId::HttpRoute, &route)?;
        }
        let config = compiler.service(service).context("the service is not compiled")?;
        Ok(config.port(port).context("its port is not compiled")?.http_routes.clone())
    }

    /// What the node of the service's workload is told of it, where there are policies. `client`: the account that calls.
    pub fn workload(self, name: &WorkloadName, client: &str) -> Result<Option<Arc<WorkloadConfig>>> {
        let policies = match self {
            Self::NoPolicies => 0,
            Self::ManyPolicies | Self::ManyRequestPolicies | Self::ManyAnybodyPolicies => POLICIES,
            _ => return Ok(None),
        };
        let mut compiler = Compiler::new(TrustDomain::new("bench.test")?);
        let object = format!(
            "{{kind: Workload, apiVersion: tulle.dev/v1alpha1, metadata: {{name: {}, labels: {{app: own}}}}, \
             spec: {{address: 127.0.0.1, node: {{name: near, linkAddress: '127.0.0.1:1'}}}}}}",
            name.name
        );
        put(&mut compiler, KindId::Workload, &object)?;
        for policy in 0..policies {
            let app = if policy % (POLICIES / OWN_POLICIES) == 0 { "own" } else { "other" };
            let mut object = format!(
                "kind: AuthorizationPolicy\napiVersion: tulle.dev/v1alpha1\nmetadata: {{name: p{policy}}}\nspec:\n  \
                 targetRefs: [{{group: tulle.dev, kind: Workload, selector: {{matchLabels: {{app: {app}}}}}}}]\n  \
                 action: Allow\n  rules:\n"
            );
            for rule in 0..POLICY_RULES {
                // The last rule of the last policy about the workload fits.
                let fits = policy == POLICIES - POLICIES / OWN_POLICIES && rule == POLICY_RULES - 1;
                let (account, path) = match fits {
                    true => (client.to_owned(), "/1024".to_owned()),
                    false => (format!("a{}", policy * POLICY_RULES + rule), format!("/p{policy}/r{rule}")),
                };
                let source =
                    format!("sources: [{{type: ServiceAccount, serviceAccount: {{name: {account}}}}}]");
                let request = format!("http: {{methods: [GET], paths: [{{value: {path}}}]}}");
                let says = match self {
                    Self::ManyPolicies => source,
                    Self::ManyRequestPolicies => format!("{source}, {request}"),
                    _ => request,
                };
                writeln!(object, "  - {{{says}}}")?;
            }
            put(&mut compiler, KindId::AuthorizationPolicy, &object)?;
        }
        Ok(compiler.workload(name).map(|local| local.config.clone()))
    }

    /// Its rules, in YAML.
    fn rules(self, name: &str, port: u16) -> Vec<String> {
        let on = format!("backendRefs: [{{name: {name}, port: {port}}}]");
        let field = "set: [{name: x-field, value: value}]";
        let more = match self {
            Self::NoRoute
            | Self::NoPolicies
            | Self::ManyPolicies
            | Self::ManyRequestPolicies
            | Self::ManyAnybodyPolicies => {
                return Vec::new();
            }
            Self::ManyRoutes => {
                let condition = |index: usize| match index % 3 {
                    0 => format!("path: {{type: Exact, value: /exact/{index}}}"),
                    1 => format!("path: {{value: /prefix/{index}}}"),
                    _ => format!("path: {{value: /method/{index}}}, method: PUT"),
                };
                let others = (0..MANY - 1).map(|index| format!("matches: [{{{}}}], {on}", condition(index)));
                return others.chain([format!("matches: [{{path: {{value: /1024}}}}], {on}")]).collect();
            }
            Self::OneRule => String::new(),
            Self::RequestHeader => filter("RequestHeaderModifier", "requestHeaderModifier", field),
            Self::ResponseHeader => filter("ResponseHeaderModifier", "responseHeaderModifier", field),
            Self::Rewrite => filter(
                "URLRewrite",
                "urlRewrite",
                "path: {type: ReplacePrefixMatch, replacePrefixMatch: /api}",
            ),
            Self::RequestTimeout => "timeouts: {request: 10s}, ".to_owned(),
            Self::BackendTimeout => "timeouts: {backendRequest: 10s}, ".to_owned(),
            Self::Retry => "retry: {codes: [503], attempts: 3}, ".to_owned(),
            Self::Mirror => filter(
                "RequestMirror",
                "requestMirror",
                &format!("backendRef: {{name: {name}, port: {port}}}"),
            ),
            Self::Cors => filter("CORS", "cors", "allowOrigins: ['https://a.example'], allowMethods: [GET]"),
            Self::Session => "sessionPersistence: {sessionName: s}, ".to_owned(),
        };
        vec![format!("matches: [{{path: {{value: /1024}}}}], {more}{on}")]
    }
}

fn filter(kind: &str, field: &str, says: &str) -> String {
    format!("filters: [{{type: {kind}, {field}: {{{says}}}}}], ")
}

fn put(compiler: &mut Compiler, kind: KindId, text: &str) -> Result<()> {
    let object = document::parse(text).map_err(|e| anyhow!("{text}: {e:?}"))?.remove(0).value;
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let name = NamespacedName::new("default", name);
    compiler.apply(Change::Put(kind.kind(), Arc::new(object)));
    match compiler.problem(kind.kind(), &name) {
        Some(problem) => bail!("{text}: {problem:?}"),
        None => Ok(()),
    }
}
