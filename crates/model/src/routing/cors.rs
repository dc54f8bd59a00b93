//! What pages of other origins may do (Gateway API v1.6, HTTPCORSFilter; Fetch, section 3.3): the answer to a preflight, by
//! which a browser asks before it sends a request, and the fields by which it knows whether a page may read an answer.
//!
//! The filter has the last word: what an application says of this itself is taken off its answers.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::snapshot::{AllowedOrigins, Cors, Listing, Origin};

const ANY: HeaderValue = HeaderValue::from_static("*");

/// The method that a preflight announces; `None`: the request is none. `header` is that of
/// [`RequestParts`](super::RequestParts).
pub fn announced<T>(method: &str, header: impl Fn(&str) -> Option<T>) -> Option<T> {
    if method != "OPTIONS" {
        return None;
    }
    header(ORIGIN.as_str()).and(header(ACCESS_CONTROL_REQUEST_METHOD.as_str()))
}

/// Makes `answer` that to a preflight with these fields, and says whether its origin is allowed. Where it is not, nothing
/// else is said either.
pub fn answer_preflight(cors: &Cors, request: &HeaderMap, answer: &mut HeaderMap) -> bool {
    let allowed = allowed_origin(cors, request);
    // A browser that sends credentials takes `*` for a name; and for header fields it never means `authorization`.
    let methods = match cors.methods.is_any() && cors.credentials {
        true => request.get(ACCESS_CONTROL_REQUEST_METHOD).cloned(),
        false => cors.methods.text().cloned(),
    };
    let headers = match cors.headers.is_any() {
        true => wanted_headers(request).or_else(|| (!cors.credentials).then_some(ANY)),
        false => cors.headers.text().cloned(),
    };
    let exposed = unless_credentials(cors, &cors.exposed);
    write(cors, allowed.as_ref(), [methods, headers, exposed], answer);
    if allowed.is_some() {
        answer.insert(ACCESS_CONTROL_MAX_AGE, cors.max_age.into());
    }
    allowed.is_some()
}

/// What a request with these fields is answered with as `Access-Control-Allow-Origin`; `None`: its origin is not allowed.
pub fn allowed_origin(cors: &Cors, request: &HeaderMap) -> Option<HeaderValue> {
    let patterns = match &cors.origins {
        // Also to what has no origin, as caches may give the answer to what has one.
        AllowedOrigins::Any if !cors.credentials => return Some(ANY),
        AllowedOrigins::Any => None,
        AllowedOrigins::These(patterns) => Some(patterns),
    };
    let mut given = request.get_all(ORIGIN).iter();
    let (Some(value), None) = (given.next(), given.next()) else { return None };
    let is_allowed = patterns.is_none_or(|patterns| {
        let origin = value.to_str().ok().and_then(Origin::parse);
        origin.is_some_and(|origin| patterns.iter().any(|pattern| pattern.matches(&origin)))
    });
    is_allowed.then(|| value.clone())
}

/// Changes the answer to a request of the origin that is `allowed`.
pub fn mark(cors: &Cors, allowed: Option<&HeaderValue>, answer: &mut HeaderMap) {
    let exposed = match cors.exposed.is_any() && cors.credentials {
        true => names_in(answer),
        false => cors.exposed.text().cloned(),
    };
    let lists = [unless_credentials(cors, &cors.methods), unless_credentials(cors, &cors.headers), exposed];
    write(cors, allowed, lists, answer);
}

/// A list, unless it is `*` where that is but a name.
fn unless_credentials(cors: &Cors, listing: &Listing) -> Option<HeaderValue> {
    listing.text().filter(|_| !(listing.is_any() && cors.credentials)).cloned()
}

/// `lists`: the methods, the fields of requests, and those of answers.
fn write(
    cors: &Cors,
    allowed: Option<&HeaderValue>,
    lists: [Option<HeaderValue>; 3],
    answer: &mut HeaderMap,
) {
    let [methods, headers, exposed] = lists;
    let credentials = cors.credentials.then_some(HeaderValue::from_static("true"));
    for (name, value) in [
        (ACCESS_CONTROL_ALLOW_ORIGIN, allowed.cloned()),
        (ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials),
        (ACCESS_CONTROL_ALLOW_METHODS, methods),
        (ACCESS_CONTROL_ALLOW_HEADERS, headers),
        (ACCESS_CONTROL_EXPOSE_HEADERS, exposed),
        (ACCESS_CONTROL_MAX_AGE, None),
    ] {
        match value.filter(|_| allowed.is_some()) {
            Some(value) => drop(answer.insert(name, value)),
            None => drop(answer.remove(name)),
        }
    }
    let is_the_same_to_all = cors.origins == AllowedOrigins::Any && !cors.credentials;
    if !is_the_same_to_all && !varies_by_origin(answer) {
        answer.append(VARY, HeaderValue::from_static("Origin"));
    }
}

fn varies_by_origin(answer: &HeaderMap) -> bool {
    let lists = answer.get_all(VARY).iter().filter_map(|value| value.to_str().ok());
    let mut names = lists.flat_map(|list| list.split(',')).map(str::trim);
    names.any(|name| name == "*" || name.eq_ignore_ascii_case(ORIGIN.as_str()))
}

/// The fields that a preflight announces.
fn wanted_headers(request: &HeaderMap) -> Option<HeaderValue> {
    let lines: Vec<&[u8]> =
        request.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter().map(HeaderValue::as_bytes).collect();
    if lines.is_empty() {
        return None;
    }
    HeaderValue::from_bytes(&lines.join(&b", "[..])).ok()
}

/// The fields of an answer that a page may not read unless they are named (Fetch, CORS-safelisted response-header name).
fn names_in(answer: &HeaderMap) -> Option<HeaderValue> {
    const READABLE: [&str; 7] = [
        "cache-control",
        "content-language",
        "content-length",
        "content-type",
        "expires",
        "last-modified",
        "pragma",
    ];
    let is_told = |name: &&str| {
        let name = *name;
        // Cookies are never for pages.
        !READABLE.contains(&name) && !name.starts_with("access-control-") && name != "set-cookie"
    };
    let names: Vec<&str> = answer.keys().map(HeaderName::as_str).filter(is_told).collect();
    if names.is_empty() {
        return None;
    }
    HeaderValue::try_from(names.join(", ")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::OriginPattern;

    /// A filter: origins, whether with credentials, methods, header fields, exposed fields.
    type Filter<'a> = (&'a [&'a str], bool, &'a str, &'a str, &'a str);

    fn cors((origins, credentials, methods, headers, exposed): Filter<'_>) -> Cors {
        let list = |text| Listing::new(text).unwrap();
        let origins = match origins {
            ["*"] => AllowedOrigins::Any,
            these => {
                AllowedOrigins::These(these.iter().map(|text| OriginPattern::parse(text).unwrap()).collect())
            }
        };
        let (methods, headers, exposed) = (list(methods), list(headers), list(exposed));
        Cors { index: 0, origins, credentials, methods, headers, exposed, max_age: 5 }
    }

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let field = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        let mut map = HeaderMap::new();
        for (name, value) in fields.iter().map(field) {
            map.append(name, value);
        }
        map
    }

    /// In short, in the order of names: `origin=https://a.example`.
    fn shown(headers: &HeaderMap) -> String {
        let mut shown: Vec<String> = headers
            .iter()
            .map(|(name, value)| {
                let name = name.as_str();
                let short = ["access-control-allow-", "access-control-", ""].into_iter();
                let short = short.filter_map(|prefix| name.strip_prefix(prefix)).next().unwrap();
                format!("{short}={}", value.to_str().unwrap())
            })
            .collect();
        shown.sort();
        shown.join("; ")
    }

    const A: &str = "https://a.example";
    const METHOD: (&str, &str) = ("access-control-request-method", "PUT");
    const HEADERS: (&str, &str) = ("access-control-request-headers", "x-1,authorization");

    #[test]
    fn preflights_are_answered_as_gateway_api_has_it() {
        let origin = ("origin", A);
        let asked = [origin, METHOD, HEADERS];
        let one: &[&str] = &[A];
        for (filter, request, expected) in [
            // What is allowed is told, whatever was asked for: browsers compare.
            (
                (&["https://b.example", A][..], false, "GET, DELETE", "X-1, x-2", "x-3"),
                &asked[..],
                "expose-headers=x-3; headers=X-1, x-2; max-age=5; methods=GET, DELETE; origin=https://a.example; vary=Origin",
            ),
            (
                (one, true, "", "", ""),
                &asked,
                "credentials=true; max-age=5; origin=https://a.example; vary=Origin",
            ),
            // Where the origin is not allowed nothing is said.
            ((&["https://b.example"], true, "GET", "x-1", "x-3"), &asked, "vary=Origin"),
            ((&[], true, "GET", "x-1", "x-3"), &asked, "vary=Origin"),
            ((one, false, "", "", ""), &[origin, ("origin", "https://b.example"), METHOD], "vary=Origin"),
            ((one, false, "", "", ""), &[("origin", "null"), METHOD], "vary=Origin"),
            // Any origin.
            ((&["*"], false, "PUT", "", ""), &asked, "max-age=5; methods=PUT; origin=*"),
            (
                (&["*"], true, "PUT", "", ""),
                &asked,
                "credentials=true; max-age=5; methods=PUT; origin=https://a.example; vary=Origin",
            ),
            (
                (&["*"], true, "", "", ""),
                &[("origin", "null"), METHOD],
                "credentials=true; max-age=5; origin=null; vary=Origin",
            ),
            // Any method, any field.
            (
                (one, false, "*", "*", "*"),
                &asked,
                "expose-headers=*; headers=x-1,authorization; max-age=5; methods=*; origin=https://a.example; vary=Origin",
            ),
            (
                (one, false, "*", "*", "*, authorization"),
                &asked[..2],
                "expose-headers=*, authorization; headers=*; max-age=5; methods=*; origin=https://a.example; vary=Origin",
            ),
            (
                (one, true, "*", "*", "*"),
                &asked,
                "credentials=true; headers=x-1,authorization; max-age=5; methods=PUT; origin=https://a.example; vary=Origin",
            ),
            (
                (one, true, "*", "*", "*"),
                &asked[..2],
                "credentials=true; max-age=5; methods=PUT; origin=https://a.example; vary=Origin",
            ),
            (
                (one, true, "", "*", ""),
                &[origin, METHOD, HEADERS, ("access-control-request-headers", "x-2")],
                "credentials=true; headers=x-1,authorization, x-2; max-age=5; origin=https://a.example; vary=Origin",
            ),
        ] {
            let mut answer = HeaderMap::new();
            let allowed = answer_preflight(&cors(filter), &fields(request), &mut answer);
            assert_eq!(shown(&answer), expected, "{filter:?} {request:?}");
            assert_eq!(allowed, expected.contains("origin="), "{filter:?} {request:?}");
        }
        let mut answer = HeaderMap::new();
        answer_preflight(
            &Cors { max_age: 3600, ..cors((one, false, "", "", "")) },
            &fields(&asked),
            &mut answer,
        );
        assert_eq!(answer["access-control-max-age"], "3600");
    }

    #[test]
    fn answers_say_what_the_filter_says_whatever_the_application_said() {
        let said = [
            ("access-control-allow-origin", "https://evil.org"),
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-methods", "TRACE"),
            ("access-control-allow-headers", "x-evil"),
            ("access-control-expose-headers", "x-evil"),
            ("access-control-max-age", "99"),
        ];
        let own = [
            ("content-type", "text/plain"),
            ("x-1", "a"),
            ("x-1", "b"),
            ("set-cookie", "c=1"),
            ("etag", "e"),
        ];
        let one: &[&str] = &[A];
        for (filter, origin, expected) in [
            (
                (one, false, "GET, PUT", "x-1", "x-2"),
                Some(A),
                "expose-headers=x-2; headers=x-1; methods=GET, PUT; origin=https://a.example; vary=Origin",
            ),
            ((one, false, "GET", "x-1", "x-2"), Some("https://b.example"), "vary=Origin"),
            ((one, false, "GET", "x-1", "x-2"), None, "vary=Origin"),
            ((one, true, "", "", ""), Some(A), "credentials=true; origin=https://a.example; vary=Origin"),
            ((&["*"], false, "*", "*", "*"), Some(A), "expose-headers=*; headers=*; methods=*; origin=*"),
            // A cache may hand that on to a page.
            ((&["*"], false, "", "", ""), None, "origin=*"),
            ((&["*"], true, "", "", ""), None, "vary=Origin"),
            (
                (&["*"], true, "*", "*", "*"),
                Some("null"),
                "credentials=true; expose-headers=etag, x-1; origin=null; vary=Origin",
            ),
        ] {
            let cors = cors(filter);
            let request = match origin {
                Some(origin) => fields(&[("origin", origin), METHOD, HEADERS]),
                None => HeaderMap::new(),
            };
            for said in [&said[..], &[]] {
                let mut answer = fields(&[&own, said].concat());
                mark(&cors, allowed_origin(&cors, &request).as_ref(), &mut answer);
                for (name, value) in &own {
                    assert!(answer.get_all(*name).iter().any(|left| left == value), "{name}: {value} stays");
                }
                own.iter().for_each(|(name, _)| drop(answer.remove(*name)));
                let mut names: Vec<String> = Vec::new();
                if let Some(exposed) = answer.get("access-control-expose-headers") {
                    names.extend(exposed.to_str().unwrap().split(", ").map(str::to_owned));
                    names.sort();
                    let sorted = HeaderValue::try_from(names.join(", ")).unwrap();
                    answer.insert("access-control-expose-headers", sorted);
                }
                assert_eq!(shown(&answer), expected, "{filter:?} {origin:?}");
            }
        }
    }

    #[test]
    fn a_list_of_what_answers_vary_by_is_kept() {
        let cors = cors((&[A], false, "", "", ""));
        for (said, expected) in [
            (&[][..], &["Origin"][..]),
            (&["accept-encoding"], &["accept-encoding", "Origin"]),
            (&["accept, ORIGIN"], &["accept, ORIGIN"]),
            (&["accept", "origin"], &["accept", "origin"]),
            (&["*"], &["*"]),
        ] {
            let said: Vec<_> = said.iter().map(|value| ("vary", *value)).collect();
            let mut answer = fields(&said);
            mark(&cors, None, &mut answer);
            let vary: Vec<_> = answer.get_all("vary").iter().map(|value| value.to_str().unwrap()).collect();
            assert_eq!(vary, expected);
        }
    }

    #[test]
    fn preflights_have_an_origin_and_announce_a_method() {
        for (method, given, expected) in [
            ("OPTIONS", &[("origin", A), METHOD][..], Some("PUT")),
            ("OPTIONS", &[("origin", A)], None),
            ("OPTIONS", &[METHOD], None),
            ("GET", &[("origin", A), METHOD], None),
        ] {
            let headers = fields(given);
            let found = announced(method, |name| headers.get(name)?.to_str().ok());
            assert_eq!(found, expected, "{method} {given:?}");
        }
    }
}
