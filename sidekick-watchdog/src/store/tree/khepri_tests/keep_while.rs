//! `keep_while_conditions.erl`, `return_indirect_deletes_option.erl`: nodes that live while something holds.

use super::*;

#[test]
fn insert_when_keep_while_true_and_false() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    assert!(put_keep(&mut tree, "/baz", "/foo", Condition::Exists(true)).is_ok());
    let refused = put_keep(&mut tree, "/bar", "/none", Condition::Exists(true));
    assert_eq!(refused, Err(ErrorKind::KeepWhileFailed));
    assert_eq!(names(&tree), ["/baz", "/foo"]);
}

/// What a node asks of itself need not hold yet; it is looked at when its children come and go.
#[test]
fn insert_when_keep_while_false_on_self() {
    let mut tree = Tree::default();
    let has_child = Condition::ChildCount(Comparison::Greater, 0);
    put_keep(&mut tree, "/foo", "/foo", has_child).unwrap();
    put(&mut tree, "/foo", "b");
    assert_eq!(names(&tree), ["/foo"]);
    put(&mut tree, "/foo/x", "x");
    let expected = [("/foo/x".to_owned(), ASKED), ("/foo".to_owned(), KEPT)];
    assert_eq!(delete(&mut tree, "/foo/x"), expected);
}

#[test]
fn keep_while_still_true_after_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(
        &mut tree,
        "/baz",
        "/foo",
        Condition::ChildCount(Comparison::Less, 2),
    )
    .unwrap();
    put(&mut tree, "/foo/x", "x");
    assert!(names(&tree).contains(&"/baz"));
}

#[test]
fn keep_while_now_false_after_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(
        &mut tree,
        "/baz",
        "/foo",
        Condition::ChildCount(Comparison::Less, 1),
    )
    .unwrap();
    let answer = put(&mut tree, "/foo/x", "x");
    assert_eq!(gone(answer), [("/baz".to_owned(), KEPT)]);
    assert_eq!(names(&tree), ["/foo", "/foo/x"]);
}

#[test]
fn keep_while_now_false_after_delete_command() {
    let mut tree = Tree::default();
    put(&mut tree, "/server/7", "a");
    put_keep(
        &mut tree,
        "/match/1/player/2",
        "/server/7",
        Condition::Exists(true),
    )
    .unwrap();
    let all = [
        ("/server/7", ASKED),
        ("/server", KEPT),
        ("/match/1/player/2", KEPT),
        ("/match/1/player", KEPT),
        ("/match/1", KEPT),
        ("/match", KEPT),
    ];
    let mut found = delete(&mut tree, "/server/7");
    let mut expected = all.map(|(of, reason)| (of.to_owned(), reason)).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    assert!(names(&tree).is_empty());
}

/// A put may be what ends a node elsewhere; its answer says so.
#[test]
fn put_returns_indirect_deletes() {
    let mut tree = Tree::default();
    put_keep(&mut tree, "/bar", "/foo", Condition::Exists(false)).unwrap();
    let answer = put(&mut tree, "/foo", "a");
    assert_eq!(gone(answer), [("/bar".to_owned(), KEPT)]);
    assert_eq!(names(&tree), ["/foo"]);
}

#[test]
fn recursive_automatic_cleanup() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "a");
    for (of, asked) in [("/b", "/a"), ("/c", "/b"), ("/d", "/c")] {
        put_keep(&mut tree, of, asked, Condition::Exists(true)).unwrap();
    }
    // A circle ends, too.
    put_keep(&mut tree, "/b", "/d", Condition::Exists(true)).unwrap();
    put_keep(&mut tree, "/b", "/a", Condition::Exists(true)).unwrap();
    delete(&mut tree, "/a");
    assert!(names(&tree).is_empty());
    assert_eq!(tree.index, Default::default());
}

/// A later put that says nothing of it leaves a keep-while as it is.
#[test]
fn a_put_without_keep_while_leaves_it_standing() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put_keep(&mut tree, "/bar", "/foo", Condition::Exists(true)).unwrap();
    put(&mut tree, "/bar", "new");
    delete(&mut tree, "/foo");
    assert!(names(&tree).is_empty());
}

#[test]
fn automatic_reclaim_of_useless_nodes_works() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    let all = [("/foo/bar/baz", ASKED), ("/foo/bar", KEPT), ("/foo", KEPT)];
    let all = all.map(|(of, reason)| (of.to_owned(), reason));
    assert_eq!(delete(&mut tree, "/foo/bar/baz"), all);
}

#[test]
fn automatic_reclaim_keeps_relevant_nodes() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    put(&mut tree, "/foo/bar", "b");
    put(&mut tree, "/foo/other", "c");
    delete(&mut tree, "/foo/bar/baz");
    assert_eq!(names(&tree), ["/foo", "/foo/bar", "/foo/other"]);
    delete(&mut tree, "/foo/bar");
    assert_eq!(names(&tree), ["/foo", "/foo/other"]);
}
