//! The words as bytes: what is written is read back, what is not ours is refused, old bytes stay readable.

use proptest::prelude::*;

use super::*;

fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

fn paths() -> impl Strategy<Value = Path> {
    proptest::collection::vec("[a-c]{1,3}", 1..5)
        .prop_map(|segments| path(&format!("/{}", segments.join("/"))))
}

fn conditions() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Condition::Exists),
        any::<bool>().prop_map(Condition::HasValue),
        any::<u64>().prop_map(|of| Condition::Version(Comparison::Less, of)),
        any::<u64>().prop_map(|of| Condition::ChildVersion(Comparison::Equal, of)),
        any::<u64>().prop_map(|of| Condition::ChildCount(Comparison::GreaterOrEqual, of)),
        proptest::collection::vec(any::<u8>(), 0..9).prop_map(Condition::ValueIs),
        any::<u64>().prop_map(Condition::LeaseIs),
        ("[a-z]{1,4}", proptest::collection::vec(any::<u8>(), 0..9)).prop_map(|(key, value)| {
            Condition::Field {
                keys: vec![key],
                comparison: Comparison::NotEqual,
                value,
            }
        }),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|of| Condition::Not(Box::new(of))),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Condition::All),
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Condition::Any),
            (paths(), inner).prop_map(|(path, of)| Condition::At(path, Box::new(of))),
        ]
    })
}

fn puts() -> impl Strategy<Value = Put> {
    (
        paths(),
        proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        proptest::collection::vec(conditions(), 0..3),
        proptest::collection::vec((paths(), conditions()), 0..2),
        proptest::option::of((paths(), any::<u64>())),
    )
        .prop_map(|(path, value, when, keep_while, lease)| Put {
            path,
            value,
            when,
            keep_while,
            lease: lease.map(|(path, token)| LeaseRef { path, token }),
        })
}

fn ops() -> impl Strategy<Value = StoreOp> {
    let transaction_op = prop_oneof![
        puts().prop_map(TransactionOp::Put),
        paths().prop_map(TransactionOp::Get),
        paths().prop_map(|path| TransactionOp::Delete {
            path,
            when: Vec::new()
        }),
    ];
    prop_oneof![
        puts().prop_map(StoreOp::Put),
        (
            proptest::collection::vec((paths(), conditions()), 0..3),
            proptest::collection::vec(transaction_op, 0..3)
        )
            .prop_map(|(compare, then)| StoreOp::Transaction {
                compare,
                then,
                otherwise: Vec::new()
            }),
        ("[a-z]{1,8}", any::<u64>(), any::<u64>()).prop_map(|(key, base, version)| {
            StoreOp::Checkpoint {
                key,
                kind: CheckpointKind::Delta { base },
                version,
                value: vec![1, 2],
                frame: 7,
                realtime_ms: -3,
            }
        }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(op in ops()) {
        let bytes = encode_request(9, &op).unwrap();
        prop_assert_eq!(decode_request::<StoreOp>(&bytes), Some((9, Ok(op))));
    }

    /// Whoever writes the bytes: an error at worst.
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = decode_request::<StoreOp>(&bytes);
        let _ = StoreQuery::decode(&bytes);
        let _ = StoreResult::decode(&bytes);
        let _ = WatchBatch::decode(&bytes);
    }

    #[test]
    fn damaged_bytes_never_panic(op in ops(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = op.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(op) = StoreOp::decode(&bytes) {
            let _ = op.check();
        }
        let _ = StoreOp::decode(&bytes[..at]);
    }

    #[test]
    fn patterns_never_panic(pattern in "/[a*/]{1,40}", name in "/[a/]{1,40}") {
        if let (Ok(pattern), Ok(name)) = (Pattern::new(&pattern), Path::new(&name)) {
            let _ = pattern.matches(&name);
        }
    }
}

/// Conditions that nest for ever would end on the stack of whoever reads them.
#[test]
fn conditions_nested_without_end_are_refused() {
    let mut condition = Condition::Exists(true);
    for _ in 1..CONDITION_DEPTH_MAX {
        condition = Condition::Not(Box::new(condition));
    }
    let mut put = Put::new(path("/a"), None);
    put.when = vec![condition.clone()];
    let deepest = StoreOp::Put(put.clone());
    assert_eq!(
        StoreOp::decode(&deepest.encode().unwrap()),
        Ok(deepest.clone())
    );
    assert_eq!(deepest.check(), Ok(()));

    put.when = vec![Condition::Not(Box::new(condition))];
    let deeper = StoreOp::Put(put);
    assert_eq!(deeper.check(), Err(Invalid::ConditionDepth));
    let error = StoreOp::decode(&deeper.encode().unwrap()).unwrap_err();
    assert!(error.to_string().contains("inside one another"), "{error}");
    // A refusal leaves nothing behind.
    assert!(StoreOp::decode(&deepest.encode().unwrap()).is_ok());

    let mut endless = vec![0; 4];
    endless.extend_from_slice(&2_u64.to_le_bytes());
    endless.extend_from_slice(b"/a\0");
    endless.extend_from_slice(&1_u64.to_le_bytes());
    endless.extend(std::iter::repeat_n([8, 0, 0, 0], 400_000).flatten());
    assert!(StoreOp::decode(&endless).is_err());
}

#[test]
fn limits_are_told_with_their_numbers() {
    let put = |bytes| StoreOp::Put(Put::new(path("/a"), Some(vec![0; bytes])));
    assert_eq!(put(VALUE_BYTES_MAX).check(), Ok(()));
    let error = put(VALUE_BYTES_MAX + 1).check().unwrap_err().to_string();
    assert!(
        error.contains("1048577") && error.contains("1048576"),
        "{error}"
    );
    let many = StoreOp::Transaction {
        compare: Vec::new(),
        then: vec![TransactionOp::Get(path("/a")); OPS_PER_TRANSACTION_MAX + 1],
        otherwise: Vec::new(),
    };
    assert_eq!(many.check(), Err(Invalid::TransactionOps { ops: 129 }));
    let ttl = StoreOp::LeaseGrant {
        path: path("/a"),
        ttl_ms: 99,
    };
    assert!(ttl.check().unwrap_err().to_string().contains("100 ms"));
    let reserved = StoreOp::Put(Put::new(path("/sidekick/a"), None));
    assert!(reserved.check().is_err());
    let huge = StoreOp::Put(Put::new(path("/a"), Some(vec![0; REQUEST_BYTES_MAX])));
    assert!(matches!(huge.encode(), Err(WordsError::TooLarge { .. })));
    let checkpoint = |kind, version| StoreOp::Checkpoint {
        key: "k".into(),
        kind,
        version,
        value: Vec::new(),
        frame: 0,
        realtime_ms: 0,
    };
    assert!(checkpoint(CheckpointKind::Full, 0).check().is_err());
    assert!(checkpoint(CheckpointKind::Full, 1).check().is_ok());
    assert!(
        checkpoint(CheckpointKind::Delta { base: 3 }, 3)
            .check()
            .is_err()
    );
}

/// Logs hold these bytes; a change here makes them unreadable.
#[test]
fn the_encoding_of_ops_does_not_change() {
    let mut put = Put::new(path("/a"), Some(vec![5]));
    put.when = vec![Condition::Version(Comparison::GreaterOrEqual, 2)];
    put.lease = Some(LeaseRef {
        path: path("/l"),
        token: 7,
    });
    let hex = |op: &StoreOp| -> String {
        let bytes = op.encode().unwrap();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    };
    assert_eq!(
        hex(&StoreOp::Put(put)),
        "0000000002000000000000002f610101000000000000000501000000000000000200000005000000\
         0200000000000000000000000000000001\
         02000000000000002f6c0700000000000000"
    );
    let checkpoint = StoreOp::Checkpoint {
        key: "k".into(),
        kind: CheckpointKind::Delta { base: 1 },
        version: 2,
        value: vec![9],
        frame: 3,
        realtime_ms: 4,
    };
    assert_eq!(
        hex(&checkpoint),
        "0700000001000000000000006b01000000010000000000000002000000000000000100000000000000\
         0903000000000000000400000000000000"
    );
    let loaded = StoreOp::Loaded {
        key: "k".into(),
        version: 2,
    };
    assert_eq!(hex(&loaded), "0800000001000000000000006b0200000000000000");
}

#[test]
fn the_beginning_of_a_checkpoint_tells_what_it_is() {
    let request = |op: &StoreOp| encode_request(3, op).unwrap();
    let checkpoint = |kind| {
        request(&StoreOp::Checkpoint {
            key: "match".into(),
            kind,
            version: 9,
            value: vec![1; 1000],
            frame: 1,
            realtime_ms: 1,
        })
    };
    for kind in [CheckpointKind::Full, CheckpointKind::Delta { base: 7 }] {
        let bytes = checkpoint(kind);
        assert_eq!(peek_checkpoint(&bytes), Some(("match", Some(kind))));
        for len in 0..30 {
            let _ = peek_checkpoint(&bytes[..len]);
        }
    }
    let loaded = request(&StoreOp::Loaded {
        key: "match".into(),
        version: 2,
    });
    assert_eq!(peek_checkpoint(&loaded), Some(("match", None)));
    let put = request(&StoreOp::Put(Put::new(path("/a"), None)));
    assert_eq!(peek_checkpoint(&put), None);
}
