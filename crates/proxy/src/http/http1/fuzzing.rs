//! HTTP/1 beside hyper, and beside itself when it comes in pieces or is passed on: a message that two recipients read
//! differently is how requests are smuggled (RFC 9112, section 11.2). That one of them refuses it is no harm.

mod reference;

use std::task::{Context, Waker};

use bytes::{Buf, BytesMut};
use http::header::{HeaderMap, HeaderValue, UPGRADE};
use http::{Method, StatusCode, Version, request};

use self::reference::{Seen, SeenBody};
use super::encode::{self, Announced};
use super::framing::{BodyDecoder, Decoded, Framing, Malformed, single_chunk};
use super::head::{self, Bad};
use super::in_pieces::{Pieces, ready};
use super::input::{Input, NoHead};
use super::output::Sending;
use crate::budget::Charge;
use crate::http::FIELD_LIMIT;
use crate::http::headers::normalize_request;
use crate::http::spelling::Spelling;
use crate::mesh_headers::SPELLING;
use crate::uri::{self, AsSent, LastAuthority};

/// What comes on a connection, in pieces that end where the first bytes say.
///
/// # Panics
/// Where a request is read in two ways.
pub fn http1_requests(input: &[u8]) {
    let Some((cuts, bytes)) = input.split_at_checked(2) else { return };
    let whole = Requests::read(Pieces::new(bytes, &[]));
    let pieces = Requests::read(pieces(bytes, cuts));
    assert_eq!(whole.messages, pieces.messages, "pieces matter");
    assert_eq!(whole.refused, pieces.refused, "pieces matter");
    let mut seen = reference::requests(bytes).into_iter();
    for message in whole.messages {
        if let Some(seen) = seen.next() {
            message.compare(&seen);
        }
        // As it was written, as a peer says that it was, and as we write it.
        for spelling in [message.spelling.clone(), told(bytes), None] {
            message.pass_on(spelling);
        }
        if !message.keep || message.parts.method == Method::CONNECT {
            break;
        }
    }
}

/// Answers to a request whose method the first byte says, in pieces that end where the next two say.
///
/// # Panics
/// Where an answer is read in two ways.
pub fn http1_answers(input: &[u8]) {
    let Some((shape, bytes)) = input.split_at_checked(3) else { return };
    let method =
        [Method::GET, Method::HEAD, Method::POST, Method::CONNECT][usize::from(shape[0] % 4)].clone();
    let whole = answer(Pieces::new(bytes, &[]), &method);
    assert_eq!(whole, answer(pieces(bytes, &shape[1..]), &method), "pieces matter");
    let Some(ParsedAnswer { status, headers, body: Some(body), spelling, .. }) = whole else { return };
    let opens = status == StatusCode::SWITCHING_PROTOCOLS || method == Method::CONNECT && status.is_success();
    if let Some(seen) = reference::answer(bytes, &method) {
        assert_eq!(seen.line, status.as_str());
        match seen.body {
            SeenBody::Waits => panic!("the other waits for more of the answer"),
            SeenBody::Whole(other) if !opens => assert_eq!(other, body),
            SeenBody::Whole(_) | SeenBody::Refused => {}
        }
    }
    if opens {
        return;
    }
    // And passed on to a client, where there is room for the two fields that may be added: its framing and its date.
    if headers.len() + 2 > FIELD_LIMIT {
        return;
    }
    let told = told(bytes);
    for (exact, spelling) in [(None, None), (None, spelling), (Some(body.len() as u64), told)] {
        let announced = Announced::of_response(&method, Version::HTTP_11, status, &headers, exact);
        let mut out = Vec::new();
        encode::response(&mut out, Version::HTTP_11, status, &headers, announced, b"", spelling.as_ref());
        write_body(&mut out, announced.sending, &body);
        let again = answer(Pieces::new(&out, &[]), &method).expect("an answer that is passed on is one");
        assert_eq!((again.status, again.body.as_ref()), (status, Some(&body)), "{announced:?}");
        let seen = reference::answer(&out, &method).expect("an answer that is passed on is understood");
        assert_eq!((seen.line.as_str(), seen.body), (status.as_str(), SeenBody::Whole(body.clone())));
    }
}

/// A chunked body, and what comes after it, in pieces that end where the first bytes say.
///
/// # Panics
/// Where its end or what is in it is read in two ways.
pub fn http1_bodies(input: &[u8]) {
    let Some((cuts, bytes)) = input.split_at_checked(2) else { return };
    let whole = chunked(Pieces::new(bytes, &[]));
    let pieces = chunked(pieces(bytes, cuts));
    assert_eq!(whole.as_ref().ok(), pieces.as_ref().ok(), "pieces matter");
    let single = single_chunk(bytes);
    let Ok(Some((body, trailers, length))) = whole else {
        assert_eq!(single, None, "only whole bodies are taken as a whole");
        return;
    };
    if let Some((data, end)) = single {
        assert_eq!((&bytes[data], end, trailers.is_empty()), (&body[..], length, true));
    }
    let head = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let message = [&head[..], &bytes[..length], b"GET /next HTTP/1.1\r\nhost: a\r\n\r\n"].concat();
    let seen = reference::requests(&message);
    if let Some(Seen { body: SeenBody::Whole(other), .. }) = seen.first() {
        assert_eq!(*other, body);
        assert_eq!(seen.get(1).map(|next| next.line.as_str()), Some("GET /next"), "it ends elsewhere");
    } else {
        assert!(
            matches!(seen.first(), Some(Seen { body: SeenBody::Refused, .. })),
            "the other waits for more"
        );
    }
    // And passed on.
    let mut out = Vec::new();
    write_body(&mut out, Sending::Chunked, &body);
    out.truncate(out.len() - b"0\r\n\r\n".len());
    encode::trailers(&mut out, &trailers);
    let length = out.len();
    assert_eq!(chunked(Pieces::new(&out, &[])), Ok(Some((body, trailers, length))));
}

/// Cut into at most one more piece than there are cuts. Each says where, in parts of the whole.
fn pieces(bytes: &[u8], cuts: &[u8]) -> Pieces {
    let cuts: Vec<usize> = cuts.iter().map(|cut| usize::from(*cut) * bytes.len() / 255).collect();
    Pieces::new(bytes, &cuts)
}

/// A request, read to its end.
#[derive(Debug)]
struct ParsedRequest {
    parts: request::Parts,
    framing: Framing,
    body: Vec<u8>,
    trailers: HeaderMap,
    keep: bool,
    spelling: Option<Spelling>,
}

impl PartialEq for ParsedRequest {
    fn eq(&self, other: &Self) -> bool {
        let key = |this: &Self| (this.line(), this.parts.version, this.framing, this.keep);
        key(self) == key(other)
            && (&self.parts.headers, self.path(), &self.body, &self.trailers)
                == (&other.parts.headers, other.path(), &other.body, &other.trailers)
    }
}

impl ParsedRequest {
    fn line(&self) -> String {
        format!("{} {}", self.parts.method, self.parts.uri)
    }

    fn path(&self) -> &[u8] {
        uri::path(&self.parts.uri, &self.parts.extensions)
    }

    fn compare(&self, seen: &Seen) {
        // OPTIONS for a server as a whole, in absolute form, has the path `*` here.
        if self.parts.method == Method::OPTIONS && self.path() == b"*" {
            assert!(!seen.line.starts_with("OPTIONS /"), "it is for the server as a whole: {}", seen.line);
        } else {
            assert_eq!(self.line(), seen.line);
        }
        match &seen.body {
            SeenBody::Whole(body) => assert_eq!(*body, self.body),
            SeenBody::Refused => {}
            // Both take what follows for something else than a body.
            SeenBody::Waits if self.parts.method == Method::CONNECT => {}
            SeenBody::Waits => panic!("the other waits for more of {self:?}"),
        }
    }

    /// What is passed on, if it is, is this message and nothing besides.
    fn pass_on(&self, spelling: Option<Spelling>) {
        let mut parts = self.parts.clone();
        if parts.headers.contains_key(UPGRADE)
            || parts.method == Method::CONNECT
            || normalize_request(&mut parts, &LastAuthority::default(), || "a".to_owned()).is_err()
        {
            return;
        }
        if let Some(spelling) = spelling {
            parts.extensions.insert(spelling);
        }
        let length = self.body.len() as u64;
        for exact in [None, Some(length)] {
            // As the server knows it.
            let exact = if let Framing::Length(length) = self.framing { Some(length) } else { exact };
            let announced = Announced::of_request(&parts, exact);
            let mut out = Vec::new();
            encode::request(&mut out, &parts, announced, None);
            write_body(&mut out, announced.sending, &self.body);
            let again = Requests::read(Pieces::new(&out, &[]));
            let [message] = &again.messages[..] else { panic!("{again:?} is passed on for {self:?}") };
            assert!(!again.refused, "something is passed on behind {self:?}");
            assert_eq!(message.body, self.body);
            assert_eq!(message.parts.method, self.parts.method);
            assert_eq!(message.path(), uri::path(&parts.uri, &parts.extensions));
            if parts.extensions.get::<AsSent>().is_some() {
                // The other refuses such paths.
                continue;
            }
            let seen = reference::requests(&out);
            let [seen] = &seen[..] else { panic!("{seen:?} is read of {self:?}") };
            message.compare(seen);
            assert_eq!(seen.body, SeenBody::Whole(self.body.clone()));
        }
    }
}

/// What a peer says of how a message was written, which may be anything: the end of the input.
fn told(input: &[u8]) -> Option<Spelling> {
    let value = HeaderValue::from_bytes(&input[input.len().saturating_sub(40)..]).ok()?;
    Spelling::take(&mut HeaderMap::from_iter([(SPELLING, value)]))
}

fn write_body(out: &mut Vec<u8>, sending: Sending, body: &[u8]) {
    match sending {
        Sending::Chunked => {
            for chunk in body.chunks(1000) {
                encode::chunk_size(out, chunk.len());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            encode::trailers(out, &HeaderMap::new());
        }
        Sending::Length(length) => {
            assert_eq!(length, body.len() as u64);
            out.extend_from_slice(body);
        }
        Sending::UntilClose => out.extend_from_slice(body),
        Sending::Nothing => assert!(body.is_empty(), "a body is lost"),
    }
}

/// The requests that came on a connection, to its end or to the first that is refused.
#[derive(Debug)]
struct Requests {
    messages: Vec<ParsedRequest>,
    refused: bool,
}

impl Requests {
    fn read(mut pieces: Pieces) -> Self {
        let mut cx = Context::from_waker(Waker::noop());
        let (mut input, mut messages) = (Input::default(), Vec::new());
        loop {
            let head = match ready(input.poll_head(&mut cx, &mut pieces, &Charge::default(), head::request)) {
                Ok(head) => head,
                Err(NoHead::Ended) => return Self { messages, refused: false },
                Err(NoHead::Cut | NoHead::Bad(Bad::Malformed(_) | Bad::TooLarge)) => {
                    return Self { messages, refused: true };
                }
                Err(NoHead::Broken(error)) => panic!("{error}"),
            };
            let body = match &head.whole() {
                Some(whole) => Some((whole.to_vec(), HeaderMap::new())),
                None => body(&mut cx, &mut input, &mut pieces, head.framing),
            };
            let Some((body, trailers)) = body else { return Self { messages, refused: true } };
            let spelling = Spelling::of_request(&head.written.0[..head.length as usize]);
            let (parts, framing, keep) = (head.parts, head.framing, head.keep);
            messages.push(ParsedRequest { parts, framing, body, trailers, keep, spelling });
        }
    }
}

/// The rest of a body, if it comes to its end.
fn body(
    cx: &mut Context<'_>,
    input: &mut Input,
    pieces: &mut Pieces,
    framing: Framing,
) -> Option<(Vec<u8>, HeaderMap)> {
    let (mut decoder, mut body, mut trailers) = (BodyDecoder::new(framing), Vec::new(), HeaderMap::new());
    while !decoder.is_over() {
        match ready(input.poll_body(cx, pieces, &mut decoder, &Charge::default(), |_| {})) {
            Ok(Decoded::Data(data)) => body.extend_from_slice(&data),
            Ok(Decoded::Trailers(fields)) => trailers = fields,
            Ok(Decoded::End) => {}
            Ok(Decoded::More) => panic!("there is always more"),
            Err(_) => return None,
        }
    }
    Some((body, trailers))
}

#[derive(Debug, PartialEq)]
struct ParsedAnswer {
    status: StatusCode,
    headers: HeaderMap,
    /// `None`: it is not whole.
    body: Option<Vec<u8>>,
    keep: bool,
    spelling: Option<Spelling>,
}

/// The final answer to a request with `method`.
fn answer(mut pieces: Pieces, method: &Method) -> Option<ParsedAnswer> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut input = Input::default();
    loop {
        let mut spelling = None;
        let parse = |bytes: &[u8]| {
            let parsed = head::response(bytes, method);
            spelling =
                parsed.as_ref().is_ok_and(Option::is_some).then(|| Spelling::of_response(bytes)).flatten();
            parsed
        };
        let head = ready(input.poll_head(&mut cx, &mut pieces, &Charge::default(), parse)).ok()?;
        let status = head.parts.status;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let body = match head.whole {
            Some(whole) => Some(whole.to_vec()),
            None => body(&mut cx, &mut input, &mut pieces, head.framing).map(|(body, _)| body),
        };
        return Some(ParsedAnswer { status, headers: head.parts.headers, body, keep: head.keep, spelling });
    }
}

/// A chunked body, its trailers, and how many bytes they were; `None`: it does not end.
type Chunked = Option<(Vec<u8>, HeaderMap, usize)>;

fn chunked(Pieces(mut pieces): Pieces) -> Result<Chunked, Malformed> {
    let mut decoder = BodyDecoder::new(Framing::Chunked);
    let (mut buffer, mut came) = (BytesMut::new(), 0);
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    while !decoder.is_over() {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(data) => body.extend_from_slice(&data),
            Decoded::Trailers(fields) => trailers = fields,
            Decoded::End => {}
            Decoded::More => {
                let Some(piece) = pieces.pop() else { return Ok(None) };
                came += piece.len();
                buffer.extend_from_slice(&piece);
            }
        }
    }
    Ok(Some((body, trailers, came - buffer.remaining())))
}
