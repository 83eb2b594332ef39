//! Between JSON and the words of the store: conditions and transactions in, answers and events out. As GDScript writes them
//! (`Sidekick.store`), with JSON's types.

use serde_json::{Map, Value as Json, json};
use sidekick_ipc::tree::{
    Answer, Comparison, Condition, ErrorKind, LeaseRef, NodeInfo, Path, Pattern, Put, StoreOp,
    StoreResult, TransactionOp, WatchEvent, WatchKind,
};
use sidekick_ipc::value::{self, Value};

/// What is wrong, in a sentence.
pub(super) type Result<T> = std::result::Result<T, String>;

/// The conditions there are, as errors list them.
const CONDITIONS: &str = "exists, has_value, version, child_version, child_count, value, field, lease_token, not, all, any, at";

/// Options of a write, read.
#[derive(Debug, Default, PartialEq)]
pub(super) struct WriteOptions {
    pub(super) when: Vec<Condition>,
    pub(super) keep_while: Vec<(Path, Condition)>,
    pub(super) lease: Option<LeaseRef>,
}

pub(super) fn path(text: &str) -> Result<Path> {
    Path::new(text).map_err(|error| error.to_string())
}

pub(super) fn pattern(text: &str) -> Result<Pattern> {
    Pattern::new(text).map_err(|error| error.to_string())
}

/// A value in Godot's encoding.
pub(super) fn value(json: &Json) -> Result<Vec<u8>> {
    let value = Value::from_json(json).map_err(|error| error.to_string())?;
    let bytes = value::encode(&value);
    value::check(&bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

fn object<'a>(json: &'a Json, what: &str) -> Result<&'a Map<String, Json>> {
    json.as_object()
        .ok_or_else(|| format!("{what} is {json}, it has to be an object"))
}

fn list<'a>(json: &'a Json, what: &str) -> Result<&'a Vec<Json>> {
    json.as_array()
        .ok_or_else(|| format!("{what} is {json}, it has to be an array"))
}

fn text<'a>(json: &'a Json, what: &str) -> Result<&'a str> {
    json.as_str()
        .ok_or_else(|| format!("{what} is {json}, it has to be a text"))
}

fn flag(json: &Json, key: &str) -> Result<bool> {
    json.as_bool()
        .ok_or_else(|| format!("{key:?} is {json}, it has to be true or false"))
}

fn number(json: &Json, key: &str) -> Result<u64> {
    json.as_u64()
        .ok_or_else(|| format!("{key:?} is {json}, it has to be a whole number of 0 or more"))
}

/// `[">=", 3]` or plain `3`.
fn compared(json: &Json) -> (Comparison, &Json) {
    if let Some([symbol, with]) = json.as_array().map(Vec::as_slice)
        && let Some(comparison) = symbol.as_str().and_then(Comparison::from_symbol)
    {
        return (comparison, with);
    }
    (Comparison::Equal, json)
}

fn compared_number(json: &Json, key: &str) -> Result<(Comparison, u64)> {
    let (comparison, with) = compared(json);
    Ok((comparison, number(with, key)?))
}

/// The condition that a key asks for; false when the key is none of a condition.
fn condition(key: &str, asked: &Json, into: &mut Vec<Condition>) -> Result<bool> {
    match key {
        "exists" => into.push(Condition::Exists(flag(asked, key)?)),
        "has_value" => into.push(Condition::HasValue(flag(asked, key)?)),
        "version" | "child_version" | "child_count" => {
            let (comparison, with) = compared_number(asked, key)?;
            into.push(match key {
                "version" => Condition::Version(comparison, with),
                "child_version" => Condition::ChildVersion(comparison, with),
                _ => Condition::ChildCount(comparison, with),
            });
        }
        "value" => into.push(Condition::ValueIs(value(asked)?)),
        "field" => {
            for (keys, with) in object(asked, "\"field\"")? {
                let (comparison, with) = compared(with);
                into.push(Condition::Field {
                    keys: keys.split('/').map(str::to_owned).collect(),
                    comparison,
                    value: value(with)?,
                });
            }
        }
        "lease_token" => into.push(Condition::LeaseIs(number(asked, key)?)),
        "not" => into.push(Condition::Not(Box::new(one(conditions(asked)?)))),
        "all" => into.push(Condition::All(several(asked, key)?)),
        "any" => into.push(Condition::Any(several(asked, key)?)),
        "at" => {
            for (of, asked) in object(asked, "\"at\"")? {
                into.push(Condition::At(path(of)?, Box::new(one(conditions(asked)?))));
            }
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn several(asked: &Json, key: &str) -> Result<Vec<Condition>> {
    list(asked, key)?
        .iter()
        .map(|it| Ok(one(conditions(it)?)))
        .collect()
}

fn one(mut conditions: Vec<Condition>) -> Condition {
    match conditions.len() {
        1 => conditions.swap_remove(0),
        _ => Condition::All(conditions),
    }
}

/// An object that holds conditions and nothing else.
fn conditions(asked: &Json) -> Result<Vec<Condition>> {
    let mut into = Vec::new();
    for (key, asked) in object(asked, "a condition")? {
        if !condition(key, asked, &mut into)? {
            return Err(unknown(key, ""));
        }
    }
    Ok(into)
}

fn unknown(key: &str, others: &str) -> String {
    format!("there is no option {key:?}; there are {others}{CONDITIONS}")
}

/// Reads the options of a write; `ignored` are keys that the caller has read.
pub(super) fn write_options(options: &Map<String, Json>, ignored: &[&str]) -> Result<WriteOptions> {
    let mut read = WriteOptions::default();
    for (key, asked) in options {
        match key.as_str() {
            key if ignored.contains(&key) => {}
            "when" => read.when.extend(conditions(asked)?),
            "keep_while" => {
                for (of, asked) in object(asked, "\"keep_while\"")? {
                    let condition = match asked.as_bool() {
                        Some(exists) => Condition::Exists(exists),
                        None => one(conditions(asked)?),
                    };
                    read.keep_while.push((path(of)?, condition));
                }
            }
            "lease" => read.lease = Some(lease(asked)?),
            key => {
                if !condition(key, asked, &mut read.when)? {
                    return Err(unknown(key, "when, keep_while, lease, "));
                }
            }
        }
    }
    Ok(read)
}

fn lease(json: &Json) -> Result<LeaseRef> {
    let of = object(json, "a lease")?;
    let (Some(at), Some(token)) = (of.get("path"), of.get("token")) else {
        return Err("a lease has \"path\" and \"token\"".to_owned());
    };
    Ok(LeaseRef {
        path: path(text(at, "\"path\"")?)?,
        token: number(token, "token")?,
    })
}

/// One put, or one of many nodes.
pub(super) fn put(at: &str, value: Vec<u8>, options: WriteOptions) -> Result<StoreOp> {
    let value = Some(value);
    let WriteOptions {
        when,
        keep_while,
        lease,
    } = options;
    if at.contains('*') {
        if !keep_while.is_empty() || lease.is_some() {
            let text =
                "a put with a pattern takes no keep_while and no lease; put each path by itself";
            return Err(text.to_owned());
        }
        return Ok(StoreOp::PutMany {
            pattern: pattern(at)?,
            value,
            when,
        });
    }
    Ok(StoreOp::Put(Put {
        path: path(at)?,
        value,
        when,
        keep_while,
        lease,
    }))
}

/// A delete of one node with all below it, or of many.
pub(super) fn delete(at: &str, options: WriteOptions) -> Result<StoreOp> {
    if !options.keep_while.is_empty() || options.lease.is_some() {
        let text = "a delete takes no keep_while and no lease; ask for lease_token instead";
        return Err(text.to_owned());
    }
    Ok(StoreOp::Delete {
        target: pattern(at)?,
        when: options.when,
    })
}

/// `{"compare": {PATH: {…}}, "then": [{"put": PATH, "value": …}, {"get": PATH}, {"delete": PATH}], "otherwise": […]}`.
pub(super) fn transaction(body: &Json) -> Result<StoreOp> {
    let body = object(body, "a transaction")?;
    let mut compare = Vec::new();
    let (mut then, mut otherwise) = (Vec::new(), Vec::new());
    for (key, asked) in body {
        match key.as_str() {
            "compare" => {
                for (of, asked) in object(asked, "\"compare\"")? {
                    compare.push((path(of)?, one(conditions(asked)?)));
                }
            }
            "then" => then = branch(asked, key)?,
            "otherwise" => otherwise = branch(asked, key)?,
            other => {
                return Err(format!(
                    "a transaction has no {other:?}; it has compare, then and otherwise"
                ));
            }
        }
    }
    Ok(StoreOp::Transaction {
        compare,
        then,
        otherwise,
    })
}

fn branch(ops: &Json, key: &str) -> Result<Vec<TransactionOp>> {
    list(ops, key)?.iter().map(transaction_op).collect()
}

fn transaction_op(op: &Json) -> Result<TransactionOp> {
    let op = object(op, "an op of a transaction")?;
    if let Some(at) = op.get("put") {
        let to = op
            .get("value")
            .ok_or("a put of a transaction lacks its \"value\"")?;
        let options = write_options(op, &["put", "value"])?;
        return Ok(TransactionOp::Put(Put {
            path: path(text(at, "\"put\"")?)?,
            value: Some(value(to)?),
            when: options.when,
            keep_while: options.keep_while,
            lease: options.lease,
        }));
    }
    if let Some(at) = op.get("get") {
        return Ok(TransactionOp::Get(path(text(at, "\"get\"")?)?));
    }
    if let Some(at) = op.get("delete") {
        let options = write_options(op, &["delete"])?;
        return Ok(TransactionOp::Delete {
            path: path(text(at, "\"delete\"")?)?,
            when: options.when,
        });
    }
    Err("an op of a transaction has one of the keys put, get, delete with a path".to_owned())
}

/// A value in Godot's encoding as JSON. What cannot be read (it was checked when it came) is null.
fn json(bytes: Option<&[u8]>) -> Json {
    let value = bytes.and_then(|bytes| value::decode(bytes).ok());
    value.map_or(Json::Null, |value| value.to_json())
}

pub(super) fn node(node: &NodeInfo) -> Json {
    json!({
        "path": node.path.as_str(),
        "value": json(node.value.as_deref()),
        "has_value": node.has_value,
        "version": node.version,
        "child_version": node.child_version,
        "child_count": node.child_count,
        "lease_token": node.lease,
    })
}

/// What came of it, with all that it means something for.
pub(super) fn result(result: &StoreResult) -> Json {
    match result {
        StoreResult::Ok(of) => answer(of),
        StoreResult::Error { kind, message } => json!({
            "ok": false,
            "error": kind.name(),
            "message": message,
        }),
        StoreResult::AnswerLost {
            answer: of,
            message,
        } => {
            let mut told = answer(of);
            told["ok"] = false.into();
            told["error"] = ErrorKind::AnswerLost.name().into();
            told["message"] = message.as_str().into();
            told
        }
        // Nobody asks for it here.
        StoreResult::Restored(restored) => json!({"ok": true, "version": restored.version}),
    }
}

fn answer(answer: &Answer) -> Json {
    let deleted = answer.deleted.iter();
    let deleted: Vec<Json> = deleted
        .map(|gone| json!({"path": gone.path.as_str(), "reason": gone.reason.name()}))
        .collect();
    let mut told = json!({
        "ok": true,
        "revision": answer.revision,
        "version": answer.version,
        "count": answer.count,
        "succeeded": answer.succeeded,
        "nodes": answer.nodes.iter().map(node).collect::<Vec<_>>(),
        "deleted": deleted,
        "deleted_cut": answer.is_deleted_cut(),
    });
    if let Some(told) = told.as_object_mut() {
        if let Some(lease) = &answer.lease {
            let lease = json!({"path": lease.path.as_str(), "token": lease.token});
            told.insert("lease".to_owned(), lease);
        }
        if let Some(next) = &answer.next {
            told.insert("next".to_owned(), next.as_str().into());
        }
    }
    told
}

/// One event of a watch: its name and what it says.
pub(super) fn event(event: &WatchEvent) -> (&'static str, Json) {
    let (name, mut told) = match &event.kind {
        WatchKind::Put { version, value } => {
            let value_json = json(value.as_deref());
            let told =
                json!({"version": version, "value": value_json, "has_value": value.is_some()});
            ("put", told)
        }
        WatchKind::Delete { reason } => ("delete", json!({"reason": reason.name()})),
    };
    if let Some(told) = told.as_object_mut() {
        told.insert("path".to_owned(), event.path.as_str().into());
        told.insert("revision".to_owned(), event.revision.into());
    }
    (name, told)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(json: Json) -> Result<WriteOptions> {
        write_options(json.as_object().unwrap(), &[])
    }

    #[test]
    fn conditions_are_what_gdscript_calls_them() {
        let read = options(json!({
            "exists": true,
            "version": [">=", 3],
            "child_count": 0,
            "field": {"stats/hp": [">", 0.5]},
            "not": {"lease_token": 7},
            "any": [{"has_value": false}, {"exists": true, "version": 1}],
            "at": {"/other": {"exists": false}},
            "keep_while": {"/match": true, "/b": {"child_count": [">", 1]}},
            "lease": {"path": "/l", "token": 9},
        }))
        .unwrap();
        let half = value(&json!(0.5)).unwrap();
        for expected in [
            Condition::Exists(true),
            Condition::Version(Comparison::GreaterOrEqual, 3),
            Condition::ChildCount(Comparison::Equal, 0),
            Condition::Field {
                keys: vec!["stats".into(), "hp".into()],
                comparison: Comparison::Greater,
                value: half,
            },
            Condition::Not(Box::new(Condition::LeaseIs(7))),
            Condition::Any(vec![
                Condition::HasValue(false),
                Condition::All(vec![
                    Condition::Exists(true),
                    Condition::Version(Comparison::Equal, 1),
                ]),
            ]),
            Condition::At(path("/other").unwrap(), Box::new(Condition::Exists(false))),
        ] {
            assert!(read.when.contains(&expected), "{expected:?}\n{read:?}");
        }
        assert_eq!(read.when.len(), 7);
        assert_eq!(read.keep_while.len(), 2);
        assert_eq!(read.lease.unwrap().token, 9);
    }

    #[test]
    fn what_is_no_condition_is_told_with_its_name() {
        for (wrong, told) in [
            (json!({"versoin": 1}), "versoin"),
            (json!({"version": -1}), "version"),
            (json!({"version": "3"}), "version"),
            (json!({"exists": 1}), "exists"),
            (json!({"not": []}), "condition"),
            (json!({"at": {"no slash": {}}}), "no slash"),
            (json!({"field": 3}), "field"),
            (json!({"lease": {"path": "/a"}}), "token"),
        ] {
            let error = options(wrong.clone()).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_transaction_is_read_and_a_wrong_one_is_explained() {
        let read = transaction(&json!({
            "compare": {"/gold/1": {"field": {"coins": [">=", 10]}}},
            "then": [
                {"put": "/gold/1", "value": {"coins": 0}, "version": 4},
                {"get": "/gold/2"},
                {"delete": "/gold/3", "when": {"exists": true}},
            ],
        }))
        .unwrap();
        let StoreOp::Transaction {
            compare,
            then,
            otherwise,
        } = read
        else {
            panic!("{read:?}");
        };
        assert_eq!((compare.len(), then.len(), otherwise.len()), (1, 3, 0));
        let TransactionOp::Put(put) = &then[0] else {
            panic!("{then:?}");
        };
        assert_eq!(put.when, [Condition::Version(Comparison::Equal, 4)]);
        for (wrong, told) in [
            (json!([]), "object"),
            (json!({"than": []}), "than"),
            (json!({"then": [{"put": "/a"}]}), "value"),
            (json!({"then": [{"pot": "/a"}]}), "put, get, delete"),
            (json!({"then": [{"get": 3}]}), "text"),
        ] {
            let error = transaction(&wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_pattern_changes_many_and_takes_no_lease() {
        let op = put("/a/*", vec![0; 4], WriteOptions::default()).unwrap();
        assert!(matches!(op, StoreOp::PutMany { .. }));
        let leased = options(json!({"lease": {"path": "/l", "token": 9}})).unwrap();
        assert!(put("/a/*", vec![0; 4], leased).is_err());
        let kept = options(json!({"keep_while": {"/l": true}})).unwrap();
        assert!(delete("/a", kept).is_err());
    }
}
