//! Between GDScript's values and the words of the store: options to conditions, arguments to ops, answers to dictionaries.
//!
//! Everything that a script can get wrong is an error with a sentence here; nothing panics.

use godot::builtin::{AnyArray, AnyDictionary};
use godot::global::bytes_to_var;
use godot::prelude::*;
use sidekick_ipc::tree::{
    Answer, Comparison, Condition, ErrorKind, Invalid, LeaseRef, NodeInfo, Path, Pattern, Put,
    StoreOp, StoreResult, TransactionOp, VALUE_BYTES_MAX, WatchEvent, WatchKind,
};

use crate::encode;

/// Why something was not sent: the word for programs and the sentence for people.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    pub(crate) sentence: String,
}

impl Refusal {
    pub(crate) fn new(kind: ErrorKind, sentence: impl std::fmt::Display) -> Self {
        Self {
            kind,
            sentence: sentence.to_string(),
        }
    }

    pub(crate) fn invalid(sentence: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::Invalid, sentence)
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let kind = match invalid {
            Invalid::ValueBytes { .. }
            | Invalid::TransactionOps { .. }
            | Invalid::TransactionBytes { .. } => ErrorKind::TooLarge,
            _ => ErrorKind::Invalid,
        };
        Self::new(kind, invalid)
    }
}

type Result<T> = std::result::Result<T, Refusal>;

pub(crate) fn path(text: &str) -> Result<Path> {
    Path::new(text).map_err(Refusal::invalid)
}

pub(crate) fn pattern(text: &str) -> Result<Pattern> {
    Pattern::new(text).map_err(Refusal::invalid)
}

/// A value as the store keeps it.
pub(crate) fn value(value: &Variant) -> Result<Vec<u8>> {
    let bytes = encode::checked(value).map_err(Refusal::invalid)?;
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(Invalid::ValueBytes { bytes: bytes.len() }.into());
    }
    Ok(bytes.to_vec())
}

/// A value that the store kept. What cannot be read is null: nobody but this library wrote it, after a check.
pub(crate) fn variant(bytes: &[u8]) -> Variant {
    bytes_to_var(&PackedByteArray::from(bytes))
}

fn text(value: &Variant) -> Option<String> {
    match value.get_type() {
        VariantType::STRING | VariantType::STRING_NAME | VariantType::NODE_PATH => {
            Some(value.stringify().to_string())
        }
        _ => None,
    }
}

fn shown(value: &Variant) -> String {
    value.stringify().to_string().chars().take(64).collect()
}

fn dictionary(value: &Variant, what: &str) -> Result<AnyDictionary> {
    value.try_to::<AnyDictionary>().map_err(|_| {
        Refusal::invalid(format_args!(
            "{what} is {}, it has to be a Dictionary",
            shown(value)
        ))
    })
}

fn flag(value: &Variant, key: &str) -> Result<bool> {
    value.try_to::<bool>().map_err(|_| {
        Refusal::invalid(format_args!(
            "{key:?} is {}, it has to be true or false",
            shown(value)
        ))
    })
}

fn number(value: &Variant, key: &str) -> Result<u64> {
    let whole = value.try_to::<i64>().ok();
    whole.and_then(|it| u64::try_from(it).ok()).ok_or_else(|| {
        Refusal::invalid(format_args!(
            "{key:?} is {}, it has to be a whole number of 0 or more",
            shown(value)
        ))
    })
}

pub(crate) fn seconds(value: &Variant, key: &str) -> Result<f64> {
    let seconds = value
        .try_to::<f64>()
        .or_else(|_| value.try_to::<i64>().map(|whole| whole as f64));
    match seconds {
        Ok(seconds) if seconds >= 0.0 => Ok(seconds),
        _ => Err(Refusal::invalid(format_args!(
            "{key:?} is {}, it has to be a number of seconds",
            shown(value)
        ))),
    }
}

/// `[">=", 3]` or plain `3`.
fn compared(value: &Variant) -> (Comparison, Variant) {
    if let Ok(pair) = value.try_to::<AnyArray>()
        && pair.len() == 2
        && let Some(comparison) = text(&pair.at(0)).and_then(|it| Comparison::from_symbol(&it))
    {
        return (comparison, pair.at(1));
    }
    (Comparison::Equal, value.clone())
}

fn compared_number(value: &Variant, key: &str) -> Result<(Comparison, u64)> {
    let (comparison, with) = compared(value);
    Ok((comparison, number(&with, key)?))
}

/// The words that conditions begin with, as errors list them.
const CONDITIONS: &str = "exists, has_value, version, child_version, child_count, value, field, lease_token, not, all, any, at";

/// The condition that a key of a dictionary asks for; `None` when the key is none of a condition.
fn condition(key: &str, asked: &Variant, into: &mut Vec<Condition>) -> Result<bool> {
    match key {
        "exists" => into.push(Condition::Exists(flag(asked, key)?)),
        "has_value" => into.push(Condition::HasValue(flag(asked, key)?)),
        "version" => {
            let (comparison, with) = compared_number(asked, key)?;
            into.push(Condition::Version(comparison, with));
        }
        "child_version" => {
            let (comparison, with) = compared_number(asked, key)?;
            into.push(Condition::ChildVersion(comparison, with));
        }
        "child_count" => {
            let (comparison, with) = compared_number(asked, key)?;
            into.push(Condition::ChildCount(comparison, with));
        }
        "value" => into.push(Condition::ValueIs(value(asked)?)),
        "field" => {
            for (keys, with) in dictionary(asked, "\"field\"")?.iter_shared() {
                let (comparison, with) = compared(&with);
                into.push(Condition::Field {
                    keys: field_keys(&keys)?,
                    comparison,
                    value: value(&with)?,
                });
            }
        }
        "lease_token" => into.push(Condition::LeaseIs(number(asked, key)?)),
        "not" => {
            let inner = conditions(&dictionary(asked, "\"not\"")?)?;
            into.push(Condition::Not(Box::new(one(inner))));
        }
        "all" => into.push(Condition::All(several(asked, key)?)),
        "any" => into.push(Condition::Any(several(asked, key)?)),
        "at" => {
            for (of, asked) in dictionary(asked, "\"at\"")?.iter_shared() {
                let inner = one(conditions(&dictionary(&asked, "what \"at\" asks")?)?);
                into.push(Condition::At(path_of(&of)?, Box::new(inner)));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

/// A field by its key, by keys with slashes between, or by an array of keys.
fn field_keys(keys: &Variant) -> Result<Vec<String>> {
    if let Some(text) = text(keys) {
        return Ok(text.split('/').map(str::to_owned).collect());
    }
    let array = keys.try_to::<AnyArray>().ok().or_else(|| {
        Some(
            keys.try_to::<PackedStringArray>()
                .ok()?
                .to_var_array()
                .upcast_any_array(),
        )
    });
    let keys: Option<Vec<String>> =
        array.and_then(|array| array.iter_shared().map(|key| text(&key)).collect());
    keys.ok_or_else(|| {
        Refusal::invalid("\"field\" names a field by text, as in {\"stats/hp\": [\">\", 0]}")
    })
}

fn several(asked: &Variant, key: &str) -> Result<Vec<Condition>> {
    let Ok(array) = asked.try_to::<AnyArray>() else {
        return Err(Refusal::invalid(format_args!(
            "{key:?} is {}, it has to be an Array of Dictionaries",
            shown(asked)
        )));
    };
    array
        .iter_shared()
        .map(|it| {
            Ok(one(conditions(&dictionary(
                &it,
                &format!("an element of {key:?}"),
            )?)?))
        })
        .collect()
}

fn one(mut conditions: Vec<Condition>) -> Condition {
    match conditions.len() {
        1 => conditions.swap_remove(0),
        _ => Condition::All(conditions),
    }
}

/// A dictionary that holds conditions and nothing else.
fn conditions(asked: &AnyDictionary) -> Result<Vec<Condition>> {
    let mut into = Vec::new();
    for (key, asked) in asked.iter_shared() {
        let key = text(&key).unwrap_or_else(|| shown(&key));
        if !condition(&key, &asked, &mut into)? {
            return Err(unknown_key(&key, ""));
        }
    }
    Ok(into)
}

fn unknown_key(key: &str, others: &str) -> Refusal {
    Refusal::invalid(format_args!(
        "there is no option {key:?}; there are {others}{CONDITIONS}"
    ))
}

/// Options of a write, read.
#[derive(Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) when: Vec<Condition>,
    pub(crate) keep_while: Vec<(Path, Condition)>,
    pub(crate) lease: Option<LeaseRef>,
    pub(crate) timeout_s: Option<f64>,
}

/// Reads the options of a write; `ignored` are keys that the caller has read.
pub(crate) fn write_options(options: &AnyDictionary, ignored: &[&str]) -> Result<WriteOptions> {
    let mut read = WriteOptions::default();
    for (key, asked) in options.iter_shared() {
        let key = text(&key).unwrap_or_else(|| shown(&key));
        match key.as_str() {
            key if ignored.contains(&key) => {}
            "timeout_s" => read.timeout_s = Some(seconds(&asked, "timeout_s")?),
            "keep_while" => {
                for (of, asked) in dictionary(&asked, "\"keep_while\"")?.iter_shared() {
                    let condition = match asked.try_to::<bool>() {
                        Ok(exists) => Condition::Exists(exists),
                        Err(_) => one(conditions(&dictionary(
                            &asked,
                            "what \"keep_while\" asks",
                        )?)?),
                    };
                    read.keep_while.push((path_of(&of)?, condition));
                }
            }
            "lease" => read.lease = Some(lease(&asked)?),
            key => {
                if !condition(key, &asked, &mut read.when)? {
                    return Err(unknown_key(key, "timeout_s, keep_while, lease, "));
                }
            }
        }
    }
    Ok(read)
}

/// Options of a question, read.
#[derive(Debug, Default)]
pub(crate) struct ReadOptions {
    pub(crate) linearizable: bool,
    pub(crate) after: Option<Path>,
    pub(crate) limit: Option<u32>,
    pub(crate) timeout_s: Option<f64>,
}

pub(crate) fn read_options(options: &AnyDictionary) -> Result<ReadOptions> {
    let mut read = ReadOptions::default();
    for (key, asked) in options.iter_shared() {
        let key = text(&key).unwrap_or_else(|| shown(&key));
        match key.as_str() {
            "linearizable" => read.linearizable = flag(&asked, &key)?,
            "after" => {
                let after = text(&asked).filter(|after| !after.is_empty());
                read.after = after.map(|after| path(&after)).transpose()?;
            }
            "limit" => read.limit = Some(u32::try_from(number(&asked, &key)?).unwrap_or(u32::MAX)),
            "timeout_s" => read.timeout_s = Some(seconds(&asked, &key)?),
            _ => {
                return Err(Refusal::invalid(format_args!(
                    "there is no option {key:?}; there are linearizable, after, limit, timeout_s"
                )));
            }
        }
    }
    Ok(read)
}

fn path_of(value: &Variant) -> Result<Path> {
    let Some(text) = text(value) else {
        return Err(Refusal::invalid(format_args!(
            "a path is {}, it has to be text such as \"/match/42\"",
            shown(value)
        )));
    };
    path(&text)
}

/// A lease as an answer gave it, or the answer itself.
pub(crate) fn lease(of: &Variant) -> Result<LeaseRef> {
    let of = dictionary(of, "a lease")?;
    let of = match of.get("lease") {
        Some(inner) => dictionary(&inner, "a lease")?,
        None => of,
    };
    let (Some(path), Some(token)) = (of.get("path"), of.get("token")) else {
        return Err(Refusal::invalid(
            "a lease is the Dictionary that lease() has answered, with path and token",
        ));
    };
    Ok(LeaseRef {
        path: path_of(&path)?,
        token: number(&token, "token")?,
    })
}

/// For how many seconds a lease was granted, as its answer says.
pub(crate) fn lease_seconds(of: &Variant) -> Option<f64> {
    let of = of.try_to::<AnyDictionary>().ok()?;
    let of = match of.get("lease") {
        Some(inner) => inner.try_to::<AnyDictionary>().ok()?,
        None => of,
    };
    seconds(&of.get("seconds")?, "seconds").ok()
}

/// One put, as `Sidekick.store.put` is asked for it. A pattern changes many.
pub(crate) fn put(at: &str, value: Vec<u8>, options: WriteOptions) -> Result<StoreOp> {
    let WriteOptions {
        when,
        keep_while,
        lease,
        ..
    } = options;
    if !at.contains('*') {
        return Ok(StoreOp::Put(Put {
            path: path(at)?,
            value: Some(value),
            when,
            keep_while,
            lease,
        }));
    }
    if !keep_while.is_empty() || lease.is_some() {
        return Err(Refusal::invalid(
            "a put with a pattern takes no keep_while and no lease; put each path by itself",
        ));
    }
    Ok(StoreOp::PutMany {
        pattern: pattern(at)?,
        value: Some(value),
        when,
    })
}

/// What a transaction compares: paths, and what is asked of each.
pub(crate) fn compare(asked: &AnyDictionary) -> Result<Vec<(Path, Condition)>> {
    let mut compare = Vec::new();
    for (of, asked) in asked.iter_shared() {
        let of = path_of(&of)?;
        let asked = dictionary(&asked, "what a transaction compares")?;
        compare.push((of, one(conditions(&asked)?)));
    }
    Ok(compare)
}

/// A branch of a transaction: `{"put": path, "value": value}`, `{"get": path}`, `{"delete": path}`.
pub(crate) fn branch(ops: &AnyArray) -> Result<Vec<TransactionOp>> {
    ops.iter_shared().map(|op| branch_op(&op)).collect()
}

fn branch_op(op: &Variant) -> Result<TransactionOp> {
    let op = dictionary(op, "an op of a transaction")?;
    if let Some(at) = op.get("put") {
        let Some(to) = op.get("value") else {
            return Err(Refusal::invalid(
                "a put of a transaction lacks its \"value\"",
            ));
        };
        let nested = when(&op)?;
        let options = write_options(&op, &["put", "value", "when"])?;
        return Ok(TransactionOp::Put(Put {
            path: path_of(&at)?,
            value: Some(value(&to)?),
            when: [options.when, nested].concat(),
            keep_while: options.keep_while,
            lease: options.lease,
        }));
    }
    if let Some(at) = op.get("get") {
        return Ok(TransactionOp::Get(path_of(&at)?));
    }
    if let Some(at) = op.get("delete") {
        let nested = when(&op)?;
        let options = write_options(&op, &["delete", "when"])?;
        return Ok(TransactionOp::Delete {
            path: path_of(&at)?,
            when: [options.when, nested].concat(),
        });
    }
    Err(Refusal::invalid(
        "an op of a transaction has one of the keys put, get, delete with a path",
    ))
}

/// Conditions under a key of their own, for a put whose `value` is taken already.
fn when(op: &AnyDictionary) -> Result<Vec<Condition>> {
    match op.get("when") {
        Some(asked) => conditions(&dictionary(&asked, "\"when\"")?),
        None => Ok(Vec::new()),
    }
}

/// An answer as GDScript gets it.
pub(crate) fn result(result: &StoreResult) -> VarDictionary {
    let mut told = VarDictionary::new();
    match result {
        StoreResult::Ok(answer) => {
            told.set("ok", true);
            told.set("error", "");
            told.set("message", "");
            tell_answer(answer, &mut told);
        }
        StoreResult::Error { kind, message } => {
            tell_error(*kind, message, &mut told);
            tell_answer(&Answer::default(), &mut told);
        }
        StoreResult::AnswerLost { answer, message } => {
            tell_error(ErrorKind::AnswerLost, message, &mut told);
            tell_answer(answer, &mut told);
        }
        // Nobody asks for it as a request.
        StoreResult::Restored(restored) => {
            told.set("ok", true);
            told.set("version", restored.version as i64);
        }
    }
    told
}

fn tell_error(kind: ErrorKind, message: &str, told: &mut VarDictionary) {
    told.set("ok", false);
    told.set("error", kind.name());
    told.set("message", message);
}

fn tell_answer(answer: &Answer, told: &mut VarDictionary) {
    told.set("version", answer.version as i64);
    let value = answer.value().map(variant).unwrap_or_default();
    told.set("value", &value);
    told.set("revision", answer.revision as i64);
    told.set("count", answer.count as i64);
    told.set("succeeded", answer.succeeded);
    let nodes: Array<VarDictionary> = answer.nodes.iter().map(node).collect();
    told.set("nodes", &nodes);
    let deleted: Array<VarDictionary> = answer
        .deleted
        .iter()
        .map(|deleted| {
            let mut one = VarDictionary::new();
            one.set("path", deleted.path.as_str());
            one.set("reason", deleted.reason.name());
            one
        })
        .collect();
    told.set("deleted", &deleted);
    told.set("deleted_cut", answer.is_deleted_cut());
    let next = answer.next.as_ref().map_or("", Path::as_str);
    told.set("next", next);
    if let Some(lease) = &answer.lease {
        let mut one = VarDictionary::new();
        one.set("path", lease.path.as_str());
        one.set("token", lease.token as i64);
        told.set("lease", &one);
    }
}

fn node(node: &NodeInfo) -> VarDictionary {
    let mut one = VarDictionary::new();
    one.set("path", node.path.as_str());
    one.set("version", node.version as i64);
    let value = node.value.as_deref().map(variant).unwrap_or_default();
    one.set("value", &value);
    one.set("has_value", node.has_value);
    one.set("child_version", node.child_version as i64);
    one.set("child_count", node.child_count as i64);
    one.set("lease_token", node.lease as i64);
    one
}

/// A watch's event as GDScript gets it.
pub(crate) fn event(event: &WatchEvent) -> VarDictionary {
    let mut told = VarDictionary::new();
    told.set("revision", event.revision as i64);
    told.set("path", event.path.as_str());
    match &event.kind {
        WatchKind::Put { version, value } => {
            told.set("kind", "put");
            told.set("version", *version as i64);
            let value = value.as_deref().map(variant).unwrap_or_default();
            told.set("value", &value);
        }
        WatchKind::Delete { reason } => {
            told.set("kind", "delete");
            told.set("reason", reason.name());
        }
    }
    told
}

/// The event that says that some are missing.
pub(crate) fn compacted(revision: u64) -> VarDictionary {
    let mut told = VarDictionary::new();
    told.set("kind", "compacted");
    told.set("revision", revision as i64);
    told
}
