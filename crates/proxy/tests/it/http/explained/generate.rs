//! Routes and requests by chance, the same ones for a seed.

use serde_json::{Value, json};
use tulle_model::registry::KindId;

/// Numbers that look random (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }

    pub fn percent(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// Services that applications answer for: in plain, on the same node, by a link.
pub const BACKENDS: [&str; 3] = ["b0", "b1", "b2"];
/// All that there are besides `c`: one that nobody answers for, and one that gets copies.
pub const SERVICES: [&str; 5] = ["b0", "b1", "b2", "empty", "copies"];
const PROTOCOLS: [Option<&str>; 3] = [Some("http"), Some("kubernetes.io/h2c"), None];
const ELEMENTS: [&str; 6] = ["/a", "/b", "/ab", "/%61", "/c.d", "/~u"];
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "HEAD"];
const FIELDS: [&str; 3] = ["x-1", "x-2", "x-3"];
const VALUES: [&str; 3] = ["1", "2", "a, b"];
const ORIGINS: [&str; 4] = ["https://a.example", "http://a.example:8080", "https://x.b.example", "null"];

/// The service `c`, as it may declare what it speaks, and the routes of its port.
pub fn table(dice: &mut Dice) -> Vec<(KindId, Value)> {
    let protocol = dice.pick(&PROTOCOLS);
    let mut objects = vec![(KindId::Service, service("c", protocol))];
    objects.extend(SERVICES.iter().map(|name| {
        let protocol = dice.pick(&PROTOCOLS);
        (KindId::Service, service(name, protocol))
    }));
    let kind = if dice.percent(25) { KindId::GrpcRoute } else { KindId::HttpRoute };
    for name in ["r", "s", "t"].into_iter().take(dice.below(4)) {
        // Of the service's namespace, or of the client's.
        let namespace = if dice.percent(80) { "prod" } else { "default" };
        let rules: Vec<Value> = (0..1 + dice.below(3)).map(|_| rule(dice, kind)).collect();
        let parent = json!({ "group": "", "kind": "Service", "name": "c", "namespace": "prod" });
        objects.push((
            kind,
            json!({
                "metadata": { "name": name, "namespace": namespace },
                "spec": { "parentRefs": [parent], "rules": rules },
            }),
        ));
    }
    objects
}

fn service(name: &str, protocol: Option<&str>) -> Value {
    let mut port = json!({ "port": 80 });
    if let Some(protocol) = protocol {
        port["appProtocol"] = json!(protocol);
    }
    json!({ "metadata": { "name": name, "namespace": "prod" }, "spec": { "ports": [port] } })
}

fn rule(dice: &mut Dice, kind: KindId) -> Value {
    let is_grpc = kind == KindId::GrpcRoute;
    let matches: Vec<Value> = (0..dice.below(3)).map(|_| matched(dice, is_grpc)).collect();
    let is_redirect = !is_grpc && dice.percent(12);
    let mut filters = edits(dice, is_grpc);
    if is_redirect {
        filters.push(redirect(dice));
    } else if !is_grpc && dice.percent(20) {
        filters.push(rewrite(dice));
    }
    if !is_redirect && dice.percent(10) {
        let target = json!({ "name": "copies", "namespace": "prod", "port": 80 });
        let mirror = json!({ "backendRef": target, "percent": dice.pick(&[0, 50, 100]) });
        filters.push(json!({ "type": "RequestMirror", "requestMirror": mirror }));
    }
    // A prefix is replaced where each match has one.
    let prefixes = matches.iter().all(|of| of["path"]["type"] == "PathPrefix");
    let replaces = filters.iter().any(|filter| filter.to_string().contains("ReplacePrefixMatch"));
    if replaces && (!prefixes || matches.is_empty()) {
        filters.retain(|filter| !filter.to_string().contains("ReplacePrefixMatch"));
    }
    let mut rule = json!({ "matches": matches, "filters": filters });
    let redirects = filters.iter().any(|filter| filter["type"] == "RequestRedirect");
    if dice.percent(10) {
        rule["name"] = json!(format!("n{}", dice.below(1 << 30)));
    }
    if !redirects {
        let mut names: Vec<&str> = vec!["b0", "b1", "b2", "empty", "nowhere"];
        let backends = (0..dice.pick(&[0, 1, 1, 2, 3])).map(|_| {
            let name = names.remove(dice.below(names.len()));
            let filters = if dice.percent(25) { edits(dice, is_grpc) } else { Vec::new() };
            json!({
                "name": name, "namespace": "prod", "port": 80, "weight": dice.pick(&[0, 1, 1, 3]),
                "filters": filters,
            })
        });
        rule["backendRefs"] = backends.collect();
    }
    if !is_grpc && dice.percent(10) {
        rule["timeouts"] = json!({ "request": "60s" });
    }
    rule
}

fn matched(dice: &mut Dice, is_grpc: bool) -> Value {
    let mut matched = json!({});
    if is_grpc {
        if dice.percent(80) {
            matched["method"] = json!({ "service": dice.pick(&["a.A", "a.B"]) });
            if dice.percent(50) {
                matched["method"]["method"] = json!(dice.pick(&["Get", "Put"]));
            }
        }
    } else {
        if dice.percent(75) {
            let how = dice.pick(&["Exact", "PathPrefix", "PathPrefix", "RegularExpression"]);
            let path = if how == "RegularExpression" { "/a.*".to_owned() } else { path(dice) };
            matched["path"] = json!({ "type": how, "value": path });
        }
        if dice.percent(25) {
            matched["method"] = json!(dice.pick(&METHODS));
        }
        if dice.percent(15) {
            matched["queryParams"] = json!([{ "name": "q", "value": dice.pick(&["1", "a b"]) }]);
        }
    }
    if dice.percent(25) {
        matched["headers"] = json!([{ "name": dice.pick(&FIELDS), "value": dice.pick(&VALUES) }]);
    }
    matched
}

fn path(dice: &mut Dice) -> String {
    let path: String = (0..dice.below(3)).map(|_| dice.pick(&ELEMENTS)).collect();
    if path.is_empty() { "/".to_owned() } else { path }
}

/// What changes fields, and what pages of other origins may do.
fn edits(dice: &mut Dice, is_grpc: bool) -> Vec<Value> {
    let mut filters = Vec::new();
    for (kind, field) in [
        ("RequestHeaderModifier", "requestHeaderModifier"),
        ("ResponseHeaderModifier", "responseHeaderModifier"),
    ] {
        if dice.percent(30) {
            let mut of = |names: &[&str]| -> Vec<Value> {
                let names = names.iter().filter(|_| dice.percent(40)).copied().collect::<Vec<_>>();
                names.iter().map(|name| json!({ "name": name, "value": dice.pick(&VALUES) })).collect()
            };
            let (set, add) = (of(&["X-1", "x-own"]), of(&["x-2", "x-new"]));
            let remove: Vec<&str> = ["X-3", "x-gone"].into_iter().filter(|_| dice.percent(40)).collect();
            let edit = json!({ "set": set, "add": add, "remove": remove });
            filters.push(json!({ "type": kind, (field): edit }));
        }
    }
    if !is_grpc && dice.percent(15) {
        let origins: &[&str] = dice.pick(&[
            &["*"][..],
            &["https://a.example"],
            &["https://*.b.example", "http://a.example:8080"],
            &[],
        ]);
        let mut cors = json!({ "allowOrigins": origins });
        if dice.percent(40) {
            cors["allowCredentials"] = json!(true);
        }
        for field in ["allowMethods", "allowHeaders", "exposeHeaders"] {
            if dice.percent(40) {
                let some = if field == "allowMethods" { ["PUT", "GET"] } else { ["x-1", "x-own"] };
                cors[field] = if dice.percent(30) { json!(["*"]) } else { json!(some) };
            }
        }
        filters.push(json!({ "type": "CORS", "cors": cors }));
    }
    filters
}

fn rewrite(dice: &mut Dice) -> Value {
    let mut rewrite = json!({});
    if dice.percent(50) {
        rewrite["hostname"] = json!("inner.example");
    }
    match dice.below(3) {
        0 => rewrite["path"] = json!({ "type": "ReplaceFullPath", "replaceFullPath": "/all" }),
        1 => {
            let to = dice.pick(&["/", "/new", "/new/er/"]);
            rewrite["path"] = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": to });
        }
        _ => rewrite["hostname"] = json!("other.example"),
    }
    json!({ "type": "URLRewrite", "urlRewrite": rewrite })
}

fn redirect(dice: &mut Dice) -> Value {
    let mut redirect = json!({ "statusCode": dice.pick(&[301, 302, 303, 307, 308]) });
    if dice.percent(40) {
        redirect["scheme"] = json!(dice.pick(&["http", "https"]));
    }
    if dice.percent(40) {
        redirect["hostname"] = json!("away.example");
    }
    if dice.percent(30) {
        redirect["port"] = json!(dice.pick(&[80, 443, 8080]));
    }
    if dice.percent(30) {
        redirect["path"] = json!({ "type": "ReplacePrefixMatch", "replacePrefixMatch": "/new" });
    } else if dice.percent(30) {
        redirect["path"] = json!({ "type": "ReplaceFullPath", "replaceFullPath": "/all" });
    }
    json!({ "type": "RequestRedirect", "requestRedirect": redirect })
}

/// Which connection a request is sent on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    Http1,
    Http2,
}

/// A request that a client sends.
#[derive(Debug, Clone)]
pub struct Asking {
    pub over: Over,
    pub method: &'static str,
    pub path: String,
    pub query: Option<&'static str>,
    /// Without `Host`.
    pub fields: Vec<(&'static str, &'static str)>,
}

pub fn asking(dice: &mut Dice, is_grpc: bool) -> Asking {
    let over = if dice.percent(25) { Over::Http2 } else { Over::Http1 };
    let calls = ["/a.A/Get", "/a.A/Put", "/a.B/Get", "/a.C/Get"];
    let mut path = match is_grpc && dice.percent(80) {
        true => dice.pick(&calls).to_owned(),
        false => path(dice),
    };
    if dice.percent(10) {
        path += dice.pick(&["/", "/..", "/.%2e/x", "/%2F", "//x"]);
    }
    let mut fields = Vec::new();
    let is_call = is_grpc || dice.percent(5);
    if is_call && dice.percent(80) {
        fields.push(("content-type", dice.pick(&["application/grpc", "application/grpc+proto"])));
    }
    while dice.percent(40) {
        let name = dice.pick(&FIELDS);
        fields.push((name, dice.pick(&VALUES)));
    }
    let mut method = if is_call { "POST" } else { dice.pick(&METHODS) };
    if dice.percent(20) {
        fields.push(("origin", dice.pick(&ORIGINS)));
        if dice.percent(60) {
            method = "OPTIONS";
            fields.push(("access-control-request-method", dice.pick(&METHODS)));
            if dice.percent(50) {
                fields.push(("access-control-request-headers", "x-1,x-2"));
            }
        }
    }
    if dice.percent(8) {
        fields.push(("te", if over == Over::Http2 { "trailers" } else { "gzip, Trailers" }));
    }
    if over == Over::Http1 {
        let odd: [&[(&str, &str)]; 12] = [
            &[("connection", "x-mine"), ("x-mine", "1")],
            &[("keep-alive", "timeout=5"), ("proxy-connection", "close")],
            &[("tulle-reason", "no-route")],
            &[("content-length", "0"), ("content-length", "0")],
            &[("content-length", "0"), ("content-length", "1")],
            &[("content-length", "0, 0")],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("upgrade", "h2c;x"), ("connection", "upgrade")],
            &[("upgrade", "h2c"), ("connection", "upgrade, http2-settings"), ("http2-settings", "x")],
            &[("host", "twice.example")],
        ];
        if dice.percent(12) {
            fields.extend(dice.pick(&odd));
        }
    }
    // Those of a cookie are one.
    if dice.percent(1) {
        let line = if dice.percent(70) { ("cookie", "a=1") } else { ("x-4", "1") };
        fields.extend([line; 300]);
    }
    if ["OPTIONS", "TRACE"].contains(&method) && dice.percent(15) {
        fields.push(("max-forwards", dice.pick(&["0", "3", "x"])));
    }
    let query = if dice.percent(30) { Some(dice.pick(&["q=1", "q=a+b", "q=%31&x"])) } else { None };
    Asking { over, method, path, query, fields }
}
