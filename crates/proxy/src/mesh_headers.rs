//! The mesh's own header fields. What is on links only is taken off at both ends; an answer that the mesh made tells its
//! client so.

use http::HeaderName;

/// Those that nearly every message on a link has, or every answer of the mesh.
pub static FREQUENT: [HeaderName; 5] = [WORKLOAD, PORT, APP_VERSION, REASON, RETRY];

/// The workload that a request or connection is for, `namespace/name`.
pub const WORKLOAD: HeaderName = HeaderName::from_static("tulle-workload");
/// The workload's port that a request is for.
pub const PORT: HeaderName = HeaderName::from_static("tulle-port");
/// What to speak to the application: `1` or `2`.
pub const APP_VERSION: HeaderName = HeaderName::from_static("tulle-app-version");
/// Why the mesh made this answer.
pub const REASON: HeaderName = HeaderName::from_static("tulle-reason");
/// The run of a Flow that a request has started, or asked for, of the Flow's answer.
pub const RUN: HeaderName = HeaderName::from_static("tulle-run");
/// `safe`: the request has certainly not reached the application.
pub const RETRY: HeaderName = HeaderName::from_static("tulle-retry");
/// The code of HTTP/2 that the application reset the request with, for clients that understand it.
pub const RESET: HeaderName = HeaderName::from_static("tulle-reset");
/// What the application offers to go on in, with a 426: HTTP/2 has no place for its `Upgrade`.
pub const UPGRADE: HeaderName = HeaderName::from_static("tulle-upgrade");
/// The method of a request to leave HTTP: on a link it is a CONNECT.
pub const METHOD: HeaderName = HeaderName::from_static("tulle-method");
/// The application has left HTTP, and goes on in that.
pub const SWITCHED: HeaderName = HeaderName::from_static("tulle-switched");
/// `http`, of a bare CONNECT that is granted: what passes there is read as requests, and the node answers those itself that
/// do not get through.
pub const CARRIES: HeaderName = HeaderName::from_static("tulle-carries");
/// Of a request that asks about another one, for a policy that has somebody else asked: it is asked about nothing in its turn.
pub const QUESTION: HeaderName = HeaderName::from_static("tulle-question");
/// How much time the request has left, in milliseconds, where its rule says how long it may take.
pub const TIME_LEFT: HeaderName = HeaderName::from_static("tulle-time-left");
/// `external`, of an answer that denies a request: somebody who was asked has given it, and it is passed on as it is.
pub const ANSWERED: HeaderName = HeaderName::from_static("tulle-answered");
/// How the fields of a message of HTTP/1 were written (see [`Spelling`](crate::http::spelling::Spelling)).
pub const SPELLING: HeaderName = HeaderName::from_static("tulle-spelling");
