//! Counts the bytes that the readers of values allocate: `check` none, `decode` a small multiple of its input, for
//! hostile input too. A counting allocator is the program's own, so this is a test binary of its own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sidekick_ipc::value::{Value, check, decode, encode, write_json};

struct Counting;

thread_local! {
    /// Bytes asked for by this thread, whether given back or not.
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// JUSTIFICATION: only a global allocator sees every allocation.
// SAFETY: every call is passed on to the system's allocator unchanged; counting allocates nothing, since the
// thread-local is constant at its start and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|bytes| bytes.set(bytes.get().saturating_add(layout.size())));
        // SAFETY: the caller's promises for `alloc` are those of the system's allocator.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: `pointer` came from `System.alloc` above with the same layout.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn allocated<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.get();
    let result = work();
    (result, ALLOCATED.get() - before)
}

/// A `null` of four bytes becomes a `Value` of 32; the rest (boxes, names of node paths) stays below that.
fn bound(len: usize) -> usize {
    16 * len + 256
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn four_keys() -> Vec<u8> {
    encode(&Value::Dictionary(vec![
        (Value::from("player"), Value::Int(17)),
        (Value::from("weapon"), Value::from("railgun")),
        (Value::from("damage"), Value::Float(12.5)),
        (Value::from("critical"), Value::Bool(true)),
    ]))
}

#[test]
fn checking_a_good_value_allocates_nothing() {
    let bytes = four_keys();
    let (result, count) = allocated(|| check(&bytes));
    assert_eq!((result, count), (Ok(()), 0));
}

#[test]
fn json_needs_no_memory_but_its_output() {
    let bytes = four_keys();
    let mut out = Vec::with_capacity(4096);
    let (result, count) = allocated(|| write_json(&bytes, &mut out));
    assert_eq!((result, count), (Ok(()), 0));
}

#[test]
fn counts_that_lie_reserve_nothing() {
    for kind in 0..39 {
        for count in [u32::MAX, u32::MAX >> 1, 1 << 28, 1 << 20] {
            for flag in [0, 1 << 16] {
                let bytes = words(&[kind | flag, count, 0, 0]);
                let (_, count) = allocated(|| decode(&bytes).is_ok());
                assert!(count <= bound(bytes.len()), "type {kind}: {count} bytes");
            }
        }
    }
}

/// Each of 64 arrays in one another announces as many items as the remaining bytes could hold; believing each by
/// itself would reserve 64 times too much.
#[test]
fn nested_counts_that_lie_reserve_nothing() {
    let len = 65_536;
    let mut bytes = Vec::new();
    for _ in 0..64 {
        bytes.extend(words(&[28, ((len - bytes.len() - 8) / 4) as u32]));
    }
    bytes.resize(len, 0);
    let (_, honest) = allocated(|| decode(&bytes).is_ok());
    assert!(honest <= bound(len), "{honest} bytes for {len}");

    // The broken variant: what a decoder that believes each count by itself would have reserved.
    let (_, broken) = allocated(|| {
        for level in 0..64 {
            drop(Vec::<Value>::with_capacity((len - 8 * level - 8) / 4));
        }
    });
    assert!(
        broken > bound(len),
        "the bound of this test would not catch a decoder that believes every count"
    );
}

#[test]
fn decoding_takes_a_small_multiple_of_the_input() {
    let values = [
        Value::Array(vec![Value::Nil; 10_000]),
        Value::Array(vec![Value::Array(vec![]); 10_000]),
        Value::Dictionary(vec![(Value::Nil, Value::Nil); 5_000]),
        Value::PackedStringArray(vec![String::new(); 10_000]),
        Value::Array(vec![Value::NodePath(Box::default()); 5_000]),
        Value::PackedByteArray(vec![1; 50_000]),
        Value::Array(vec![Value::from(""); 5_000]),
    ];
    for value in values {
        let bytes = encode(&value);
        let (decoded, count) = allocated(|| decode(&bytes));
        assert_eq!(decoded.expect("decodes"), value);
        assert!(
            count <= bound(bytes.len()),
            "{count} bytes for {}",
            bytes.len()
        );
    }
}
