//! `simple_delete.erl`, `delete_command.erl`: one node is deleted, and what lies below it.

use super::*;

#[test]
fn delete_non_existing_node() {
    let mut tree = Tree::default();
    assert_eq!(delete(&mut tree, "/foo"), []);
    assert_eq!(tree.revision(), 0);
}

#[test]
fn delete_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put(&mut tree, "/foo/bar/baz", "b");
    put(&mut tree, "/foo-2", "c");
    let all = ["/foo/bar/baz", "/foo/bar", "/foo"];
    assert_eq!(
        delete(&mut tree, "/foo"),
        all.map(|of| (of.to_owned(), ASKED))
    );
    assert_eq!(names(&tree), ["/foo-2"]);
    assert_eq!(put(&mut tree, "/foo", "a").version, 1);
}

#[test]
fn delete_non_existing_node_under_non_existing_parent() {
    let mut tree = Tree::default();
    assert_eq!(delete(&mut tree, "/foo/bar/baz"), []);
    assert!(names(&tree).is_empty());
}

#[test]
fn delete_a_node_deep_into_the_tree() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz/qux", "a");
    put(&mut tree, "/foo/bar", "b");
    let all = ["/foo/bar/baz/qux", "/foo/bar/baz"];
    assert_eq!(
        delete(&mut tree, "/foo/bar/baz"),
        all.map(|of| (of.to_owned(), ASKED))
    );
    let bar = node(&tree, "/foo/bar");
    assert_eq!((bar.version, bar.child_version, bar.child_count), (2, 2, 0));
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 1, 1));
}

#[test]
fn delete_existing_node_with_condition_true_and_false() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let op = |version| StoreOp::Delete {
        target: pattern("/foo"),
        when: vec![Condition::Version(Comparison::Equal, version)],
    };
    assert_eq!(run(&mut tree, op(2)), Err(ErrorKind::ConditionFailed));
    assert_eq!(run(&mut tree, op(1)).unwrap().count, 1);
    assert!(names(&tree).is_empty());
}

/// Beyond Khepri: what goes is counted, also where the list of it ends, and each node once.
#[test]
fn a_delete_counts_all_that_went() {
    let mut tree = Tree::default();
    let children = NODES_PER_ANSWER_MAX + 476;
    for number in 0..children {
        put(&mut tree, &format!("/imp/{number}"), "a");
    }
    put_keep(&mut tree, "/kept", "/imp", Condition::Exists(true)).unwrap();
    let delete = |tree: &mut Tree, target: &str| {
        let op = StoreOp::Delete {
            target: pattern(target),
            when: Vec::new(),
        };
        run(tree, op).unwrap()
    };
    let answer = delete(&mut tree, "/imp");
    assert_eq!(answer.count, children as u64 + 2);
    assert_eq!(answer.deleted.len(), NODES_PER_ANSWER_MAX);
    assert_eq!(names(&tree), [""; 0]);
    assert_eq!(delete(&mut tree, "/imp").count, 0);

    for at in ["/a/b/c", "/a/d"] {
        put(&mut tree, at, "a");
    }
    // Some that match lie below others that do.
    let answer = delete(&mut tree, "/a/**");
    assert_eq!((answer.count, answer.deleted.len(), tree.len()), (4, 4, 0));
}

/// Beyond Khepri: so does every other write by which nodes go, and it says whether its list of them is whole.
#[test]
fn every_write_counts_what_went_with_it() {
    // One node is the lease's.
    for children in [NODES_PER_ANSWER_MAX - 1, NODES_PER_ANSWER_MAX] {
        let mut tree = Tree::default();
        let op = StoreOp::LeaseGrant {
            path: path("/l"),
            ttl_ms: 1000,
        };
        let granted = run(&mut tree, op).unwrap();
        assert_eq!((granted.count, granted.is_deleted_cut()), (0, false));
        let lease = granted.lease.unwrap();
        for number in 0..children {
            let mut hanging = Put::new(path(&format!("/host_{number}")), value("a"));
            hanging.lease = Some(lease.clone());
            run(&mut tree, StoreOp::Put(hanging)).unwrap();
        }
        let all = children as u64 + 1;
        let is_cut = children == NODES_PER_ANSWER_MAX;
        let cases = [
            StoreOp::LeaseRelease(lease.clone()),
            StoreOp::Transaction {
                compare: Vec::new(),
                then: vec![TransactionOp::Delete {
                    path: path("/l"),
                    when: Vec::new(),
                }],
                otherwise: Vec::new(),
            },
        ];
        for op in cases {
            let mut tree = tree.clone();
            let answer = run(&mut tree, op).unwrap();
            assert_eq!((answer.count, tree.len()), (all, 0));
            assert_eq!(answer.deleted.len(), NODES_PER_ANSWER_MAX);
            assert_eq!(answer.is_deleted_cut(), is_cut, "{children}");
        }
    }
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    put_keep(&mut tree, "/b", "/a", Condition::ValueIs(b"1".to_vec())).unwrap();
    let answer = put(&mut tree, "/a", "2");
    assert_eq!((answer.count, answer.deleted.len()), (1, 1));
}
