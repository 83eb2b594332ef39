//! `advanced_*.erl`, `queries.erl`: many nodes by one pattern.

use super::*;

fn meadow() -> Tree {
    let mut tree = Tree::default();
    for at in [
        "/stock/wood/oak",
        "/stock/wood/birch",
        "/stock/metal/iron",
        "/user_1",
    ] {
        put(&mut tree, at, "a");
    }
    tree
}

#[test]
fn put_many_nodes() {
    let mut tree = meadow();
    let many = |target: &str, when: Vec<Condition>| StoreOp::PutMany {
        pattern: pattern(target),
        value: value("b"),
        when,
    };
    let answer = run(&mut tree, many("/stock/wood/*", Vec::new())).unwrap();
    assert_eq!((answer.count, answer.revision), (2, 5));
    assert_eq!(answer.nodes[0].version, 2);
    assert_eq!(
        (answer.nodes[0].has_value, &answer.nodes[0].value),
        (true, &None)
    );
    // It makes no nodes.
    assert_eq!(
        run(&mut tree, many("/none/*", Vec::new())).unwrap().count,
        0
    );
    assert_eq!(run(&mut tree, many("/new", Vec::new())).unwrap().count, 0);
    let when = vec![Condition::ValueIs(b"a".to_vec())];
    assert_eq!(run(&mut tree, many("/**", when)).unwrap().count, 2);
}

#[test]
fn get_many_nodes_and_count_many_nodes() {
    let tree = meadow();
    let list = |target: &str| -> Vec<String> {
        let page = tree.list(&pattern(target), None, 100);
        assert_eq!(page.next, None);
        page.nodes
            .into_iter()
            .map(|node| node.path.to_string())
            .collect()
    };
    assert_eq!(list("/stock/*"), ["/stock/metal", "/stock/wood"]);
    assert_eq!(list("/stock/*/oak"), ["/stock/wood/oak"]);
    assert_eq!(list("/user_*"), ["/user_1"]);
    assert_eq!(tree.count(&pattern("/**")), 7);
    assert_eq!(tree.count(&pattern("/stock/**")), 5);
    assert_eq!(tree.count(&pattern("/stock")), 1);
}

#[test]
fn delete_many_nodes() {
    let mut tree = meadow();
    let found = delete(&mut tree, "/stock/wood/*");
    assert_eq!(found.len(), 3);
    assert_eq!(
        names(&tree),
        ["/stock", "/stock/metal", "/stock/metal/iron", "/user_1"]
    );
    assert_eq!(delete(&mut tree, "/**").len(), 4);
    assert!(names(&tree).is_empty());
}

#[test]
fn a_pattern_that_is_too_wide_is_refused_whole() {
    let mut tree = Tree::default();
    for number in 0..=NODES_PER_PATTERN_WRITE_MAX {
        put(&mut tree, &format!("/n/{number}"), "a");
    }
    let op = StoreOp::Delete {
        target: pattern("/n/*"),
        when: Vec::new(),
    };
    assert_eq!(run(&mut tree, op), Err(ErrorKind::TooLarge));
    assert_eq!(tree.len(), NODES_PER_PATTERN_WRITE_MAX + 2);
    assert_eq!(
        delete(&mut tree, "/n").len(),
        1024,
        "an answer names no more"
    );
    assert_eq!(tree.len(), 0);
}
