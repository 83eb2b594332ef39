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

    /// Sends for a minute of the test's clock, each lane batches of another length through its own of `lanes`. Gives how much of the rate
    /// came through: over all, and in every five seconds.
    async fn shares(inner: &Instantly, lanes: Vec<Paced>) -> Vec<f64> {
        const SECONDS: u64 = 60;
        let began = Instant::now();
        let mut sending = JoinSet::new();
        for (lane, paced) in (0..).zip(lanes) {
            sending.spawn(async move {
                let batch = batch(lane, 5_000 << lane);
                while began.elapsed() < Duration::from_secs(SECONDS) {
                    assert_eq!(paced.send(&batch).await, Outcome::Taken);
                }
            });
        }
        while sending.join_next().await.is_some() {}
        let came = inner.came.lock().unwrap();
        let windows = (0..SECONDS).step_by(5).map(|from| (from, from + 5));
        let windows = [(0, SECONDS)].into_iter().chain(windows);
        let share = |(from, to)| {
            let window = began + Duration::from_secs(from)..began + Duration::from_secs(to);
            let bytes = came.iter().filter(|(at, _)| window.contains(at));
            let bytes: usize = bytes.map(|(_, bytes)| bytes).sum();
            bytes as f64 / (to - from) as f64 / BYTES_PER_S as f64
        };
        windows.map(share).collect()
    }

    fn is_within_a_tenth(share: f64) -> bool {
        (0.9..=1.1).contains(&share)
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_through_is_within_a_tenth_of_the_rate() {
        let inner = Arc::new(Instantly::default());
        let pacer = Arc::new(Pacer::new(BYTES_PER_S));
        let lane = |_| Paced::new(inner.clone(), pacer.clone());
        let shares = shares(&inner, (0..inner.lanes()).map(lane).collect()).await;
        assert!(
            shares.iter().all(|share| is_within_a_tenth(*share)),
            "{shares:?}"
        );
    }

    /// The broken variants: a pacer for each lane lets through what each of them may, and one that counts more than there is too little.
    #[tokio::test(start_paused = true)]
    async fn another_rate_is_noticed() {
        let inner = Arc::new(Instantly::default());
        let lane = |_| Paced::new(inner.clone(), Arc::new(Pacer::new(BYTES_PER_S)));
        let too_much = shares(&inner, (0..inner.lanes()).map(lane).collect()).await;
        assert!(too_much.iter().all(|share| *share > 1.1), "{too_much:?}");

        let inner = Arc::new(Instantly::default());
        let pacer = Arc::new(Pacer::new(BYTES_PER_S * 8 / 10));
        let lane = |_| Paced::new(inner.clone(), pacer.clone());
        let too_little = shares(&inner, (0..inner.lanes()).map(lane).collect()).await;
        assert!(!is_within_a_tenth(too_little[0]), "{too_little:?}");
    }
}
