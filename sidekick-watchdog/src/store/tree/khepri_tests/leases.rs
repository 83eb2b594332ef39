//! Leases, which Khepri has not.

use super::*;

fn grant(tree: &mut Tree, who: (&str, u128), time_ms: u64) -> Result<LeaseRef, ErrorKind> {
    let op = StoreOp::LeaseGrant {
        path: path("/match/1"),
        ttl_ms: 1000,
    };
    try_as(tree, who, time_ms, op).map(|answer| answer.lease.unwrap())
}

#[test]
fn a_lease_has_one_holder_and_ends_by_log_time() {
    let mut tree = Tree::default();
    let (a, b) = (("a", 20), ("b", 21));
    let first = grant(&mut tree, a, 0).unwrap();
    assert_eq!(grant(&mut tree, b, 500), Err(ErrorKind::LeaseHeld));
    assert_eq!(node(&tree, "/match/1").lease, first.token);
    try_as(&mut tree, a, 900, StoreOp::LeaseRenew(first.clone())).unwrap();
    assert_eq!(tree.next_end_ns(), Some(1_900_000_000));
    // What hangs on it, and a guarded write.
    let mut guarded = Put::new(path("/state"), value("x"));
    guarded.lease = Some(first.clone());
    run(&mut tree, StoreOp::Put(guarded.clone())).unwrap();
    tree.expire(1_899_999_999);
    assert_eq!(names(&tree), ["/match", "/match/1", "/state"]);
    tree.expire(1_900_000_000);
    assert!(names(&tree).is_empty());
    assert_eq!(
        run(&mut tree, StoreOp::Put(guarded)),
        Err(ErrorKind::LeaseLost)
    );
    let renew = StoreOp::LeaseRenew(first.clone());
    assert_eq!(try_as(&mut tree, a, 2000, renew), Err(ErrorKind::LeaseLost));
    let second = grant(&mut tree, b, 2000).unwrap();
    assert!(second.token > first.token);
    let release = |lease| StoreOp::LeaseRelease(lease);
    assert_eq!(run(&mut tree, release(first)), Err(ErrorKind::LeaseLost));
    let answer = run(&mut tree, release(second)).unwrap();
    assert_eq!(
        gone(answer)[0],
        ("/match/1".to_owned(), DeleteReason::Lease)
    );
    assert_eq!(tree.next_end_ns(), None);
}

/// The game that went on after a death takes its own lease back at once, and what hangs on it stays.
#[test]
fn a_lease_goes_over_to_the_next_session_of_its_source() {
    let mut tree = Tree::default();
    let first = grant(&mut tree, ("a", 5), 0).unwrap();
    let mut hanging = Put::new(path("/state"), value("x"));
    hanging.lease = Some(first.clone());
    run(&mut tree, StoreOp::Put(hanging)).unwrap();
    assert_eq!(grant(&mut tree, ("b", 11), 1), Err(ErrorKind::LeaseHeld));
    let second = grant(&mut tree, ("a", 12), 1).unwrap();
    assert!(second.token > first.token);
    assert!(names(&tree).contains(&"/state"));
    // That one has not ended.
    assert_eq!(grant(&mut tree, ("a", 13), 2), Err(ErrorKind::LeaseHeld));
    // A value makes the node one that stays without its lease.
    put(&mut tree, "/match/1", "value");
    tree.expire(5_000_000_000);
    assert_eq!(names(&tree), ["/match", "/match/1"]);
    assert_eq!(node(&tree, "/match/1").lease, 0);
}
