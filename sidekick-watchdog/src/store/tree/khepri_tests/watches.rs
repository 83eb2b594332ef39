//! `triggers.erl`: what is told of changes.

use super::*;

#[test]
fn event_triggers_tell_of_every_change_in_order() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    put(&mut tree, "/foo/bar", "b");
    delete(&mut tree, "/foo/bar");
    let put_event = |at: &str, version, text: Option<&str>| {
        let value = text.and_then(value);
        (at.to_owned(), WatchKind::Put { version, value })
    };
    let gone = |at: &str, reason| (at.to_owned(), WatchKind::Delete { reason });
    let all = [
        put_event("/foo", 1, None),
        put_event("/foo/bar", 1, Some("a")),
        put_event("/foo/bar", 2, Some("b")),
        gone("/foo/bar", ASKED),
        gone("/foo", KEPT),
    ];
    assert_eq!(events(&tree, 0), all);
    assert_eq!(events(&tree, 1), all[2..]);
    assert_eq!(events(&tree, 3), []);
}

#[test]
fn filter_on_change_type_and_pattern() {
    let mut tree = Tree::default();
    put(&mut tree, "/a/x", "1");
    put(&mut tree, "/b/x", "1");
    let batch = tree.events_after(&pattern("/*/x"), 1, usize::MAX);
    assert_eq!(batch.events.len(), 1);
    assert_eq!((batch.revision, batch.compacted), (2, false));
    // Nothing that matches is still told as seen.
    let batch = tree.events_after(&pattern("/none"), 0, 1);
    assert_eq!((batch.revision, batch.events.len()), (2, 0));
}

/// A watcher that fell too far behind, or comes from another tree, is told so.
#[test]
fn a_watcher_too_far_behind_is_told() {
    let mut tree = Tree::default();
    for number in 0..10_000 {
        put(&mut tree, "/a", &number.to_string());
    }
    let batch = tree.events_after(&pattern("/a"), 100, usize::MAX);
    assert!(batch.compacted);
    assert_eq!((batch.events.len(), batch.revision), (8192, 10_000));
    assert!(
        !tree
            .events_after(&pattern("/a"), 10_000 - 8192, 1)
            .compacted
    );
    assert!(
        tree.events_after(&pattern("/a"), 10_000 - 8193, 1)
            .compacted
    );
    assert!(tree.events_after(&pattern("/a"), 10_001, 1).compacted);
    let value = vec![7; VALUE_BYTES_MAX];
    for number in 0..9 {
        let op = StoreOp::Put(Put::new(path(&format!("/{number}")), Some(value.clone())));
        run(&mut tree, op).unwrap();
    }
    assert!(tree.events_after(&pattern("/a"), 10_000, 1).compacted);
    assert!(!tree.events_after(&pattern("/a"), 10_003, 1).compacted);
    // One write with more than can be told at once.
    let many = StoreOp::PutMany {
        pattern: pattern("/*"),
        value: Some(vec![8; VALUE_BYTES_MAX]),
        when: Vec::new(),
    };
    run(&mut tree, many).unwrap();
    assert!(tree.events_after(&pattern("/a"), 10_009, 1).compacted);
    assert!(!tree.events_after(&pattern("/a"), 10_010, 1).compacted);
}
