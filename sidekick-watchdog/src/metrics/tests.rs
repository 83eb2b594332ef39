//! What a reader of the metrics sees.

use super::*;
use crate::books::Counts;
use crate::event::DeathCause;

/// What was accepted can be held against the sum of what became of it; nothing is told where it is not known.
#[test]
fn the_books_of_a_sink_are_told_with_their_total() {
    let metrics = Metrics::new();
    let mut books = SinkBooks {
        counts: Counts {
            records: 3,
            notes: 1,
            dropped: [("filter".to_owned(), 2)].into(),
            ..Counts::default()
        },
        dead: 1,
        letters: 5,
        letters_now: 2,
        ..SinkBooks::default()
    };
    metrics.tell_books("http", &books, 20);
    let unknown = [
        "sidekick_records_accepted_total{",
        "sidekick_records_pending{",
    ];
    let tells_some = |text: &str| unknown.iter().any(|name| text.contains(name));
    assert!(!tells_some(&metrics.encode()));
    books.since = Some(10);
    metrics.tell_books("http", &books, 20);
    let text = metrics.encode();
    let known = [
        "sidekick_records_accepted_total{sink=\"http\"} 10",
        "sidekick_records_dead{sink=\"http\"} 1",
        "sidekick_records_pending{sink=\"http\"} 3",
    ];
    for line in known {
        assert!(text.contains(&format!("{line}\n")), "{line}\n{text}");
    }
    // The sink was away and came back.
    books.since = None;
    metrics.tell_books("http", &books, 30);
    assert!(!tells_some(&metrics.encode()));
}

/// Of all values whose name begins so, the sum.
fn sum(text: &str, name: &str) -> u64 {
    let lines = text.lines().filter(|line| line.starts_with(name));
    let values = lines.filter_map(|line| line.rsplit_once(' '));
    values.map(|(_, value)| value.parse::<u64>().unwrap()).sum()
}

/// A letter is replayed, another one dropped: what became of the numbers adds up to what was accepted all the while.
#[test]
fn the_ends_of_numbers_add_up_before_and_after_a_replay() {
    let metrics = Metrics::new();
    let mut books = SinkBooks {
        since: Some(10),
        dead: 2,
        letters: 2,
        letters_now: 2,
        ..SinkBooks::default()
    };
    books.counts.records = 3;
    for step in 0..3 {
        metrics.tell_books("http", &books, 20);
        let text = metrics.encode();
        let ends = [
            "sidekick_records_total{",
            "sidekick_records_dead{",
            "sidekick_records_pending{",
        ];
        let ended: u64 = ends.iter().map(|name| sum(&text, name)).sum();
        assert_eq!(ended, 10, "step {step}\n{text}");
        assert_eq!(sum(&text, "sidekick_records_accepted_total{"), 10);
        assert_eq!(sum(&text, "sidekick_dead_letters_kept_total{"), 2);
        let replayed = sum(&text, "sidekick_dead_letters_replayed_total{");
        assert_eq!(replayed, books.replayed);
        let left = 2_u64.saturating_sub(step + 1);
        (books.dead, books.letters_now) = (left, left);
        match step {
            0 => (books.counts.records, books.replayed) = (4, 1),
            1 => books.counts.drop_of("operator", 1),
            _ => {}
        }
    }
}

#[test]
fn the_text_names_what_was_counted() {
    let metrics = Metrics::new();
    metrics.started(1, None);
    metrics.died(&DeathCause::Unknown);
    metrics.started(2, Some(Duration::from_millis(3)));
    raise_to(&metrics.clone().records_committed, 17);
    raise_to(&metrics.records_committed, 5);
    metrics.uploaded("file").inc_by(4);
    metrics.store_fsync_last_seconds.set(0.0002);
    metrics.store_fsyncs.inc();
    for (full, quota) in [(u64::MAX, 1), (9, 2)] {
        metrics.refused(&Refused {
            full,
            quota,
            ..Refused::default()
        });
    }
    let text = metrics.encode();
    for line in [
        "sidekick_engine_starts_total 2",
        "sidekick_engine_deaths_total{cause=\"unknown\"} 1",
        "sidekick_engine_incarnation 2",
        "sidekick_engine_gap_seconds_count 1",
        "sidekick_records_committed_total 17",
        "sidekick_records_uploaded_total{sink=\"file\"} 4",
        "sidekick_store_fsync_last_seconds 0.0002",
        "sidekick_store_fsyncs_total 1",
        "sidekick_records_refused_by_cause_total{cause=\"quota\"} 3",
        "sidekick_records_refused_by_cause_total{cause=\"full\"} 18446744073709551615",
        "sidekick_records_refused_by_cause_total{cause=\"unknown\"} 0",
        "sidekick_ring_records 0",
        "sidekick_standby_up 0",
        "sidekick_standby_parked 0",
        "sidekick_standby_resident_bytes 0",
        "sidekick_standby_promotions_total 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}
