//! `simple_get.erl`, `conditions.erl`: what a node is, and what is asked about it.

use super::*;

#[test]
fn get_non_existing_node() {
    assert_eq!(Tree::default().get(&path("/foo")), None);
}

#[test]
fn get_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    let info = node(&tree, "/foo/bar");
    assert_eq!(
        (info.version, info.child_version, info.child_count),
        (1, 1, 0)
    );
    assert_eq!(info.value, value("a"));
}

#[test]
fn exists_and_has_data() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar", "a");
    assert!(tree.holds(&path("/foo"), &Condition::Exists(true)));
    assert!(tree.holds(&path("/foo"), &Condition::HasValue(false)));
    assert!(tree.holds(&path("/foo/bar"), &Condition::HasValue(true)));
    assert!(tree.holds(&path("/baz"), &Condition::Exists(false)));
    assert!(tree.holds(&path("/baz"), &Condition::HasValue(false)));
}

#[test]
fn if_payload_version_and_if_child_list_version_and_length() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    put(&mut tree, "/foo", "b");
    put(&mut tree, "/foo/x", "x");
    let foo = path("/foo");
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
    let table = [
        (Equal, 2, true),
        (NotEqual, 2, false),
        (Less, 2, false),
        (LessOrEqual, 2, true),
        (Greater, 1, true),
        (GreaterOrEqual, 3, false),
    ];
    for (comparison, than, expected) in table {
        assert_eq!(
            tree.holds(&foo, &Condition::Version(comparison, than)),
            expected
        );
        assert_eq!(
            tree.holds(&foo, &Condition::ChildVersion(comparison, than)),
            expected
        );
        let count = Condition::ChildCount(comparison, than - 1);
        assert_eq!(tree.holds(&foo, &count), expected, "{count:?}");
    }
    assert!(tree.holds(&path("/none"), &Condition::Version(Equal, 0)));
}

#[test]
fn if_not_and_if_all_and_if_any() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let (yes, no) = (Condition::Exists(true), Condition::Exists(false));
    let holds = |condition| tree.holds(&path("/foo"), &condition);
    assert!(holds(Condition::Not(Box::new(no.clone()))));
    assert!(holds(Condition::All(vec![yes.clone(), yes.clone()])));
    assert!(!holds(Condition::All(vec![yes.clone(), no.clone()])));
    assert!(holds(Condition::All(Vec::new())));
    assert!(holds(Condition::Any(vec![no.clone(), yes])));
    assert!(!holds(Condition::Any(Vec::new())));
    assert!(holds(Condition::At(path("/bar"), Box::new(no))));
}

/// Khepri's match specifications; ours look into dictionaries.
#[test]
fn if_data_matches() {
    let mut tree = Tree::default();
    let entry = |key: &str, value| (Value::from(key), value);
    let inner = Value::Dictionary(vec![
        entry("state", "open".into()),
        entry("rank", Value::Float(2.5)),
    ]);
    let lobby = Value::Dictionary(vec![entry("size", 16.into()), entry("of", inner)]);
    run(
        &mut tree,
        StoreOp::Put(Put::new(path("/lobby"), Some(encode(&lobby)))),
    )
    .unwrap();
    let holds = |keys: &[&str], comparison, value: Value| {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        let value = encode(&value);
        let field = Condition::Field {
            keys,
            comparison,
            value,
        };
        tree.holds(&path("/lobby"), &field)
    };
    assert!(holds(&["size"], Comparison::Equal, 16.into()));
    assert!(holds(&["size"], Comparison::Greater, Value::Float(15.5)));
    assert!(holds(&["of", "state"], Comparison::Equal, "open".into()));
    assert!(holds(
        &["of", "state"],
        Comparison::Equal,
        Value::StringName("open".into())
    ));
    assert!(holds(&["of", "rank"], Comparison::Less, 3.into()));
    assert!(holds(&["of", "state"], Comparison::NotEqual, 3.into()));
    assert!(!holds(&["of", "state"], Comparison::Less, 3.into()));
    assert!(!holds(&["of", "none"], Comparison::NotEqual, 3.into()));
    assert!(!holds(&["size", "of"], Comparison::NotEqual, 3.into()));
    let bytes = Condition::Field {
        keys: vec!["size".into()],
        comparison: Comparison::NotEqual,
        value: vec![1, 2, 3],
    };
    assert!(!tree.holds(&path("/lobby"), &bytes));
    assert!(!tree.holds(&path("/none"), &bytes));
}

/// "Lobby full", in one put.
#[test]
fn a_put_may_ask_about_another_node() {
    let mut tree = Tree::default();
    let join = |tree: &mut Tree, who: &str| {
        let room = Condition::ChildCount(Comparison::Less, 2);
        let room = Condition::At(path("/lobby"), Box::new(room));
        put_if(tree, &format!("/lobby/{who}"), "in", room)
    };
    assert!(join(&mut tree, "a").is_ok());
    assert!(join(&mut tree, "b").is_ok());
    assert_eq!(join(&mut tree, "c"), Err(ErrorKind::ConditionFailed));
}
