//! `transactions.erl`, `simple_tx_*.erl`: several writes, or none.

use super::*;

#[test]
fn transaction_put_get_delete() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    let transaction = |wanted: &str| StoreOp::Transaction {
        compare: vec![(path("/a"), Condition::ValueIs(wanted.as_bytes().to_vec()))],
        then: vec![
            TransactionOp::Put(Put::new(path("/b"), value("2"))),
            TransactionOp::Get(path("/b")),
            TransactionOp::Delete {
                path: path("/a"),
                when: Vec::new(),
            },
            TransactionOp::Get(path("/a")),
        ],
        otherwise: vec![TransactionOp::Get(path("/b"))],
    };
    let answer = run(&mut tree, transaction("1")).unwrap();
    assert!(answer.succeeded);
    assert_eq!(answer.revision, 2);
    let versions: Vec<u64> = answer.nodes.iter().map(|node| node.version).collect();
    assert_eq!(versions, [1, 1, 0, 0]);
    assert_eq!(answer.nodes[1].value, value("2"));
    let answer = run(&mut tree, transaction("1")).unwrap();
    assert!(!answer.succeeded);
    assert_eq!((answer.nodes.len(), answer.revision), (1, 2));
}

#[test]
fn transaction_that_fails_in_the_middle_changes_nothing() {
    let mut tree = Tree::default();
    put(&mut tree, "/a", "1");
    put_keep(&mut tree, "/kept", "/a", Condition::Exists(true)).unwrap();
    let before = tree.clone();
    let mut second = Put::new(path("/b"), value("2"));
    second.when = vec![Condition::Exists(true)];
    let op = StoreOp::Transaction {
        compare: Vec::new(),
        then: vec![
            TransactionOp::Delete {
                path: path("/a"),
                when: Vec::new(),
            },
            TransactionOp::Put(Put::new(path("/x/y/z"), value("3"))),
            TransactionOp::Put(second),
        ],
        otherwise: Vec::new(),
    };
    assert_eq!(run(&mut tree, op), Err(ErrorKind::ConditionFailed));
    assert_eq!(tree, before);
}
