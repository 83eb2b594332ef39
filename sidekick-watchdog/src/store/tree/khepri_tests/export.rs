//! `export.erl`: a tree as text and back.

use super::super::export::import;
use super::*;

#[test]
fn what_is_exported_is_imported_and_damage_is_found() {
    let mut tree = Tree::default();
    let godot =
        |at: &str, number: i64| StoreOp::Put(Put::new(path(at), Some(encode(&Value::Int(number)))));
    run(&mut tree, godot("/z", 1)).unwrap();
    run(&mut tree, godot("/a/b", 2)).unwrap();
    let mut kept = Put::new(path("/b"), None);
    kept.keep_while = vec![(path("/z"), Condition::Exists(true))];
    run(&mut tree, StoreOp::Put(kept)).unwrap();
    let text = tree.export().unwrap();
    let mut copy = Tree::default();
    for op in import(&text).unwrap() {
        run(&mut copy, op).unwrap();
    }
    assert_eq!(copy.nodes, tree.nodes);
    for at in 0..text.len() {
        let mut bytes = text.clone().into_bytes();
        bytes[at] ^= 1;
        let damaged = String::from_utf8(bytes).unwrap();
        assert!(import(&damaged).is_err(), "at {at}");
        assert!(import(&text[..at]).is_err());
    }
}
