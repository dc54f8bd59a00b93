//! What filters of the type CORS must be (Gateway API v1.6: the rules of the CRD, its CEL rules included).

use serde_json::Value;

use crate::snapshot::{AllowedOrigins, Cors, Listing, OriginPattern};
use crate::validate::field::{Errors, Field, Read, Unreadable, shown};
use crate::validate::syntax::header_name_problem;

pub(super) fn check_cors(filter: &Field<'_>, index: u32, errors: &mut Errors) -> Read<Cors> {
    let origins = check_origins(filter, errors);
    let credentials = filter.read("allowCredentials", Value::as_bool);
    let methods = check_names(filter, "allowMethods", true, errors);
    let headers = check_names(filter, "allowHeaders", true, errors);
    let exposed = check_names(filter, "exposeHeaders", false, errors);
    let max_age = filter.read("maxAge", |value| {
        u32::try_from(value.as_i64()?).ok().filter(|age| (1..=i32::MAX as u32).contains(age))
    });
    Ok(Cors {
        index,
        origins: origins?,
        credentials: credentials?.unwrap_or(false),
        methods: methods?,
        headers: headers?,
        exposed: exposed?,
        max_age: max_age?.unwrap_or(Cors::MAX_AGE),
    })
}

fn check_origins(filter: &Field<'_>, errors: &mut Errors) -> Read<AllowedOrigins> {
    let texts = texts(filter, "allowOrigins")?;
    check_wildcard(filter, "allowOrigins", &texts, errors)?;
    if let [(_, "*")] = &*texts {
        return Ok(AllowedOrigins::Any);
    }
    let mut patterns = Vec::new();
    for (field, text) in &texts {
        match OriginPattern::parse(text) {
            Ok(pattern) => patterns.push(pattern),
            Err(problem) => {
                errors.invalid(field, format!("{} is no origin: it {problem}", shown(field.value)))
            }
        }
    }
    if patterns.len() < texts.len() {
        return Err(Unreadable);
    }
    Ok(AllowedOrigins::These(patterns))
}

/// `alone`: `*` is not among others.
fn check_names(filter: &Field<'_>, list: &'static str, alone: bool, errors: &mut Errors) -> Read<Listing> {
    let texts = texts(filter, list)?;
    if alone {
        check_wildcard(filter, list, &texts, errors)?;
    }
    let mut read = Ok(());
    for (field, text) in &texts {
        if let Some(problem) = header_name_problem(text) {
            errors.invalid(field, format!("{} is no name: it {problem}", shown(field.value)));
            read = Err(Unreadable);
        }
    }
    read?;
    let names: Vec<&str> = texts.iter().map(|(_, text)| *text).collect();
    Listing::new(&names.join(", ")).ok_or(Unreadable)
}

fn texts<'a>(filter: &Field<'a>, list: &'static str) -> Read<Vec<(Field<'a>, &'a str)>> {
    filter
        .read_items(list)?
        .map(|field| field.str().map(|text| (field.clone(), text)).ok_or(Unreadable))
        .collect()
}

fn check_wildcard(
    filter: &Field<'_>,
    list: &'static str,
    texts: &[(Field<'_>, &str)],
    errors: &mut Errors,
) -> Read<()> {
    let wildcard = texts.iter().find(|(_, text)| *text == "*").filter(|_| texts.len() > 1);
    let Some((field, _)) = wildcard else { return Ok(()) };
    let path = filter.path.field(list);
    errors.invalid(field, format!("`*` stands for all: remove it, or whatever else {path} has"));
    Err(Unreadable)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds::id::KindId;
    use crate::validate::field::Code;
    use crate::validate::validate;

    /// The fields of the filter that are wrong, each with its code.
    fn wrong(cors: &Value) -> Vec<(String, Code)> {
        let filter = json!({ "type": "CORS", "cors": cors });
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": { "name": "r", "namespace": "shop" },
            "spec": { "rules": [{ "backendRefs": [{ "name": "d", "port": 80, "filters": [filter] }] }] }
        });
        let errors = validate(KindId::HttpRoute.kind(), &route);
        let path = "spec.rules[0].backendRefs[0].filters[0].cors.";
        errors.iter().map(|error| (error.path.to_string().replace(path, ""), error.code)).collect()
    }

    fn read(cors: &Value) -> Read<Cors> {
        check_cors(&Field::root(cors), 3, &mut Errors::default())
    }

    #[test]
    fn filters_are_read_as_they_are_written() {
        let cors = json!({
            "allowOrigins": ["https://www.foo.com", "http://*.Bar.com:8080", "https://*"],
            "allowCredentials": true,
            "allowMethods": ["GET", "OPTIONS"],
            "allowHeaders": ["X-1", "x-2"],
            "exposeHeaders": ["x-3", "*"],
            "maxAge": 3600
        });
        let list = |text| Listing::new(text).unwrap();
        let pattern = |text| OriginPattern::parse(text).unwrap();
        let origins = ["https://www.foo.com", "http://*.bar.com:8080", "https://*:443"].map(pattern);
        let expected = Cors {
            index: 3,
            origins: AllowedOrigins::These(origins.to_vec()),
            credentials: true,
            methods: list("GET, OPTIONS"),
            headers: list("X-1, x-2"),
            exposed: list("x-3, *"),
            max_age: 3600,
        };
        assert_eq!((wrong(&cors), read(&cors)), (vec![], Ok(expected.clone())));
        // What is not said, each by itself, and together.
        let none = Listing::default();
        let nobody = AllowedOrigins::These(vec![]);
        let unsaid = Cors {
            origins: nobody,
            credentials: false,
            methods: none.clone(),
            headers: none.clone(),
            exposed: none,
            max_age: 5,
            ..expected
        };
        assert_eq!((wrong(&json!({})), read(&json!({}))), (vec![], Ok(unsaid.clone())));
        let any = json!({ "allowOrigins": ["*"], "allowMethods": ["*"], "allowHeaders": ["*"] });
        let expected =
            Cors { origins: AllowedOrigins::Any, methods: list("*"), headers: list("*"), ..unsaid };
        assert_eq!((wrong(&any), read(&any)), (vec![], Ok(expected)));
    }

    #[test]
    fn what_the_crd_does_not_allow_is_named_and_never_compiled() {
        use Code::{Duplicate, Invalid, NotSupported, TooLong, TooMany};
        let many = |count: usize, form: fn(usize) -> String| (0..count).map(form).collect::<Vec<_>>();
        for (cors, at, code) in [
            (json!({ "allowOrigins": ["https://a", "*"] }), "allowOrigins[1]", Invalid),
            (json!({ "allowOrigins": ["a.example"] }), "allowOrigins[0]", Invalid),
            (json!({ "allowOrigins": ["https://a", "ftp://a"] }), "allowOrigins[1]", Invalid),
            (json!({ "allowOrigins": ["https://a/"] }), "allowOrigins[0]", Invalid),
            (json!({ "allowOrigins": ["https://a:70000"] }), "allowOrigins[0]", Invalid),
            (json!({ "allowOrigins": ["https://*a"] }), "allowOrigins[0]", Invalid),
            (json!({ "allowMethods": ["GET", "*"] }), "allowMethods[1]", Invalid),
            (json!({ "allowHeaders": ["*", "a"] }), "allowHeaders[0]", Invalid),
            (json!({ "allowHeaders": ["a b"] }), "allowHeaders[0]", Invalid),
            (json!({ "exposeHeaders": ["a", ":b"] }), "exposeHeaders[1]", Invalid),
            (json!({ "maxAge": 0 }), "maxAge", Invalid),
            (json!({ "maxAge": 2_147_483_648_i64 }), "maxAge", Invalid),
        ] {
            assert_eq!(wrong(&cors), [(at.to_owned(), code)], "{cors}");
            assert!(read(&cors).is_err(), "{cors}");
        }
        for (cors, at, code) in [
            (json!({ "allowOrigins": ["https://a", "https://a"] }), "allowOrigins[1]", Duplicate),
            (json!({ "allowMethods": ["get"] }), "allowMethods[0]", NotSupported),
            (json!({ "allowMethods": ["GET", "GET"] }), "allowMethods[1]", Duplicate),
            (json!({ "allowHeaders": ["a", "a"] }), "allowHeaders[1]", Duplicate),
            (json!({ "exposeHeaders": ["a", "a"] }), "exposeHeaders[1]", Duplicate),
            (json!({ "allowOrigins": many(65, |i| format!("https://a{i}")) }), "allowOrigins", TooMany),
            (json!({ "allowHeaders": many(65, |i| format!("a{i}")) }), "allowHeaders", TooMany),
            (json!({ "exposeHeaders": many(65, |i| format!("a{i}")) }), "exposeHeaders", TooMany),
            (json!({ "allowHeaders": ["a".repeat(257)] }), "allowHeaders[0]", TooLong),
            (json!({ "allowOrigins": [format!("https://{}", "a".repeat(250))] }), "allowOrigins[0]", TooLong),
        ] {
            assert_eq!(wrong(&cors), [(at.to_owned(), code)], "{cors}");
        }
    }
}
