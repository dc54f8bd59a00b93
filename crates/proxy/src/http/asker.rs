//! Interim answers (1xx) on their way back to whoever asked (RFC 9110, section 15.2). They are passed on as they
//! come, `100 Continue` among them: only the application knows whether it wants a body.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use http::header::CONTENT_LENGTH;
use http::response;

use crate::budget::Account;
use crate::http::headers;
use crate::http::http1::server::Client;
use crate::http::spelling::Spelling;
use crate::http2::InterimSender;

/// Who sends a request, on its way to an application.
pub(crate) struct Caller {
    /// What this worker has taken for it.
    pub account: Rc<Account>,
    pub asker: Asker,
}

/// Where interim answers go to.
pub(crate) enum Asker {
    /// A client of HTTP/1.1.
    Http1(Rc<RefCell<Client>>),
    /// A stream, of a client or a link.
    Http2(InterimSender),
    /// HTTP/1.0 has none, and is sent none.
    Nobody,
}

impl Asker {
    /// Passes an interim answer on, as it came from the application or a link. How many and how large they are is
    /// the business of whoever reads them.
    pub fn pass(&self, cx: &mut Context<'_>, mut head: response::Parts) {
        if headers::normalize_response(head.status, &mut head.headers).is_err() {
            return;
        }
        head.headers.remove(CONTENT_LENGTH);
        let spelling = head.extensions.get::<Spelling>();
        match self {
            Self::Http1(client) => {
                client.borrow_mut().send_interim(cx, head.status, &head.headers, spelling);
            }
            Self::Http2(stream) => {
                // Only of a request on a link that was spelled itself.
                head.headers.extend(spelling.map(Spelling::field));
                stream.send(head.status, &head.headers);
            }
            Self::Nobody => {}
        }
    }

    /// Has the trailers of the request say how they are written.
    #[cold]
    pub fn keep_letters(&self) {
        if let Self::Http1(client) = self {
            client.borrow_mut().keep_letters();
        }
    }
}
