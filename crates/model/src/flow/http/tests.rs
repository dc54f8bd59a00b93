use super::*;
use crate::flow::expression::Template;
use crate::flow::workflow::{CallEndpoint, Uri as Address, UriTemplate};

fn arguments(value: Value) -> Arguments {
    Arguments {
        method: value.get("method").cloned().unwrap_or_else(|| json!("get")),
        uri: value["uri"].as_str().unwrap_or("http://a/").to_owned(),
        headers: value["headers"].clone(),
        query: value["query"].clone(),
        body: value.get("body").cloned(),
    }
}

fn call(output: HttpOutput, redirect: bool) -> HttpCall {
    HttpCall {
        method: Template::parse(&json!("get"), &[]).unwrap(),
        endpoint: CallEndpoint { uri: Address::Template(UriTemplate(vec![])), authentication: None },
        headers: None,
        query: None,
        body: None,
        output,
        redirect,
    }
}

#[test]
fn a_request_is_as_its_arguments_say() {
    let request = CallRequest::new(&arguments(json!({
        "method": "post",
        "uri": "http://orders/things?a=1#top",
        "query": { "q": "a b&c", "n": 2, "many": [true, "x"], "none": null },
        "headers": { "X-Tag": 7, "Idempotency-Key": "mine", "X-None": null },
        "body": { "id": 1 },
    })))
    .unwrap();
    assert_eq!(request.method, Method::POST);
    let query = request.uri.query().unwrap().split('&').collect::<std::collections::BTreeSet<_>>();
    assert_eq!(query, ["a=1", "many=true", "many=x", "n=2", "q=a%20b%26c"].into());
    assert_eq!(request.uri.authority().unwrap(), "orders");
    let header = |name| request.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    assert_eq!(
        (header("x-tag"), header("idempotency-key"), header("x-none")),
        (Some("7"), Some("mine"), None)
    );
    assert_eq!(
        (header("content-type"), &*request.body),
        (Some("application/json"), br#"{"id":1}"#.as_slice())
    );
    let none = CallRequest::new(&arguments(json!({}))).unwrap();
    assert!(none.body.is_empty() && none.headers.is_empty(), "{none:?}");
}

#[test]
fn a_body_is_written_as_its_content_type_says() {
    for (media, body, expected) in [
        (None, json!("a"), "\"a\""),
        (None, json!(null), "null"),
        (Some("text/plain; charset=utf-8"), json!("a"), "a"),
        (Some("application/vnd.x+json"), json!("a"), "\"a\""),
        (Some("application/x-www-form-urlencoded"), json!({ "a b": "c&d", "n": 1 }), "a%20b=c%26d&n=1"),
        (Some("text/plain"), json!([1]), "[1]"),
    ] {
        let headers = media.map_or(Value::Null, |media| json!({ "content-type": media }));
        let asked = arguments(json!({ "method": "put", "headers": headers, "body": body }));
        let request = CallRequest::new(&asked).unwrap();
        assert_eq!(String::from_utf8(request.body).unwrap(), expected, "{media:?} {body}");
        assert_eq!(request.headers.get_all(CONTENT_TYPE).iter().count(), 1);
    }
}

#[test]
fn what_makes_no_request_says_why() {
    for (asked, expected) in [
        (json!({ "method": 1 }), "with.method is 1"),
        (json!({ "method": "G ET" }), "no method of HTTP"),
        (json!({ "method": "connect" }), "not for a flow"),
        (json!({ "uri": "orders/x" }), "with.endpoint"),
        (json!({ "uri": "/x" }), "has no scheme"),
        (json!({ "uri": "file:///etc/passwd" }), "of the scheme file"),
        (json!({ "uri": "http://user:password@a/" }), "authentication is the place"),
        (json!({ "uri": "http://a b/" }), "is no URI"),
        (json!({ "uri": "http:///x" }), "with.endpoint"),
        (json!({ "query": [1] }), "with.query is [1]"),
        (json!({ "query": { "a": {} } }), "with.query.a is {}"),
        (json!({ "headers": "x" }), "with.headers is \"x\""),
        (json!({ "headers": { "a b": "x" } }), "with.headers.a b is no header"),
        (json!({ "headers": { "a": "x\r\nb: y" } }), "fits no header"),
        (json!({ "headers": { "Host": "evil" } }), "the connection decides"),
        (json!({ "headers": { "Transfer-Encoding": "chunked" } }), "the connection decides"),
        (json!({ "headers": { "a": [1] } }), "with.headers.a is [1]"),
    ] {
        let fault = CallRequest::new(&arguments(asked.clone())).unwrap_err();
        let detail = fault.detail.clone().unwrap();
        assert!(detail.contains(expected), "{asked}: {detail}");
        assert!(fault.kind.ends_with("/configuration"), "{fault:?}");
    }
}

fn answered(call: &HttpCall, status: u16, media: &str, body: &[u8]) -> Result<Value, Fault> {
    let asked = arguments(json!({ "headers": { "Authorization": "Bearer secret", "x-a": "b" } }));
    let request = CallRequest::new(&asked).unwrap();
    let mut headers = HeaderMap::new();
    if !media.is_empty() {
        headers.insert(CONTENT_TYPE, media.parse().unwrap());
    }
    headers.append("set-cookie", HeaderValue::from_static("a=1"));
    headers.append("set-cookie", HeaderValue::from_static("b=2"));
    let answer = Answer { status: StatusCode::from_u16(status).unwrap(), headers: &headers, body };
    call.output_of(&request, &answer, 1_000)
}

#[test]
fn an_answer_becomes_the_output_that_is_asked_for() {
    let content = call(HttpOutput::Content, false);
    for (media, body, expected) in [
        ("application/json", br#"{"a":[1]}"#.as_slice(), json!({ "a": [1] })),
        ("application/problem+json; charset=utf-8", b"1", json!(1)),
        ("text/plain", b"{}", json!("{}")),
        ("", b"text", json!("text")),
        ("application/octet-stream", &[0xff, 0xfe], json!("//4=")),
        ("application/json", b"", Value::Null),
    ] {
        assert_eq!(answered(&content, 200, media, body), Ok(expected), "{media}");
    }
    let raw = answered(&call(HttpOutput::Raw, false), 201, "application/json", b"{}");
    assert_eq!(raw, Ok(json!("e30=")));
    let whole = answered(&call(HttpOutput::Response, true), 302, "application/json", b"[7]").unwrap();
    assert_eq!((&whole["statusCode"], &whole["content"]), (&json!(302), &json!([7])));
    assert_eq!(whole["headers"]["set-cookie"], "a=1, b=2");
    let expected =
        json!({ "method": "GET", "uri": "http://a/", "headers": { "authorization": "***", "x-a": "b" } });
    assert_eq!(whole["request"], expected);
}

#[test]
fn an_answer_that_is_an_error_is_one() {
    let content = call(HttpOutput::Content, false);
    let of = |status, media, body: &[u8]| answered(&content, status, media, body).unwrap_err();
    let problem = br#"{"title":"Gone away","detail":"the pet has left"}"#;
    for (fault, status, title, detail) in [
        (of(404, "text/plain", b"no such pet"), 404, "Not Found", "it was answered with 404: no such pet"),
        (of(302, "", b""), 302, "Found", "it was answered with 302"),
        (of(410, "application/problem+json", problem), 410, "Gone away", "the pet has left"),
        (of(599, "", b""), 599, "599", "it was answered with 599"),
    ] {
        assert_eq!((fault.status, &*fault.title, fault.detail.as_deref()), (status, title, Some(detail)));
        assert!(fault.kind.ends_with("/communication"), "{fault:?}");
    }
    // What cannot be read, and what is too much.
    let deep = format!("{}1{}", "[".repeat(101), "]".repeat(101));
    for (body, expected) in [
        ("{", "is not: EOF"),
        (deep.as_str(), "nests deeper than 100"),
        (&"[".repeat(100_000), "is not: recursion limit"),
        (&format!("\"{}\"", "x".repeat(1_000)), "over 1000 bytes"),
    ] {
        let fault = of(200, "application/json", body.as_bytes());
        assert!(fault.detail.as_deref().unwrap().contains(expected), "{fault:?}");
    }
    let level = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    assert!(answered(&content, 200, "application/json", level.as_bytes()).is_ok());
    // What is around it comes to it.
    let whole = answered(&call(HttpOutput::Response, false), 200, "application/json", level.as_bytes());
    assert!(whole.unwrap_err().detail.unwrap().contains("nests deeper than 100 as a whole"));
    let long = of(500, "text/plain", &b"x".repeat(10_000));
    assert!(long.detail.unwrap().len() < 600);
}
