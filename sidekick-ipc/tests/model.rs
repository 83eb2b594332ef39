//! The ring beside a `VecDeque` of frames: the same pushes, reads, releases and takeovers give the same answers.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use proptest::prelude::*;
use sidekick_ipc::FrameKind;
use sidekick_ipc::frame::{FRAME_HEADER_BYTES, frame_bytes, seal};
use sidekick_ipc::layout::RingLayout;
use sidekick_ipc::region::{HeapRegion, Region};
use sidekick_ipc::ring::{Consumer, Producer};

const LAYOUT: RingLayout = RingLayout {
    tail: 0,
    head: 64,
    data: 128,
    capacity: 1024,
};
const SEED: u32 = 3;

#[derive(Clone, Debug)]
enum Step {
    /// Publish a frame with a payload of so many bytes.
    Push(usize),
    /// Read so many frames.
    Read(usize),
    /// Release what was read.
    Release,
    /// The reader dies; its successor starts at what was released.
    NewReader,
    /// The writer's role passes on (as on the downlink).
    NewWriter,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..400usize).prop_map(Step::Push),
        3 => (0..6usize).prop_map(Step::Read),
        2 => Just(Step::Release),
        1 => Just(Step::NewReader),
        1 => Just(Step::NewWriter),
    ]
}

fn frame(seq: u64, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    frame.extend((0..bytes).map(|k| (seq as usize * 31 + k) as u8));
    frame.resize(frame_bytes(bytes), 0);
    seal(
        &mut frame,
        SEED,
        FrameKind::Record as u16,
        bytes,
        seq,
        seq * 10,
    );
    frame
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn the_ring_is_a_bounded_queue(
        start in prop_oneof![Just(0u64), Just(u64::MAX - 2047), any::<u64>()],
        steps in prop::collection::vec(step(), 0..120),
    ) {
        let start = start & !7;
        let region = Arc::new(HeapRegion::new(128 + 1024));
        region.store(LAYOUT.tail, start, Relaxed);
        region.store(LAYOUT.head, start, Relaxed);
        let reader_at = |position| {
            Consumer::new(Arc::clone(&region), LAYOUT, SEED, position, FrameKind::is_uplink)
        };
        let mut producer = Producer::attach(Arc::clone(&region), LAYOUT);
        let mut consumer = reader_at(start);
        // Frames from the release on; the first `read` of them were read.
        let (mut queue, mut read) = (VecDeque::<Vec<u8>>::new(), 0);
        let (mut released, mut seq) = (start, 0);
        for step in steps {
            match step {
                Step::Push(bytes) => {
                    let frame = frame(seq + 1, bytes);
                    let used: usize = queue.iter().map(Vec::len).sum();
                    let fits = used + frame.len() <= 1024;
                    prop_assert_eq!(producer.has_room(frame.len()), fits);
                    prop_assert_eq!(producer.publish(&frame).is_ok(), fits);
                    if fits {
                        seq += 1;
                        queue.push_back(frame);
                    }
                }
                Step::Read(count) => {
                    for _ in 0..count {
                        let header = consumer.peek().unwrap();
                        let expected = queue.get(read);
                        prop_assert_eq!(header.is_some(), expected.is_some());
                        let (Some(header), Some(expected)) = (header, expected) else { break };
                        let mut out = vec![9];
                        consumer.take(header, &mut out).unwrap();
                        prop_assert_eq!(&out[1..], &expected[..]);
                        read += 1;
                    }
                }
                Step::Release => {
                    queue.drain(..read).for_each(drop);
                    read = 0;
                    released = consumer.position();
                    consumer.release(released);
                }
                Step::NewReader => {
                    consumer = reader_at(released);
                    read = 0;
                }
                Step::NewWriter => producer = Producer::attach(Arc::clone(&region), LAYOUT),
            }
            prop_assert_eq!(producer.used(), queue.iter().map(|f| f.len() as u64).sum::<u64>());
        }
    }
}
