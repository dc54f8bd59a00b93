//! Asking by gRPC: `envoy.service.auth.v3.Authorization/Check` (Envoy's ext_authz), a call with one message each way.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Version};
use prost::Message;
use tulle_model::snapshot::external::{EditAction, ExternalAuth, ExternalEdits, TooManyEdits};

use super::messages::{
    AttributeContext, CHECK, CheckRequest, CheckResponse, CheckedAddress, CheckedHttp, CheckedPeer,
    CheckedRequest, CheckedSocket, HeaderValueOption, HttpResponse, UnixTime,
};
use super::{MOST_BODY, TOO_MANY, denial};
use crate::http::grpc::{MESSAGE, STATUS};
use crate::inquiry::{Admitted, Comer, Finding, Inquiry};

/// What stands before each message (gRPC over HTTP/2, Length-Prefixed-Message).
const PREFIX: usize = 5;
const UNKNOWN_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The head and the body of the call. `now`: milliseconds since the epoch; `id`: of a request that has none.
pub(super) fn question(asked: &Inquiry<'_>, now: i64, id: u64) -> (Parts, Bytes) {
    let Inquiry { workload, process, external, .. } = asked;
    let mut head = Request::new(()).into_parts().0;
    head.method = Method::POST;
    head.version = Version::HTTP_2;
    let host = format!("{}.{}:{}", external.service.name, external.service.namespace, external.port);
    head.uri = super::uri(&host, CHECK).unwrap_or_default();
    let timeout = HeaderValue::try_from(format!("{}m", external.timeout.as_millis()));
    head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    head.headers.insert(TE, HeaderValue::from_static("trailers"));
    head.headers.extend(timeout.ok().map(|timeout| (HeaderName::from_static("grpc-timeout"), timeout)));
    let message = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(source(asked.source)),
            destination: Some(CheckedPeer {
                address: Some(address(*process)),
                principal: workload.identity.to_string(),
            }),
            request: Some(CheckedRequest {
                time: Some(UnixTime {
                    seconds: now.div_euclid(1000),
                    nanos: now.rem_euclid(1000) as i32 * 1_000_000,
                }),
                http: Some(checked(asked, id)),
            }),
        }),
    };
    (head, framed(&message))
}

fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    // There is room: a buffer grows.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

fn source(comer: Comer<'_>) -> CheckedPeer {
    match comer {
        Comer::Mesh(identity) => CheckedPeer { address: None, principal: identity.to_string() },
        Comer::Outside(from) => CheckedPeer { address: Some(address(from)), principal: String::new() },
    }
}

fn address(of: std::net::SocketAddr) -> CheckedAddress {
    let address = of.ip().to_canonical().to_string();
    CheckedAddress { socket_address: Some(CheckedSocket { address, port_value: Some(of.port().into()) }) }
}

fn checked(Inquiry { external, head, body, .. }: &Inquiry<'_>, id: u64) -> CheckedHttp {
    let text = |name: &HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    let host = head.uri.authority().map_or("", |authority| authority.as_str()).to_owned();
    let scheme = head.uri.scheme_str().unwrap_or("http").to_owned();
    let told = external.told(&head.headers).into_iter();
    let mut headers: std::collections::BTreeMap<_, _> =
        told.map(|(name, value)| (name.as_str().to_owned(), value.into_owned())).collect();
    if tells_all(external) {
        // As Envoy does.
        let pseudo = [
            (":method", head.method.as_str()),
            (":path", &path),
            (":authority", &host),
            (":scheme", &scheme),
        ];
        headers.extend(pseudo.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let length = text(&CONTENT_LENGTH).and_then(|length| length.parse().ok());
    let kept = body.clone().unwrap_or_default();
    let (body_text, raw_body) = match std::str::from_utf8(&kept) {
        Ok(text) => (text.to_owned(), Bytes::new()),
        Err(_) => (String::new(), kept.clone()),
    };
    CheckedHttp {
        id: text(&UNKNOWN_ID).map_or_else(|| format!("{id:016x}"), str::to_owned),
        method: head.method.to_string(),
        headers,
        path,
        host,
        scheme,
        size: body.as_ref().map(|body| body.len() as i64).or(length).unwrap_or(-1),
        protocol: if head.version == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" }.to_owned(),
        body: body_text,
        raw_body,
    }
}

fn tells_all(external: &ExternalAuth) -> bool {
    use tulle_model::snapshot::external::ExternalProtocol::Grpc;
    matches!(&external.protocol, Grpc { headers } if headers.is_empty())
}

/// The message in an answer of HTTP, and what stands after it; why there is none.
pub(super) fn unwrap(head: &HeaderMap, trailers: &HeaderMap, body: Bytes) -> Result<Bytes, String> {
    let status = trailers.get(STATUS).or(head.get(STATUS));
    match status.map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(status) => {
            let said = trailers.get(MESSAGE).or(head.get(MESSAGE)).and_then(|said| said.to_str().ok());
            let said: String = said.unwrap_or_default().chars().take(200).collect();
            return Err(format!("answered with grpc-status {} {said}", String::from_utf8_lossy(status)));
        }
        None => return Err("answered without a grpc-status".to_owned()),
    }
    let length = match body.get(..PREFIX) {
        Some(&[0, a, b, c, d]) => u32::from_be_bytes([a, b, c, d]) as usize,
        Some(_) => return Err("answered in a compressed message".to_owned()),
        None => return Err("answered without a message".to_owned()),
    };
    if body.len() - PREFIX != length {
        return Err("answered with what is not one message".to_owned());
    }
    Ok(body.slice(PREFIX..))
}

/// What a message says of a request whose head is `asked`.
pub(super) fn answer(asked: &Parts, message: &[u8]) -> Result<Finding, String> {
    let response = CheckResponse::decode(message).map_err(|_| "answered with what is no CheckResponse")?;
    let Some(status) = &response.status else { return Err("answered without a status".to_owned()) };
    let too_many = |TooManyEdits| TOO_MANY.to_owned();
    match (status.code, response.http_response) {
        (0, None) => Ok(Finding::Admits(Admitted::default())),
        (0, Some(HttpResponse::Ok(ok))) => {
            if !(ok.query_parameters_to_set.is_empty() && ok.query_parameters_to_remove.is_empty()) {
                return Err("wants the query changed, which is not done here".to_owned());
            }
            let mut admitted = Admitted::default();
            for name in &ok.headers_to_remove {
                admitted.request.push(name.as_bytes(), b"", EditAction::Remove).map_err(too_many)?;
            }
            edit(&mut admitted.request, &ok.headers, EditAction::Set).map_err(too_many)?;
            edit(&mut admitted.response, &ok.response_headers_to_add, EditAction::Append)
                .map_err(too_many)?;
            Ok(Finding::Admits(admitted))
        }
        (0, Some(HttpResponse::Denied(_))) => Err("lets it in and denies it in one answer".to_owned()),
        (_, Some(HttpResponse::Denied(denied))) => {
            let body = if denied.body.len() > MOST_BODY { String::new() } else { denied.body };
            let mut edits = ExternalEdits::default();
            // It denies with as many of them as are taken. Of one name there may be several, as of `Set-Cookie`.
            let _: Result<(), TooManyEdits> = edit(&mut edits, &denied.headers, EditAction::Append);
            let code = denied.status.map_or(403, |status| u16::try_from(status.code).unwrap_or(403));
            Ok(Finding::Denies(denial(asked, code, &edits, body.into())))
        }
        (_, None | Some(HttpResponse::Ok(_))) => {
            Ok(Finding::Denies(denial(asked, 403, &ExternalEdits::default(), Bytes::new())))
        }
    }
}

/// Notes what an answer has done to headers; `usual`: where it does not say how.
fn edit(
    edits: &mut ExternalEdits,
    options: &[HeaderValueOption],
    usual: EditAction,
) -> Result<(), TooManyEdits> {
    for option in options {
        let Some(header) = &option.header else { continue };
        // The older field counts where it is there (Envoy's documentation of it).
        let action = match (option.append.map(|append| append.value), option.append_action) {
            (Some(true), _) => EditAction::Append,
            (Some(false), _) => EditAction::Set,
            (None, 1) => EditAction::SetIfAbsent,
            (None, 2) => EditAction::Set,
            (None, 3) => EditAction::SetIfPresent,
            (None, _) => usual,
        };
        let value = if header.value.is_empty() { &header.raw_value[..] } else { header.value.as_bytes() };
        edits.push(header.key.as_bytes(), value, action)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::messages::{
        DeniedHttpResponse, HttpStatus, NamedValue, OkHttpResponse, RpcStatus, WrappedBool,
    };
    use super::*;

    fn asked(kind: &'static str) -> Parts {
        Request::post("http://c/x").header(CONTENT_TYPE, kind).body(()).unwrap().into_parts().0
    }

    fn said(code: i32, http_response: Option<HttpResponse>) -> Vec<u8> {
        CheckResponse { status: Some(RpcStatus { code }), http_response }.encode_to_vec()
    }

    fn option(key: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
        let header = NamedValue { key: key.into(), value: value.into(), raw_value: Vec::new() };
        let append = append.map(|value| WrappedBool { value });
        HeaderValueOption { header: Some(header), append, append_action }
    }

    fn outcome(kind: &'static str, message: &[u8]) -> String {
        match answer(&asked(kind), message) {
            Ok(Finding::Admits(Admitted { request, response })) => {
                let mut headers = HeaderMap::new();
                headers.insert("x-a", HeaderValue::from_static("0"));
                let mut answer = headers.clone();
                request.apply(&mut headers);
                response.apply(&mut answer);
                let shown = |headers: &HeaderMap| {
                    let all =
                        headers.iter().map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
                    all.collect::<Vec<_>>().join(" ")
                };
                format!("in {} / {}", shown(&headers), shown(&answer))
            }
            Ok(Finding::Denies(mut answer)) => {
                let text = answer.body_mut().take_whole().unwrap();
                let named = answer.headers().contains_key("x-a");
                format!("out {} {} {named}", answer.status().as_u16(), String::from_utf8_lossy(&text))
            }
            Err(why) => why,
        }
    }

    #[test]
    fn an_answer_says_what_becomes_of_the_request() {
        let ok =
            |headers, added| OkHttpResponse { headers, response_headers_to_add: added, ..Default::default() };
        let denied = |code: Option<i32>, body: &str| {
            HttpResponse::Denied(DeniedHttpResponse {
                status: code.map(|code| HttpStatus { code }),
                headers: vec![option("x-a", "1", None, 0)],
                body: body.into(),
            })
        };
        let http = |response: OkHttpResponse| Some(HttpResponse::Ok(response));
        let one = |append, action| vec![option("x-a", "1", append, action)];
        for (message, expected) in [
            (said(0, None), "in x-a=0 / x-a=0"),
            (said(0, http(ok(one(None, 0), one(None, 0)))), "in x-a=1 / x-a=0 x-a=1"),
            (said(0, http(ok(one(Some(true), 2), one(Some(false), 0)))), "in x-a=0 x-a=1 / x-a=1"),
            (said(0, http(ok(one(None, 1), one(None, 2)))), "in x-a=0 / x-a=1"),
            (said(0, http(ok(one(None, 3), one(None, 9)))), "in x-a=1 / x-a=0 x-a=1"),
            (
                said(0, http(OkHttpResponse { headers_to_remove: vec!["x-a".into()], ..Default::default() })),
                "in  / x-a=0",
            ),
            (
                said(
                    0,
                    http(OkHttpResponse {
                        query_parameters_to_remove: vec!["a".into()],
                        ..Default::default()
                    }),
                ),
                "wants the query changed, which is not done here",
            ),
            (said(0, Some(denied(None, ""))), "lets it in and denies it in one answer"),
            (said(7, None), "out 403  false"),
            (said(7, http(ok(one(None, 0), vec![]))), "out 403  false"),
            (said(16, Some(denied(Some(401), "no"))), "out 401 no true"),
            (said(7, Some(denied(Some(503), "no"))), "out 503 no true"),
            (said(7, Some(denied(None, "no"))), "out 403 no true"),
            // Whatever would look as if it were let in, or is no status.
            (said(7, Some(denied(Some(200), "no"))), "out 403 no true"),
            (said(7, Some(denied(Some(100), "no"))), "out 403 no true"),
            (said(7, Some(denied(Some(600), "no"))), "out 403 no true"),
            (said(7, Some(denied(Some(-1), "no"))), "out 403 no true"),
            (said(7, Some(denied(Some(304), "no"))), "out 304  true"),
            // It denies without so many words.
            (said(7, Some(denied(None, &"x".repeat(MOST_BODY + 1)))), "out 403  true"),
            (CheckResponse::default().encode_to_vec(), "answered without a status"),
            (vec![0xff; 3], "answered with what is no CheckResponse"),
        ] {
            assert_eq!(outcome("text/plain", &message), expected);
        }
        // To a call of gRPC, in two words.
        for (code, expected) in [(401, "out 401  true"), (302, "out 403  true"), (403, "out 403  true")] {
            assert_eq!(outcome("application/grpc", &said(7, Some(denied(Some(code), "no")))), expected);
        }
        let many = (0..100).map(|number| option(&format!("x-{number}"), "1", None, 0)).collect();
        assert_eq!(outcome("text/plain", &said(0, http(ok(many, vec![])))), TOO_MANY);
        assert_eq!(
            denial(&asked("text/plain"), 404, &ExternalEdits::default(), Bytes::new()).status(),
            StatusCode::NOT_FOUND
        );
    }

    #[test]
    fn an_answer_of_grpc_is_one_message_and_a_status() {
        let fields = |status: Option<&'static str>| {
            let status = status.map(|status| (STATUS, HeaderValue::from_static(status)));
            status.into_iter().collect::<HeaderMap>()
        };
        let (none, fine, failed) = (fields(None), fields(Some("0")), fields(Some("14")));
        let message = Bytes::from_static(b"\0\0\0\0\x02ab");
        let unwrapped = |head: &HeaderMap, trailers: &HeaderMap, body: &Bytes| {
            unwrap(head, trailers, body.clone()).map(|message| message.len())
        };
        assert_eq!(unwrapped(&none, &fine, &message), Ok(2));
        assert_eq!(unwrapped(&fine, &none, &message), Ok(2));
        assert!(unwrapped(&fine, &failed, &message).unwrap_err().starts_with("answered with grpc-status 14"));
        assert!(unwrapped(&failed, &none, &Bytes::new()).unwrap_err().contains("14"));
        assert!(unwrapped(&none, &none, &message).is_err());
        for body in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x02ab",
            b"\0\0\0\0\x01ab",
            b"\0\0\0\0\x03ab",
            b"\0\xff\xff\xff\xffab",
        ] {
            assert!(unwrapped(&none, &fine, &Bytes::copy_from_slice(body)).is_err(), "{body:?}");
        }
        assert_eq!(framed(&RpcStatus { code: 1 })[..], b"\0\0\0\0\x02\x08\x01"[..]);
    }
}
