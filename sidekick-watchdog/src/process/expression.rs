//! Expressions over a record: minijinja's, on fields that are decoded when they are asked for.
//!
//! An expression sees `data` (what was recorded), `stream`, `source`, `incarnation`, `game_version`, `seq` and `time`
//! (seconds since 1970); a field of `data` also by its bare name, unless it is called like one of these. It has a bounded
//! number of steps and no way to the outside.

mod arguments;
mod names;

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use minijinja::value::{Enumerator, Object, ObjectRepr};
use minijinja::{Environment, Error, UndefinedBehavior, Value};
use sidekick_ipc::value::fields::{Look, look};

use super::Origin;
pub use arguments::{WrongCall, wrong_call};
pub use names::{NameKind, UnknownName, unknown_name};

/// Steps that one evaluation may take; a comparison takes about five.
const STEPS_MAX: u64 = 20_000;
/// The longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 4096;

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_fuel(Some(STEPS_MAX));
    // `data.player.name` of a record without a player is undefined, and no reason to stop.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    // Templates want them. Here they are fields, as likely as any other.
    environment.remove_global("debug");
    environment.remove_global("namespace");
    environment
});

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ExpressionError {
    what: String,
}

impl From<Error> for ExpressionError {
    fn from(error: Error) -> Self {
        let what = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        Self { what }
    }
}

/// A compiled expression and its text.
pub struct Expression {
    text: String,
    compiled: minijinja::Expression<'static, 'static>,
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Expression({:?})", self.text)
    }
}

impl Expression {
    /// Compiles `text`, of at most [`EXPRESSION_BYTES_MAX`] bytes. Whether its names mean something is [`unknown_name`]'s to
    /// say, whether its calls can work [`wrong_call`]'s.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn compile(text: &str) -> Result<Self, ExpressionError> {
        if text.len() > EXPRESSION_BYTES_MAX {
            let what = format!(
                "it has {} bytes, at most {EXPRESSION_BYTES_MAX} are taken",
                text.len()
            );
            return Err(ExpressionError { what });
        }
        let compiled = ENVIRONMENT.compile_expression_owned(text.to_owned())?;
        let text = text.to_owned();
        Ok(Self { text, compiled })
    }

    /// What it is for this record.
    ///
    /// # Errors
    /// What went wrong: operands that do not fit, too many steps.
    pub fn eval(&self, record: &View) -> Result<Value, ExpressionError> {
        Ok(self.compiled.eval(record.0.clone())?)
    }

    /// Whether it holds for this record: undefined, null, zero and what is empty do not.
    ///
    /// # Errors
    /// As [`Self::eval`].
    pub fn holds(&self, record: &View) -> Result<bool, ExpressionError> {
        self.eval(record).map(|value| value.is_true())
    }
}

/// A record as expressions see it. Its bytes are copied once; its fields are decoded when they are asked for.
#[derive(Clone, Debug)]
pub struct View(Value);

impl View {
    /// The record of `origin` with `variant` as its data.
    pub fn new(origin: &Origin<'_>, variant: &[u8]) -> Self {
        let data = Part::whole(variant.into());
        Self(Value::from_object(Root {
            stream: origin.stream.into(),
            source: origin.source.into(),
            incarnation: origin.incarnation,
            game_version: origin.game_version.map(Into::into),
            seq: origin.seq,
            time: origin.time_ns as f64 / 1e9,
            data,
        }))
    }
}

#[derive(Debug)]
struct Root {
    stream: Arc<str>,
    source: Arc<str>,
    incarnation: u32,
    game_version: Option<Arc<str>>,
    seq: u64,
    time: f64,
    data: Part,
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let key = key.as_str()?;
        if let ("game_version", Some(version)) = (key, &self.game_version) {
            return Some(Value::from(version));
        }
        Some(match key {
            "stream" => Value::from(&self.stream),
            "source" => Value::from(&self.source),
            "incarnation" => Value::from(self.incarnation),
            "seq" => Value::from(self.seq),
            "time" => Value::from(self.time),
            "data" => self.data.value(),
            field => return self.data.field(field),
        })
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

/// A part of a record's bytes: one value.
#[derive(Clone, Debug)]
struct Part {
    bytes: Arc<[u8]>,
    range: Range<usize>,
}

impl Part {
    fn whole(bytes: Arc<[u8]>) -> Self {
        let range = 0..bytes.len();
        Self { bytes, range }
    }

    fn slice(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }

    /// `slice` is a piece of these bytes.
    fn piece(&self, slice: &[u8]) -> Self {
        let from = slice
            .as_ptr()
            .addr()
            .saturating_sub(self.bytes.as_ptr().addr());
        Self {
            bytes: self.bytes.clone(),
            range: from..from.saturating_add(slice.len()),
        }
    }

    fn field(&self, name: &str) -> Option<Value> {
        let Ok(Look::Dictionary(entries)) = look(self.slice()) else {
            return None;
        };
        let value = entries.get(name).ok()??;
        Some(self.piece(value).value())
    }

    /// Containers stay as they are until something inside is asked for. What is malformed is undefined.
    fn value(&self) -> Value {
        match look(self.slice()) {
            Ok(Look::Nil) => Value::from(()),
            Ok(Look::Bool(value)) => Value::from(value),
            Ok(Look::Int(value)) => Value::from(value),
            Ok(Look::Float(value)) => Value::from(value),
            Ok(Look::Text(text)) => Value::from(text),
            Ok(Look::Bytes(bytes)) => Value::from_bytes(bytes.to_vec()),
            Ok(Look::Array(_)) => Value::from_object(Array(self.clone())),
            Ok(Look::Dictionary(_)) => Value::from_object(Dictionary(self.clone())),
            // Vectors, colors, packed arrays: the lists of numbers that JSON has for them.
            Ok(Look::Other(_)) => match sidekick_ipc::value::decode(self.slice()) {
                Ok(value) => from_json(&value.to_json()),
                Err(_) => Value::UNDEFINED,
            },
            Err(_) => Value::UNDEFINED,
        }
    }
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(number) => Value::from(number),
            None => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text),
        serde_json::Value::Array(items) => items.iter().map(from_json).collect(),
        serde_json::Value::Object(entries) => entries
            .iter()
            .map(|(key, value)| (key.clone(), from_json(value)))
            .collect(),
    }
}

#[derive(Debug)]
struct Dictionary(Part);

impl Object for Dictionary {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match key.as_str() {
            Some(name) => self.0.field(name),
            None => self.0.field(&key.as_i64()?.to_string()),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let Ok(Look::Dictionary(entries)) = look(self.0.slice()) else {
            return Enumerator::Empty;
        };
        let keys = entries
            .map_while(Result::ok)
            .map(|entry| self.0.piece(entry.key).value());
        Enumerator::Values(keys.collect())
    }
}

#[derive(Debug)]
struct Array(Part);

impl Object for Array {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let Ok(Look::Array(mut items)) = look(self.0.slice()) else {
            return None;
        };
        let item = items.nth(key.as_usize()?)?.ok()?;
        Some(self.0.piece(item).value())
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let Ok(Look::Array(items)) = look(self.0.slice()) else {
            return Enumerator::Empty;
        };
        let items = items
            .map_while(Result::ok)
            .map(|item| self.0.piece(item).value());
        Enumerator::Values(items.collect())
    }
}

/// What an expression gave, as one of Godot's values. `None` for what no record can hold.
pub(super) fn to_godot(value: &Value, depth: usize) -> Option<sidekick_ipc::value::Value> {
    use minijinja::value::ValueKind;
    use sidekick_ipc::value::Value as Godot;
    if depth > sidekick_ipc::value::DEPTH_MAX {
        return None;
    }
    Some(match value.kind() {
        ValueKind::Undefined | ValueKind::None => Godot::Nil,
        ValueKind::Bool => Godot::Bool(value.is_true()),
        ValueKind::Number => match value.as_i64() {
            Some(number) if value.is_integer() => Godot::Int(number),
            _ => Godot::Float(f64::try_from(value.clone()).ok()?),
        },
        ValueKind::String => Godot::String(value.as_str()?.to_owned()),
        ValueKind::Bytes => Godot::PackedByteArray(value.as_bytes()?.to_vec()),
        ValueKind::Seq | ValueKind::Iterable => Godot::Array(
            value
                .try_iter()
                .ok()?
                .map(|item| to_godot(&item, depth + 1))
                .collect::<Option<_>>()?,
        ),
        ValueKind::Map => Godot::Dictionary(
            value
                .try_iter()
                .ok()?
                .map(|key| {
                    let item = value.get_item(&key).ok()?;
                    Some((to_godot(&key, depth + 1)?, to_godot(&item, depth + 1)?))
                })
                .collect::<Option<_>>()?,
        ),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use sidekick_ipc::value::{Value as Godot, encode};

    use super::*;

    pub(super) fn view(data: &Godot) -> View {
        let origin = Origin {
            stream: "duel.hit",
            source: "lobby-1",
            incarnation: 3,
            game_version: Some("1.2"),
            seq: 17,
            time_ns: 1_500_000_000,
        };
        View::new(&origin, &encode(data))
    }

    fn text(text: &str) -> Godot {
        Godot::String(text.into())
    }

    fn hit() -> Godot {
        Godot::Dictionary(vec![
            (text("damage"), Godot::Int(12)),
            (
                text("player"),
                Godot::Dictionary(vec![(text("name"), text("ann")), (text("bot"), Godot::Nil)]),
            ),
            (text("stream"), text("hidden")),
            (
                text("at"),
                Godot::Vector2(sidekick_ipc::value::Reals::Single([1.0, 2.5])),
            ),
            (
                text("tags"),
                Godot::Array(vec![text("a"), Godot::Float(0.5)]),
            ),
        ])
    }

    #[test]
    fn fields_are_seen_as_json_has_them() {
        let record = view(&hit());
        for yes in [
            "data.damage == 12 and damage == 12",
            "damage > 11.5",
            "data.player.name == 'ann'",
            "player['name'] | upper == 'ANN'",
            "not data.player.bot and data.player.bot is defined",
            "data.player.age is undefined and data.enemy.name is undefined",
            "stream == 'duel.hit' and data.stream == 'hidden'",
            "source == 'lobby-1' and incarnation == 3 and seq == 17 and time == 1.5",
            "game_version == '1.2' and data.game_version is undefined",
            "data.at == [1, 2.5] and data.at[1] == 2.5",
            "'a' in data.tags and data.tags | length == 2",
            "'damage' in data",
            "stream.startswith('duel') == false or true",
            "data.damage in [11, 12]",
        ] {
            let expression = Expression::compile(yes).unwrap_or_else(|e| panic!("{yes}: {e}"));
            let holds = expression.holds(&record);
            // Methods of texts are not in the language: said, not guessed.
            if yes.contains("startswith") {
                assert!(holds.is_err());
                continue;
            }
            assert_eq!(holds, Ok(true), "{yes}");
        }
    }

    #[test]
    fn fields_may_be_called_like_what_templates_call() {
        let field = |name| Godot::Dictionary(vec![(text(name), Godot::Int(12))]);
        for name in ["debug", "namespace"] {
            let (with, without) = (view(&field(name)), view(&hit()));
            let compile = |text: String| Expression::compile(&text).unwrap();
            assert_eq!(compile(format!("{name} == 12")).holds(&with), Ok(true));
            let is_defined = compile(format!("{name} is defined"));
            assert_eq!(is_defined.holds(&without), Ok(false));
            assert!(compile(format!("{name}()")).holds(&without).is_err());
        }
    }

    #[test]
    fn what_is_missing_is_below_every_number() {
        let record = view(&Godot::Nil);
        let holds = |text: &str| Expression::compile(text).unwrap().holds(&record).unwrap();
        // The README warns of it.
        assert!(holds("damage < 20"));
        assert!(!holds("damage is defined and damage < 20"));
        assert!(!holds("damage > 20"));
    }

    #[test]
    fn mistakes_are_said_when_it_is_compiled() {
        for bad in ["", "data.", "1 +", "a b", "{{ x }}", "x | no_such_filter"] {
            let found = Expression::compile(bad).map(|e| e.holds(&view(&Godot::Nil)));
            assert!(!matches!(found, Ok(Ok(_))), "{bad:?}");
        }
        assert!(Expression::compile(&"1+".repeat(4000)).is_err());
    }

    #[test]
    fn steps_are_bounded() {
        let endless =
            "range(10000) | map('string') | list | length + (range(10000) | list | length)";
        let deep = format!("{}1", "1 + ".repeat(1000));
        for heavy in [endless, &deep] {
            // Either is fine, but it ends.
            let _ = Expression::compile(heavy).map(|e| e.holds(&view(&Godot::Nil)));
        }
    }

    #[test]
    fn values_go_back_into_records() {
        let record = view(&hit());
        let eval = |text: &str| {
            let value = Expression::compile(text).unwrap().eval(&record).unwrap();
            to_godot(&value, 0)
        };
        assert_eq!(eval("damage * 2"), Some(Godot::Int(24)));
        assert_eq!(eval("damage / 8"), Some(Godot::Float(1.5)));
        assert_eq!(eval("source ~ '-eu'"), Some(text("lobby-1-eu")));
        assert_eq!(eval("missing"), Some(Godot::Nil));
        assert_eq!(
            eval("data.tags"),
            Some(Godot::Array(vec![text("a"), Godot::Float(0.5)]))
        );
        assert_eq!(
            eval("{'a': damage}"),
            Some(Godot::Dictionary(vec![(text("a"), Godot::Int(12))]))
        );
    }
}
