//! The limits of ops and queries that their types do not hold by themselves.

use super::{
    CHECKPOINT_KEY_BYTES_MAX, CONDITION_DEPTH_MAX, CONDITIONS_MAX, CheckpointKind, Condition,
    FIELD_KEYS_MAX, KEEP_WHILE_MAX, LEASE_TTL_MS_MAX, LEASE_TTL_MS_MIN, NODES_PER_ANSWER_MAX,
    OPS_PER_TRANSACTION_MAX, Put, StoreOp, StoreQuery, TRANSACTION_BYTES_MAX, TransactionOp,
    VALUE_BYTES_MAX,
};

/// Why an op or query is refused before anybody looks at the tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// A value is too large.
    #[error("a value is {bytes} bytes, the limit is {max}; split it over several nodes", max = VALUE_BYTES_MAX)]
    ValueBytes {
        /// How large.
        bytes: usize,
    },
    /// A transaction holds too many ops.
    #[error("the transaction holds {ops} ops, the limit is {max}", max = OPS_PER_TRANSACTION_MAX)]
    TransactionOps {
        /// How many.
        ops: usize,
    },
    /// A transaction's values are too large.
    #[error("the transaction's values are {bytes} bytes in all, the limit is {max}", max = TRANSACTION_BYTES_MAX)]
    TransactionBytes {
        /// How large.
        bytes: usize,
    },
    /// Too many conditions.
    #[error("more than {max} conditions in one write", max = CONDITIONS_MAX)]
    Conditions,
    /// Conditions too deep inside one another.
    #[error("more than {max} conditions inside one another", max = CONDITION_DEPTH_MAX)]
    ConditionDepth,
    /// A keep-while with a condition on yet another node.
    #[error("a keep-while condition names its node itself and cannot ask about another one")]
    KeepWhileAt,
    /// Too many keep-while conditions.
    #[error("{count} keep-while conditions on one node, the limit is {max}", max = KEEP_WHILE_MAX)]
    KeepWhile {
        /// How many.
        count: usize,
    },
    /// No keys, or too many.
    #[error("a condition on a field goes {keys} keys inwards, it has to be 1 to {max}", max = FIELD_KEYS_MAX)]
    FieldKeys {
        /// How many.
        keys: usize,
    },
    /// A write below Sidekick's own segment.
    #[error("path {path:?} is kept for Sidekick; choose another first segment than \"sidekick\"")]
    Reserved {
        /// The path.
        path: String,
    },
    /// A lease that is too short or too long.
    #[error(
        "a lease of {ttl_ms} ms, it has to be {min} ms to {max} ms",
        min = LEASE_TTL_MS_MIN, max = LEASE_TTL_MS_MAX
    )]
    LeaseTtl {
        /// How long.
        ttl_ms: u64,
    },
    /// A key of a checkpoint that is empty or too long.
    #[error("a checkpoint's key of {bytes} bytes, it has to be 1 to {max}", max = CHECKPOINT_KEY_BYTES_MAX)]
    CheckpointKey {
        /// How long.
        bytes: usize,
    },
    /// Version 0, which says that there is none; or a delta that is not above its base.
    #[error(
        "checkpoint version {version} is none; versions begin at 1, and a delta's is above its base"
    )]
    CheckpointVersion {
        /// Which.
        version: u64,
    },
    /// A page of no nodes.
    #[error("a list of {limit} nodes, it has to be 1 to {max}", max = NODES_PER_ANSWER_MAX)]
    ListLimit {
        /// How many.
        limit: u32,
    },
}

/// What the checks of one write add up.
#[derive(Default)]
struct Sum {
    conditions: usize,
    bytes: usize,
}

impl Sum {
    fn value(&mut self, value: Option<&Vec<u8>>) -> Result<(), Invalid> {
        let bytes = value.map_or(0, Vec::len);
        self.bytes = self.bytes.saturating_add(bytes);
        match bytes > VALUE_BYTES_MAX {
            true => Err(Invalid::ValueBytes { bytes }),
            false => Ok(()),
        }
    }

    fn conditions<'a>(
        &mut self,
        of: impl IntoIterator<Item = &'a Condition>,
    ) -> Result<(), Invalid> {
        for condition in of {
            condition.check(1, false, &mut self.conditions)?;
            self.bytes = self.bytes.saturating_add(condition.value_bytes());
        }
        Ok(())
    }

    fn put(&mut self, put: &Put) -> Result<(), Invalid> {
        writable(put.path.is_reserved(), put.path.as_str())?;
        self.value(put.value.as_ref())?;
        self.conditions(&put.when)?;
        if put.keep_while.len() > KEEP_WHILE_MAX {
            return Err(Invalid::KeepWhile {
                count: put.keep_while.len(),
            });
        }
        for (_, condition) in &put.keep_while {
            condition.check(1, true, &mut self.conditions)?;
            self.bytes = self.bytes.saturating_add(condition.value_bytes());
        }
        Ok(())
    }

    fn whole(&self) -> Result<(), Invalid> {
        match self.bytes > TRANSACTION_BYTES_MAX.saturating_mul(2) {
            true => Err(Invalid::TransactionBytes { bytes: self.bytes }),
            false => Ok(()),
        }
    }
}

fn writable(is_reserved: bool, path: &str) -> Result<(), Invalid> {
    match is_reserved {
        true => Err(Invalid::Reserved {
            path: path.chars().take(64).collect(),
        }),
        false => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), Invalid> {
    match (1..=CHECKPOINT_KEY_BYTES_MAX).contains(&key.len()) {
        true => Ok(()),
        false => Err(Invalid::CheckpointKey { bytes: key.len() }),
    }
}

impl StoreOp {
    /// Checks the limits that its types do not hold by themselves. The store refuses whatever fails here, so the game
    /// asks first, for a clear error in place.
    ///
    /// # Errors
    /// [`Invalid`] says which limit.
    pub fn check(&self) -> Result<(), Invalid> {
        let mut sum = Sum::default();
        match self {
            Self::Put(put) => sum.put(put)?,
            Self::PutMany {
                pattern,
                value,
                when,
            } => {
                writable(pattern.is_reserved(), pattern.as_str())?;
                sum.value(value.as_ref())?;
                sum.conditions(when)?;
            }
            Self::Delete { target, when } => {
                writable(target.is_reserved(), target.as_str())?;
                sum.conditions(when)?;
            }
            Self::Transaction {
                compare,
                then,
                otherwise,
            } => {
                let ops = then.len().saturating_add(otherwise.len());
                if ops > OPS_PER_TRANSACTION_MAX {
                    return Err(Invalid::TransactionOps { ops });
                }
                sum.conditions(compare.iter().map(|(_, condition)| condition))?;
                for op in then.iter().chain(otherwise) {
                    match op {
                        TransactionOp::Put(put) => sum.put(put)?,
                        TransactionOp::Get(_) => {}
                        TransactionOp::Delete { path, when } => {
                            writable(path.is_reserved(), path.as_str())?;
                            sum.conditions(when)?;
                        }
                    }
                }
                if sum.bytes > TRANSACTION_BYTES_MAX {
                    return Err(Invalid::TransactionBytes { bytes: sum.bytes });
                }
            }
            Self::LeaseGrant { path, ttl_ms } => {
                writable(path.is_reserved(), path.as_str())?;
                if !(LEASE_TTL_MS_MIN..=LEASE_TTL_MS_MAX).contains(ttl_ms) {
                    return Err(Invalid::LeaseTtl { ttl_ms: *ttl_ms });
                }
            }
            Self::LeaseRenew(_) | Self::LeaseRelease(_) => {}
            Self::Checkpoint {
                key,
                kind,
                version,
                value,
                ..
            } => {
                check_key(key)?;
                let above = match kind {
                    CheckpointKind::Full => 0,
                    CheckpointKind::Delta { base } => (*base).max(1),
                };
                if *version <= above {
                    return Err(Invalid::CheckpointVersion { version: *version });
                }
                sum.value(Some(value))?;
            }
            Self::ForgetCheckpoint { key } => check_key(key)?,
            Self::Loaded { key, version } => {
                check_key(key)?;
                if *version == 0 {
                    return Err(Invalid::CheckpointVersion { version: 0 });
                }
            }
        }
        sum.whole()
    }
}

impl StoreQuery {
    /// As [`StoreOp::check`].
    ///
    /// # Errors
    /// [`Invalid`] says which limit.
    pub fn check(&self) -> Result<(), Invalid> {
        match self {
            Self::List { limit, .. } if !(1..=NODES_PER_ANSWER_MAX as u32).contains(limit) => {
                Err(Invalid::ListLimit { limit: *limit })
            }
            Self::Restore { key, .. } => check_key(key),
            _ => Ok(()),
        }
    }
}
