//! What has left the mesh and is still there: it ends when a newer configuration would not let it leave, be it bytes, a tunnel, an
//! upgrade, or a request whose answer has not passed.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::{Either, LocalBoxFuture, select};
use http::HeaderName;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tulle_model::egress::originated::Onward;
use tulle_model::egress::{Leave, ListedBy};
use tulle_model::snapshot::{MeshSettings, Snapshot, WorkloadConfig};

use super::{OutsidePlace, Shown, admit, host_of, leave};
use crate::http::body::{BodyError, Event, Observer};
use crate::inbound::kept_head::KeptHead;
use crate::inbound::presence::Withdrawn;
use crate::inbound::tokens::KeptTokens;
use crate::local::Local;
use crate::reset::Reset;
use crate::state::LocalWorkload;

/// What is remembered of whom a client means.
pub(crate) enum WasShown {
    /// Nothing was looked at.
    Bytes,
    /// The server that its first message of TLS names.
    Server(Option<String>),
    Request(Box<KeptRequest>),
}

/// What is remembered of a request.
pub(crate) struct KeptRequest {
    pub host: Option<(String, Option<u16>)>,
    /// Where policies look at requests.
    pub head: Option<KeptHead>,
}

impl WasShown {
    /// Of a request that leaves for that place.
    pub fn request(snapshot: &Snapshot, source: &LocalWorkload, place: &OutsidePlace, head: &Parts) -> Self {
        let named = head.uri.authority().map(|named| (host_of(named), named.port_u16()));
        let host = named.map(|(host, port)| (host.to_owned(), port));
        let listed = match leave(snapshot, source, place) {
            Ok(Leave::Listed(listed)) => listed.named(place.seen(), named).unwrap_or_default(),
            Ok(Leave::Freely(_)) | Err(_) => Vec::new(),
        };
        let policies = || listed.iter().map(|by: &ListedBy<'_>| &by.service.policies);
        let head = policies().any(|policies| !policies.is_empty()).then(|| {
            let names: Arc<[HeaderName]> =
                policies().flat_map(|policies| policies.headers().iter()).cloned().collect();
            KeptHead::new(head, names, &KeptTokens::default())
        });
        Self::Request(Box::new(KeptRequest { host, head: head.flatten() }))
    }

    fn seen(&self) -> Shown<'_> {
        match self {
            Self::Bytes => Shown::Bytes,
            Self::Server(server) => Shown::Server(server.as_deref()),
            Self::Request(request) => Shown::Kept(request),
        }
    }
}

/// What says whether it may leave: what is said anew may say the same.
struct LastSaid {
    mesh: Arc<MeshSettings>,
    config: Option<Arc<WorkloadConfig>>,
}

impl LastSaid {
    fn of(snapshot: &Snapshot, source: &LocalWorkload) -> Self {
        Self { mesh: snapshot.mesh.clone(), config: snapshot.workloads.get(&source.name).cloned() }
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.mesh, &other.mesh)
            && self.config.as_ref().map(Arc::as_ptr) == other.config.as_ref().map(Arc::as_ptr)
    }
}

/// Says when it may not be outside any longer.
pub(crate) struct Withdrawal(LocalBoxFuture<'static, Withdrawn>);

impl Withdrawal {
    /// Of what was let out, and goes on so; what would go on otherwise now is withdrawn, too.
    pub fn of(
        local: &Rc<Local>,
        source: &Arc<LocalWorkload>,
        place: Rc<OutsidePlace>,
        shown: WasShown,
        onward: Onward,
    ) -> Self {
        let (local, source) = (local.clone(), source.clone());
        let withdrawn = async move {
            let mut changes = local.state.subscribe();
            let mut last: Option<LastSaid> = None;
            loop {
                changes.mark_unchanged();
                let view = local.view();
                let now = LastSaid::of(&view.snapshot, &source);
                if last.as_ref().is_none_or(|last| !last.is(&now)) {
                    let why = match admit(&view.snapshot, &source, &place, shown.seen(), None) {
                        Ok(now) if now.onward == onward => None,
                        Ok(_) => Some("it would go on otherwise now".to_owned()),
                        Err(refused) => Some(refused.decision.to_string()),
                    };
                    if let Some(why) = why {
                        tracing::debug!(workload = %source.name, %place, "to be ended outside of the mesh: {why}");
                        return Withdrawn::Outside;
                    }
                }
                last = Some(now);
                drop(view);
                if changes.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        };
        Self(Box::pin(withdrawn))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Withdrawn> {
        self.0.as_mut().poll(cx)
    }

    /// What comes of something, unless it may not be outside any longer before.
    pub async fn unless_withdrawn<T>(&mut self, awaited: impl Future<Output = T>) -> Result<T, Withdrawn> {
        match select(self.0.as_mut(), pin!(awaited)).await {
            Either::Left((withdrawn, _)) => Err(withdrawn),
            Either::Right((value, _)) => Ok(value),
        }
    }
}

/// An answer breaks off.
impl Observer for Withdrawal {
    fn event(&mut self, _event: Event<'_>) {}

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<BodyError> {
        self.poll(cx).map(Into::into)
    }
}

/// One end of a connection that leaves the mesh: it is reset when that may not be any longer.
pub(crate) struct Withdrawable<IO> {
    io: IO,
    withdrawal: Withdrawal,
}

impl<IO> Withdrawable<IO> {
    pub fn new(withdrawal: Withdrawal, io: IO) -> Self {
        Self { io, withdrawal }
    }
}

impl<IO: Reset> Reset for Withdrawable<IO> {
    fn reset(&mut self) {
        self.io.reset();
    }

    fn reset_for(&mut self, other: &io::Error) {
        self.io.reset_for(other);
    }

    fn poll_withdrawn(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.withdrawal.poll(cx).map(io::Error::other)
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Withdrawable<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Withdrawable<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
