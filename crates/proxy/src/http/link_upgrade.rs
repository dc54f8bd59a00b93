//! Upgrades on links: extended CONNECT (RFC 8441), with path, authority and headers as the request that it is, and in
//! `:protocol` what it asks for. What that cannot say is in the mesh's own headers: the method, and whether the
//! application has switched, and to what. They are taken off at both ends.
//!
//! In a bare CONNECT goes what the other node does not take so, because it is of another version, and what does not fit:
//! a request for a tunnel, and one with a body, or with letters to be kept, whose end an extended CONNECT cannot say.

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Response, StatusCode, response};

use crate::error::UpstreamError;
use crate::http::body::Body;
use crate::http::headers;
use crate::http::reply;
use crate::http::spelling::Spelling;
use crate::http::switch::{Form, Switched, Switching};
use crate::http2::{ConnectProtocol, Receiver, RequestFields, Sender, Tunnel};
use crate::mesh_headers::{METHOD, SWITCHED};

/// What goes on a link as an extended CONNECT: the `:protocol`, and the method if it was another.
pub(crate) struct Question {
    protocol: ConnectProtocol,
    method: Option<HeaderValue>,
}

/// The same with what the other node has to know besides.
pub(crate) struct Addressed {
    extensions: Extensions,
    more: Vec<(HeaderName, HeaderValue)>,
}

impl Addressed {
    /// As it is sent.
    pub fn head<'a>(&'a self, head: &'a Parts) -> RequestFields<'a> {
        RequestFields {
            method: &Method::CONNECT,
            extensions: &self.extensions,
            ..RequestFields::new(head, &self.more)
        }
    }
}

impl Question {
    /// `None`: it goes in a bare CONNECT.
    pub fn of(form: &Form, head: &Parts, body: &Body) -> Option<Self> {
        let fits = http_body::Body::is_end_stream(body)
            && head.method != Method::HEAD
            && !head.headers.contains_key(CONTENT_LENGTH)
            && head.extensions.get::<Spelling>().is_none();
        let question = match form {
            Form::Upgrade(wanted) => Self {
                protocol: ConnectProtocol(wanted.clone()),
                method: Some(HeaderValue::from_str(head.method.as_str()).ok()?),
            },
            Form::Extended(protocol) => {
                Self { protocol: ConnectProtocol(HeaderValue::from_str(protocol).ok()?), method: None }
            }
            Form::Connect => return None,
        };
        // What is no text is not written as a `:protocol`.
        (fits && question.protocol.0.to_str().is_ok()).then_some(question)
    }

    /// `headers`: of the endpoint. `extensions`: of the request.
    pub fn with(self, headers: &[(HeaderName, HeaderValue)], extensions: &Extensions) -> Addressed {
        let mut extensions = extensions.clone();
        extensions.insert(self.protocol);
        let method = self.method.map(|method| (METHOD, method));
        Addressed { extensions, more: headers.iter().cloned().chain(method).collect() }
    }

    /// What came on a link, made what it was. `Err`: no node of ours says that.
    pub fn received(head: &mut Parts) -> Result<Form, &'static str> {
        let headers = &mut head.headers;
        let method = headers.remove(METHOD);
        headers.remove(HOST);
        headers::normalize_inner(headers).map_err(|problem| problem.0)?;
        if head.uri.authority().is_none() {
            return Err("the request does not say what host it is for");
        }
        let Some(ConnectProtocol(protocol)) = head.extensions.get::<ConnectProtocol>().cloned() else {
            return Err("the request does not say what it asks for");
        };
        let Some(method) = method else {
            return Ok(Form::Extended(String::from_utf8_lossy(protocol.as_bytes()).into_owned()));
        };
        let method = Method::from_bytes(method.as_bytes()).ok().filter(|method| *method != Method::CONNECT);
        let wanted =
            HeaderMap::from_iter([(UPGRADE, protocol), (CONNECTION, HeaderValue::from_static("upgrade"))]);
        let (Some(method), Some(wanted)) = (method, headers::wanted_upgrade(&wanted)) else {
            return Err("the request cannot leave HTTP so");
        };
        head.method = method;
        Ok(Form::Upgrade(wanted))
    }
}

/// Gives an application's consent the form that it has on a link.
pub(crate) fn consent(head: &mut response::Parts) {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::OK;
    }
    head.headers.remove(CONNECTION);
    let named = head.headers.remove(UPGRADE).unwrap_or(HeaderValue::from_static("websocket"));
    head.headers.insert(SWITCHED, named);
}

/// What an answer on a link says of the application.
pub(crate) fn answered(
    mut head: response::Parts,
    mut sender: Sender,
    receiver: Receiver,
    form: &Form,
) -> Result<Switching, UpstreamError> {
    let switched = head.headers.remove(SWITCHED).filter(|_| head.status.is_success());
    if let Some(named) = switched {
        headers::normalize_link_response(&mut head.headers, head.status);
        if let Form::Upgrade(_) = form {
            head.status = StatusCode::SWITCHING_PROTOCOLS;
            head.headers.insert(UPGRADE, named);
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        let io = Box::new(Tunnel::extended(sender, receiver));
        return Ok(Switching::Switched(Switched { head, io, held: None }));
    }
    if let Form::Extended(_) = form
        && head.status.is_success()
    {
        // It would be taken for a tunnel.
        return Err(UpstreamError::bad_answer("the endpoint's node granted a WebSocket that nobody opened"));
    }
    sender.send(&mut bytes::Bytes::new(), true);
    let mut response = Response::from_parts(head, Body::from(receiver));
    if let Some(error) = reply::told(&mut response) {
        return Err(error);
    }
    let status = response.status();
    headers::normalize_link_response(response.headers_mut(), status);
    Ok(Switching::Answered(response))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::mesh_headers::PORT;

    fn head(method: &str, fields: &[(&'static str, &'static str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("http://c/chat");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn upgrade() -> Form {
        Form::Upgrade(HeaderValue::from_static("websocket"))
    }

    #[test]
    fn what_has_more_than_a_head_goes_in_a_tunnel() {
        let plain = head("GET", &[]);
        let extended = Form::Extended("websocket".to_owned());
        assert!(Question::of(&upgrade(), &plain, &Body::empty()).is_some());
        assert!(Question::of(&extended, &plain, &Body::empty()).is_some());
        assert!(Question::of(&Form::Connect, &plain, &Body::empty()).is_none());
        assert!(Question::of(&upgrade(), &plain, &Body::whole("x".into())).is_none());
        assert!(Question::of(&upgrade(), &head("HEAD", &[]), &Body::empty()).is_none());
        assert!(Question::of(&upgrade(), &head("GET", &[("content-length", "0")]), &Body::empty()).is_none());
        let mut spelled = plain;
        spelled.extensions.insert(Spelling::of_request(b"GET / HTTP/1.1\r\nX-Y: 1\r\n\r\n").unwrap());
        assert!(Question::of(&upgrade(), &spelled, &Body::empty()).is_none());
    }

    #[test]
    fn a_question_is_read_as_it_was_asked() {
        for (form, method, sent) in
            [(upgrade(), "POST", Some("POST")), (Form::Extended("websocket".to_owned()), "GET", None)]
        {
            let asked = head(method, &[("x", "1"), ("sec-websocket-key", "abc")]);
            let question = Question::of(&form, &asked, &Body::empty()).unwrap();
            let port = [(PORT, HeaderValue::from_static("80"))];
            let addressed = question.with(&port, &asked.extensions);
            let on_link = addressed.head(&asked);
            assert_eq!(on_link.method, Method::CONNECT);
            let said = on_link.more.iter().find(|(name, _)| name == METHOD);
            assert_eq!(said.map(|(_, value)| value.to_str().unwrap()), sent);
            let mut received = head("CONNECT", &[("x", "1"), ("tulle-switched", "x"), ("host", "other")]);
            received.headers.extend(on_link.more.iter().cloned());
            received.extensions = on_link.extensions.clone();
            let got = Question::received(&mut received).unwrap();
            match (got, &form) {
                (Form::Upgrade(got), Form::Upgrade(form)) => assert_eq!(got, *form),
                (Form::Extended(got), Form::Extended(form)) => assert_eq!(got, *form),
                _ => panic!("{method}"),
            }
            let left: Vec<_> = received.headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(left, ["x"], "nothing of the mesh's");
            assert_eq!(received.method, sent.map_or(Method::CONNECT, |_| Method::POST));
        }
    }

    #[test]
    fn what_no_node_of_ours_says_is_refused() {
        for (uri, method, protocol) in [
            ("/chat", "GET", "websocket"),
            ("http://c/chat", "CONNECT", "websocket"),
            ("http://c/chat", "a b", "websocket"),
            ("http://c/chat", "GET", "h2c"),
            ("http://c/chat", "GET", "TLS/1.3"),
        ] {
            let request = Request::builder().method("CONNECT").uri(uri).header("tulle-method", method);
            let mut head = request.body(()).unwrap().into_parts().0;
            head.extensions.insert(ConnectProtocol(HeaderValue::from_static(protocol)));
            assert!(Question::received(&mut head).is_err(), "{uri} {method} {protocol}");
        }
        assert!(Question::received(&mut head("CONNECT", &[("tulle-method", "GET")])).is_err());
    }

    #[test]
    fn a_consent_says_what_the_application_goes_on_in() {
        for (status, upgrade, on_link, named) in
            [(101, Some("x/1"), 200, "x/1"), (101, None, 200, "websocket"), (204, None, 204, "websocket")]
        {
            let mut answer = Response::builder().status(status).header("sec-websocket-accept", "abc");
            if let Some(upgrade) = upgrade {
                answer = answer.header("connection", "upgrade").header("upgrade", upgrade);
            }
            let mut head = answer.body(()).unwrap().into_parts().0;
            consent(&mut head);
            assert_eq!(
                (head.status.as_u16(), &head.headers[SWITCHED]),
                (on_link, &HeaderValue::from_static(named))
            );
            assert!(!head.headers.contains_key(UPGRADE) && !head.headers.contains_key(CONNECTION));
            assert_eq!(head.headers["sec-websocket-accept"], "abc");
        }
    }
}
