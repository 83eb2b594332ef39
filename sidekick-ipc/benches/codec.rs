//! What a value costs: `check` on the game's thread, `decode` and `write_json` in the watchdog. One JSON object a line.
//!
//! Each sample is the mean of a run of calls long enough for the clock (`n` samples); the percentiles are over the
//! samples, so they tell of the machine's noise rather than of single calls.

use std::hint::black_box;
use std::time::Instant;

use sidekick_ipc::value::{Reals, Value, check, decode, encode, write_json};

/// Samples of each case, after as many rounds again for warming up divided by ten.
const SAMPLES: usize = 2_000;
/// Calls in one sample: some ten microseconds.
const CALLS: u32 = 100;

fn four_keys() -> Value {
    Value::Dictionary(vec![
        (Value::from("player"), Value::Int(17)),
        (Value::from("weapon"), Value::from("railgun")),
        (Value::from("damage"), Value::Float(12.5)),
        (Value::from("critical"), Value::Bool(true)),
    ])
}

fn match_state() -> Value {
    let player = |id: i64| {
        Value::Dictionary(vec![
            (Value::from("id"), Value::Int(id)),
            (Value::from("name"), Value::String(format!("Player {id}"))),
            (
                Value::from("position"),
                Value::Vector3(Reals::Single([12.25, 0.1, -7.5])),
            ),
            (Value::from("health"), Value::Float(0.1)),
        ])
    };
    Value::Dictionary(vec![
        (Value::from("map"), Value::from("res://maps/forest.tscn")),
        (
            Value::from("players"),
            Value::Array((0..16).map(player).collect()),
        ),
    ])
}

fn measure(case: &str, mut call: impl FnMut()) {
    let mut sample = || {
        let start = Instant::now();
        (0..CALLS).for_each(|_| call());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    (0..SAMPLES / 10).for_each(|_| {
        black_box(sample());
    });
    let mut samples: Vec<f64> = (0..SAMPLES).map(|_| sample()).collect();
    samples.sort_by(f64::total_cmp);
    let at = |part: f64| (samples[((SAMPLES - 1) as f64 * part) as usize] * 10.0).round() / 10.0;
    println!(
        "{}",
        serde_json::json!({
            "bench": "codec", "case": case, "value": at(0.5), "unit": "ns", "n": SAMPLES,
            "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "beside": {},
        })
    );
}

fn main() {
    for (name, value) in [("four keys", four_keys()), ("16 players", match_state())] {
        let bytes = encode(&value);
        measure(&format!("check, {name}"), || {
            black_box(check(black_box(&bytes))).expect("well-formed");
        });
        measure(&format!("decode, {name}"), || {
            black_box(decode(black_box(&bytes))).expect("well-formed");
        });
        let mut out = Vec::with_capacity(16 << 10);
        measure(&format!("write_json, {name}"), || {
            out.clear();
            write_json(black_box(&bytes), &mut out).expect("well-formed");
            black_box(&out);
        });
        measure(&format!("encode, {name}"), || {
            black_box(encode(black_box(&value)));
        });
    }
}
