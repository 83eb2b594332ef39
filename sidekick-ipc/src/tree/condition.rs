//! What a write may ask of a node before it changes anything, and a kept node of others for as long as it lives.

use std::cell::Cell;

use serde::{Deserialize, Deserializer, Serialize};

use super::path::Path;
use super::{FIELD_KEYS_MAX, Invalid, VALUE_BYTES_MAX};

/// How many conditions may stand inside one another.
pub const CONDITION_DEPTH_MAX: usize = 8;
/// How many conditions one write may hold, those inside others included.
pub const CONDITIONS_MAX: usize = 128;

/// How two things are compared: what is found stands to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// `==`
    Equal,
    /// `!=`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

impl Comparison {
    /// Whether `found` stands to `wanted` as asked.
    pub fn holds<T: PartialOrd + ?Sized>(self, found: &T, wanted: &T) -> bool {
        match self {
            Self::Equal => found == wanted,
            Self::NotEqual => found != wanted,
            Self::Less => found < wanted,
            Self::LessOrEqual => found <= wanted,
            Self::Greater => found > wanted,
            Self::GreaterOrEqual => found >= wanted,
        }
    }

    /// The operator as GDScript writes it.
    pub fn symbol(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
        }
    }

    /// The comparison that this operator writes.
    pub fn from_symbol(symbol: &str) -> Option<Self> {
        [
            Self::Equal,
            Self::NotEqual,
            Self::Less,
            Self::LessOrEqual,
            Self::Greater,
            Self::GreaterOrEqual,
        ]
        .into_iter()
        .find(|comparison| comparison.symbol() == symbol)
    }
}

/// A question about a node. For a node that is not there, [`Condition::Exists`] and [`Condition::HasValue`] with `false`
/// hold, versions and counts are 0, and no value is equal to anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Condition {
    /// The node is there, or is not.
    Exists(bool),
    /// The node has a value, or has none.
    HasValue(bool),
    /// Its version, 0 if there is no node.
    Version(Comparison, u64),
    /// The version of its list of children, 0 if there is no node.
    ChildVersion(Comparison, u64),
    /// How many children it has.
    ChildCount(Comparison, u64),
    /// Its value is this one, byte for byte in Godot's encoding (so the order of a dictionary counts).
    ValueIs(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A field of its value, which has to be a dictionary: the keys from outside inwards, then what the field is compared
    /// with, in Godot's encoding. Numbers and texts are ordered; everything else is equal or is not. A field that is not
    /// there, or that cannot be compared, makes the condition false, whichever the comparison.
    Field {
        /// Keys, from the outermost dictionary inwards; at most [`FIELD_KEYS_MAX`].
        keys: Vec<String>,
        /// How.
        comparison: Comparison,
        /// With what.
        #[serde(with = "serde_bytes")]
        value: Vec<u8>,
    },
    /// The lease at the node is held under this token.
    LeaseIs(u64),
    /// The opposite.
    Not(#[serde(deserialize_with = "deeper")] Box<Condition>),
    /// All of them; true if there is none.
    All(#[serde(deserialize_with = "deeper")] Vec<Condition>),
    /// One of them at least; false if there is none.
    Any(#[serde(deserialize_with = "deeper")] Vec<Condition>),
    /// The same about another node. Not in a keep-while, which names its nodes itself.
    At(Path, #[serde(deserialize_with = "deeper")] Box<Condition>),
}

thread_local! {
    static DEPTH: Cell<usize> = const { Cell::new(0) };
}

/// Leaves one level of nesting when it goes.
struct Level;

impl Drop for Level {
    fn drop(&mut self) {
        DEPTH.with(|depth| depth.set(depth.get().saturating_sub(1)));
    }
}

/// Reads what stands inside a condition. Hostile bytes could nest for ever, which would end on the stack.
fn deeper<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    let depth = DEPTH.with(|depth| {
        depth.set(depth.get().saturating_add(1));
        depth.get()
    });
    let _level = Level;
    if depth >= CONDITION_DEPTH_MAX {
        return Err(serde::de::Error::custom(format!(
            "more than {CONDITION_DEPTH_MAX} conditions inside one another"
        )));
    }
    T::deserialize(deserializer)
}

impl Condition {
    /// Checks what the types do not: how deep, how many, how large. `count` goes on from condition to condition of the
    /// same write.
    pub(super) fn check(
        &self,
        depth: usize,
        is_keep_while: bool,
        count: &mut usize,
    ) -> Result<(), Invalid> {
        *count = count.saturating_add(1);
        if *count > CONDITIONS_MAX {
            return Err(Invalid::Conditions);
        }
        if depth > CONDITION_DEPTH_MAX {
            return Err(Invalid::ConditionDepth);
        }
        let below = depth.saturating_add(1);
        match self {
            Self::Not(of) => of.check(below, is_keep_while, count),
            Self::All(of) | Self::Any(of) => of
                .iter()
                .try_for_each(|of| of.check(below, is_keep_while, count)),
            Self::At(..) if is_keep_while => Err(Invalid::KeepWhileAt),
            Self::At(_, of) => of.check(below, is_keep_while, count),
            Self::ValueIs(value) | Self::Field { value, .. } if value.len() > VALUE_BYTES_MAX => {
                Err(Invalid::ValueBytes { bytes: value.len() })
            }
            Self::Field { keys, .. } if keys.is_empty() || keys.len() > FIELD_KEYS_MAX => {
                Err(Invalid::FieldKeys { keys: keys.len() })
            }
            _ => Ok(()),
        }
    }

    /// The bytes of values that it carries.
    pub(super) fn value_bytes(&self) -> usize {
        match self {
            Self::ValueIs(value) | Self::Field { value, .. } => value.len(),
            Self::Not(of) | Self::At(_, of) => of.value_bytes(),
            Self::All(of) | Self::Any(of) => of
                .iter()
                .fold(0, |sum: usize, of| sum.saturating_add(of.value_bytes())),
            _ => 0,
        }
    }
}
