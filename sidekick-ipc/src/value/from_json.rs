//! JSON as a value: what somebody without Godot writes to the store. Not for what Godot itself made: most of its types have no word
//! in JSON, so [`Value::to_json`] of the result is the JSON again, but not the other way around.

use serde_json::Value as Json;

use super::Value;

/// A number that GDScript has no `int` for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{number} is beyond what GDScript's int holds; write it as text, or with a point as a float"
)]
pub struct JsonError {
    /// The number.
    pub number: String,
}

impl Value {
    /// The value that GDScript's own `JSON.parse_string` would give, but that whole numbers stay `int`.
    ///
    /// # Errors
    /// [`JsonError`] for a whole number beyond 64 bits with a sign.
    pub fn from_json(json: &Json) -> Result<Value, JsonError> {
        Ok(match json {
            Json::Null => Value::Nil,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Value::Int(whole),
                (None, Some(float)) if number.is_f64() => Value::Float(float),
                _ => {
                    return Err(JsonError {
                        number: number.to_string(),
                    });
                }
            },
            Json::String(text) => Value::String(text.clone()),
            Json::Array(items) => Value::Array(
                items
                    .iter()
                    .map(Value::from_json)
                    .collect::<Result<_, _>>()?,
            ),
            Json::Object(entries) => Value::Dictionary(
                entries
                    .iter()
                    .map(|(key, value)| Ok((Value::String(key.clone()), Value::from_json(value)?)))
                    .collect::<Result<_, _>>()?,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn json_comes_back_as_it_was() {
        for value in [
            json!(null),
            json!(true),
            json!(-7),
            json!(i64::MIN),
            json!(0.5),
            json!("text"),
            json!([1, 2.0, "three", [], {}]),
            json!({"a": {"b": [null]}, "c": ""}),
        ] {
            assert_eq!(Value::from_json(&value).unwrap().to_json(), value);
        }
    }

    #[test]
    fn whole_numbers_stay_whole_and_too_large_ones_are_refused() {
        assert_eq!(Value::from_json(&json!(3)), Ok(Value::Int(3)));
        assert_eq!(Value::from_json(&json!(3.0)), Ok(Value::Float(3.0)));
        let error = Value::from_json(&json!([u64::MAX])).unwrap_err();
        assert!(error.to_string().starts_with("18446744073709551615 is"));
    }
}
