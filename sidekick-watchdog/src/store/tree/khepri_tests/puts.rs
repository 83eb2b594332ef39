//! `simple_put.erl`, `put_command.erl`: one node is written.

use super::*;

#[test]
fn create_non_existing_node() {
    let mut tree = Tree::default();
    let answer = put_if(&mut tree, "/foo", "a", Condition::Exists(false)).unwrap();
    assert_eq!(
        (answer.version, answer.revision, answer.succeeded),
        (1, 1, true)
    );
}

#[test]
fn create_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let refused = put_if(&mut tree, "/foo", "b", Condition::Exists(false));
    assert_eq!(refused, Err(ErrorKind::ConditionFailed));
    assert_eq!(node(&tree, "/foo").value, value("a"));
    assert_eq!(tree.revision(), 1);
}

#[test]
fn insert_non_existing_node() {
    let mut tree = Tree::default();
    assert_eq!(put(&mut tree, "/foo", "a").version, 1);
}

#[test]
fn insert_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    assert_eq!(put(&mut tree, "/foo", "b").version, 2);
    assert_eq!(node(&tree, "/foo").child_version, 1);
}

/// No new version, so no event and no revision either.
#[test]
fn insert_existing_node_with_identical_payload() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let again = put(&mut tree, "/foo", "a");
    assert_eq!((again.version, again.revision), (1, 1));
    assert_eq!(events(&tree, 0).len(), 1);
}

#[test]
fn update_non_existing_node() {
    let mut tree = Tree::default();
    let refused = put_if(&mut tree, "/foo", "a", Condition::Exists(true));
    assert_eq!(refused, Err(ErrorKind::ConditionFailed));
    assert!(names(&tree).is_empty());
}

#[test]
fn update_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let answer = put_if(&mut tree, "/foo", "b", Condition::Exists(true));
    assert_eq!(answer.unwrap().version, 2);
}

#[test]
fn compare_and_swap_matching_and_mismatching_and_non_existing_node() {
    let mut tree = Tree::default();
    let is = |text: &str| Condition::ValueIs(text.as_bytes().to_vec());
    let missing = put_if(&mut tree, "/foo", "b", is("a"));
    assert_eq!(missing, Err(ErrorKind::ConditionFailed));
    put(&mut tree, "/foo", "a");
    assert_eq!(put_if(&mut tree, "/foo", "b", is("a")).unwrap().version, 2);
    assert_eq!(
        put_if(&mut tree, "/foo", "c", is("a")),
        Err(ErrorKind::ConditionFailed)
    );
    assert_eq!(node(&tree, "/foo").value, value("b"));
}

#[test]
fn clear_payload_from_existing_node() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo", "a");
    let clear = || StoreOp::Put(Put::new(path("/foo"), None));
    assert_eq!(run(&mut tree, clear()).unwrap().version, 2);
    assert_eq!(node(&tree, "/foo").value, None);
    assert_eq!(run(&mut tree, clear()).unwrap().version, 2);
}

#[test]
fn insert_a_node_with_path_containing_non_existing_nodes() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/bar/baz", "a");
    assert_eq!(names(&tree), ["/foo", "/foo/bar", "/foo/bar/baz"]);
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 1, 1));
}

#[test]
fn child_list_version_and_length_follow_the_children() {
    let mut tree = Tree::default();
    put(&mut tree, "/foo/a", "a");
    put(&mut tree, "/foo/b", "b");
    let foo = node(&tree, "/foo");
    assert_eq!((foo.version, foo.child_version, foo.child_count), (1, 2, 2));
    // A grandchild or a child's value is no change of the list.
    put(&mut tree, "/foo/b", "c");
    put(&mut tree, "/foo/b/c", "c");
    assert_eq!(node(&tree, "/foo").child_version, 2);
    delete(&mut tree, "/foo/b");
    let foo = node(&tree, "/foo");
    assert_eq!((foo.child_version, foo.child_count), (3, 1));
}

#[test]
fn a_full_tree_takes_no_more_and_gives_back() {
    let mut tree = Tree::default();
    let big = |number: usize| {
        StoreOp::Put(Put::new(
            path(&format!("/{number}")),
            Some(vec![0; VALUE_BYTES_MAX]),
        ))
    };
    let mut count = 0;
    while run(&mut tree, big(count)).is_ok() {
        count += 1;
    }
    assert_eq!(count, 255);
    let before = tree.clone();
    assert_eq!(run(&mut tree, big(count)), Err(ErrorKind::TreeFull));
    assert_eq!(tree, before);
    delete(&mut tree, "/0");
    assert!(run(&mut tree, big(count)).is_ok());
}
