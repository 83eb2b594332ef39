//! A request's body that goes in chunks, each when the pacer lets it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::upload::pace::{CHUNK_BYTES, Pacer};

/// The rest of a body.
#[derive(Debug)]
pub(super) struct PacedBody {
    rest: Bytes,
    pacer: Arc<Pacer>,
    /// The turn of the next chunk.
    turn: Option<Pin<Box<Sleep>>>,
}

impl PacedBody {
    pub(super) fn new(rest: Bytes, pacer: Arc<Pacer>) -> Self {
        Self {
            rest,
            pacer,
            turn: None,
        }
    }
}

impl Body for PacedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let bytes = this.rest.len().min(CHUNK_BYTES);
        let turn = this.turn.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(
                this.pacer.turn(bytes, Instant::now()),
            ))
        });
        ready!(turn.as_mut().poll(cx));
        this.turn = None;
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}
