//! The little of gRPC over HTTP/2 that a fake service speaks: messages with their prefix, and the
//! status in the trailers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use prost::Message;

use super::answer::Answer;
use super::server::Reply;

/// Paths of the methods.
pub const CALL: &str = "/tulle.fake.v1.FakeService/Call";
pub const ECHO: &str = "/tulle.fake.v1.FakeService/Echo";
pub const HEALTH: &str = "/grpc.health.v1.Health/Check";

pub const CONTENT: &str = "application/grpc";
/// Bytes before every message: one flag, four of length.
pub const PREFIX: usize = 5;

/// gRPC's codes, as far as they are used here.
pub const UNIMPLEMENTED: u32 = 12;
pub const INTERNAL: u32 = 13;
pub const UNAVAILABLE: u32 = 14;

/// `CallRequest` in `proto/tulle/fake/v1/fake.proto`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CallRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub payload: Vec<u8>,
}

/// A message as it travels.
pub fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    // No message of ours comes near 4 GiB: body sizes are bounded.
    buffer.put_u32(length as u32);
    buffer.extend_from_slice(&message.encode_to_vec());
    buffer.freeze()
}

/// The code for an HTTP status that a fake service was told to fail with.
fn code(status: u32) -> u32 {
    match status {
        400 => 3,
        401 => 16,
        403 => 7,
        404 => 5,
        429 => 8,
        501 => UNIMPLEMENTED,
        502..=504 => UNAVAILABLE,
        _ => INTERNAL,
    }
}

/// The HTTP status that stands for a code, in answers and in the path's line.
pub fn http_status(code: &str) -> u32 {
    match code {
        "0" => 200,
        "3" => 400,
        "4" => 504,
        "5" => 404,
        "7" => 403,
        "8" => 429,
        "12" => 501,
        "14" => 503,
        "16" => 401,
        _ => 500,
    }
}

/// A `grpc-message`: percent-encoded.
pub fn decode_message(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

fn head() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(CONTENT));
    response
}

/// One message and success.
pub fn reply(message: &impl Message) -> Reply {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(frame(message))), Ok(Frame::trailers(trailers))];
    head().map(|()| http_body_util::StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

/// What a failed call was answered with, for those who know the header: it has no message.
const ANSWER: &str = "fake-answer-bin";

/// A failed call, with the answer that tells where it failed.
pub fn fail(answer: &Answer) -> Reply {
    let mut response = refuse(code(answer.status), &answer.line());
    let encoded = BASE64.encode(answer.encode_to_vec());
    // A larger one would not fit into every peer's limit for headers.
    if encoded.len() < 8 << 10
        && let Ok(value) = HeaderValue::from_str(&encoded)
    {
        response.headers_mut().insert(ANSWER, value);
    }
    response
}

/// The answer that a failed call came with, if it did.
pub fn failed_answer(headers: &HeaderMap) -> Option<Answer> {
    let bytes = BASE64.decode(headers.get(ANSWER)?.as_bytes()).ok()?;
    Answer::decode(bytes.as_slice()).ok()
}

/// A failure: the status alone ("Trailers-Only").
pub fn refuse(code: u32, message: &str) -> Reply {
    let mut response = head();
    response.headers_mut().insert("grpc-status", HeaderValue::from(code));
    let text = percent_encoding::utf8_percent_encode(message, percent_encoding::NON_ALPHANUMERIC).to_string();
    if let Ok(text) = HeaderValue::from_str(&text) {
        response.headers_mut().insert("grpc-message", text);
    }
    response.map(|()| http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync())
}

/// Every message back as it came, while they come; then success.
pub fn echo(body: Incoming) -> Reply {
    head().map(|()| EchoBody { body, done: false }.boxed_unsync())
}

struct EchoBody {
    body: Incoming,
    done: bool,
}

impl Body for EchoBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        use std::task::{Poll, ready};
        if self.done {
            return Poll::Ready(None);
        }
        match ready!(std::pin::Pin::new(&mut self.body).poll_frame(context)) {
            Some(Ok(frame)) if frame.is_data() => Poll::Ready(Some(Ok(frame))),
            Some(Err(error)) => {
                self.done = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(_)) | None => {
                self.done = true;
                let mut trailers = HeaderMap::new();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }
}

/// `grpc.health.v1.HealthCheckResponse { status: SERVING }`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Health {
    #[prost(int32, tag = "1")]
    pub status: i32,
}
