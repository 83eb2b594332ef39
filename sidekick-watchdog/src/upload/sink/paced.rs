//! A sink that waits for the pacer before each batch: for those that do not pace themselves.

use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::{Batch, BoxFuture, Held, Outcome, PrepareError, Sink};
use crate::position::Position;
use crate::upload::encode::RowWriter;
use crate::upload::pace::Pacer;
use crate::upload::plan::Plan;

/// Another sink, paced.
#[derive(Debug)]
pub struct Paced {
    inner: Arc<dyn Sink>,
    pacer: Arc<Pacer>,
}

impl Paced {
    /// `inner`, whose batches wait for `pacer`.
    pub fn new(inner: Arc<dyn Sink>, pacer: Arc<Pacer>) -> Self {
        Self { inner, pacer }
    }
}

impl Sink for Paced {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn lanes(&self) -> u32 {
        self.inner.lanes()
    }

    fn prepare<'a>(
        &'a self,
        group: &'a Uuid,
        first: Position,
    ) -> BoxFuture<'a, Result<Vec<u8>, PrepareError>> {
        self.inner.prepare(group, first)
    }

    fn held<'a>(
        &'a self,
        group: &'a Uuid,
        lane: u32,
    ) -> BoxFuture<'a, Result<Option<Held>, PrepareError>> {
        self.inner.held(group, lane)
    }

    fn row_writer(&self) -> Box<dyn RowWriter> {
        self.inner.row_writer()
    }

    fn encode<'a>(
        &'a self,
        plan: &'a Plan,
        rows: Vec<u8>,
    ) -> BoxFuture<'a, Result<Bytes, PrepareError>> {
        self.inner.encode(plan, rows)
    }

    fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
        Box::pin(async move {
            self.pacer.wait(batch.body.len()).await;
            self.inner.send(batch).await
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::task::JoinSet;
    use tokio::time::Instant;

    use super::*;

    const BYTES_PER_S: u64 = 100_000;

    /// A sink that is there at once, and writes down when.
    #[derive(Debug, Default)]
    struct Instantly {
        came: Mutex<Vec<(Instant, usize)>>,
    }

    impl Sink for Instantly {
        fn name(&self) -> &str {
            "instantly"
        }

        fn lanes(&self) -> u32 {
            3
        }

        fn send<'a>(&'a self, batch: &'a Batch) -> BoxFuture<'a, Outcome> {
            Box::pin(async {
                let came = (Instant::now(), batch.body.len());
                self.came.lock().unwrap().push(came);
                Outcome::Taken
            })
        }
    }

    fn batch(lane: u32, bytes: usize) -> Batch {
        let place = Position { index: 1, item: 0 };
        Batch {
            plan: Plan {
                sink: "instantly".into(),
                lane,
                first: place,
                last: place,
                rules_version: 0,
                encoder_version: 1,
                extra: Vec::new(),
            },
            key: String::new(),
            body: vec![0; bytes].into(),
            rows: Vec::new(),
            replay: None,
        }
    }

    /// Lanes with batches of different lengths together get the rate, over all and in every five seconds.
    #[tokio::test(start_paused = true)]
    async fn what_comes_through_is_within_a_tenth_of_the_rate() {
        let inner = Arc::new(Instantly::default());
        let pacer = Arc::new(Pacer::new(BYTES_PER_S));
        let paced = Arc::new(Paced::new(inner.clone(), pacer));
        let began = Instant::now();
        let mut lanes = JoinSet::new();
        for lane in 0..paced.lanes() {
            let paced = paced.clone();
            lanes.spawn(async move {
                let batch = batch(lane, 5_000 << lane);
                while began.elapsed() < Duration::from_secs(60) {
                    assert_eq!(paced.send(&batch).await, Outcome::Taken);
                }
            });
        }
        while lanes.join_next().await.is_some() {}
        let came = inner.came.lock().unwrap();
        for (from, to) in [(0, 60)]
            .into_iter()
            .chain((0..12).map(|n| (n * 5, n * 5 + 5)))
        {
            let window = began + Duration::from_secs(from)..began + Duration::from_secs(to);
            let bytes = came.iter().filter(|(at, _)| window.contains(at));
            let bytes: usize = bytes.map(|(_, bytes)| bytes).sum();
            let rate = bytes as f64 / (to - from) as f64 / BYTES_PER_S as f64;
            assert!(
                (0.9..=1.1).contains(&rate),
                "{rate} of the rate from second {from} to {to}"
            );
        }
    }
}
