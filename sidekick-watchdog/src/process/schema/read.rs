//! Reads a schema.

use std::collections::BTreeMap;
use std::sync::Arc;

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value as Json};

use super::format::Format;
use super::{Kind, Limit, Node, SchemaError, SizeLimit};

/// Schemas inside one another.
const DEPTH_MAX: usize = 32;
/// Schemas in all; one that is named by `$ref` counts each time.
const NODES_MAX: usize = 4096;
/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 1024;
/// The most that one takes when it is compiled, in bytes. How long it looks at a text follows from both.
const PATTERN_SIZE_MAX: usize = 32 << 10;
/// Where named schemas are.
const DEFS: &str = "#/$defs/";
/// Keywords that say nothing about a value.
const NOTES: [&str; 7] = [
    "$schema",
    "$id",
    "$comment",
    "title",
    "description",
    "default",
    "examples",
];

pub(super) fn read(json: &Json) -> Result<Node, SchemaError> {
    let defs = json.get("$defs");
    let mut reader = Reader {
        defs: defs.and_then(Json::as_object),
        nodes: 0,
        patterns: BTreeMap::new(),
    };
    // Also those that nobody names: a mistake is told.
    if let Some(defs) = defs {
        reader.map(defs, "#/$defs", 0)?;
    }
    reader.node(json, "#", 0)
}

struct Reader<'a> {
    defs: Option<&'a Map<String, Json>>,
    nodes: usize,
    /// Each is compiled once, however often it is named.
    patterns: BTreeMap<&'a str, Arc<Regex>>,
}

fn error(at: &str, why: impl Into<String>) -> SchemaError {
    SchemaError {
        at: at.to_owned(),
        why: why.into(),
    }
}

impl<'a> Reader<'a> {
    fn node(&mut self, json: &'a Json, at: &str, depth: usize) -> Result<Node, SchemaError> {
        let keywords = match json {
            Json::Bool(is_right) => {
                return Ok(Node {
                    never: !is_right,
                    ..Node::default()
                });
            }
            Json::Object(keywords) => keywords,
            _ => return Err(error(at, "must be an object, true or false")),
        };
        self.nodes += 1;
        if depth >= DEPTH_MAX {
            return Err(error(at, "is nested too deep, or comes back to itself"));
        }
        if self.nodes > NODES_MAX {
            return Err(error(
                at,
                format!("is one of more than {NODES_MAX} schemas"),
            ));
        }
        let mut node = Node::default();
        for (keyword, value) in keywords {
            let at = format!("{at}/{keyword}");
            self.keyword(&mut node, keyword, value, &at, depth)?;
        }
        Ok(node)
    }

    fn keyword(
        &mut self,
        node: &mut Node,
        keyword: &str,
        value: &'a Json,
        at: &str,
        depth: usize,
    ) -> Result<(), SchemaError> {
        match keyword {
            "type" => node.types = Some(types(value, at)?),
            "enum" => match value.as_array() {
                Some(allowed) => node.allowed = Some(allowed.clone()),
                None => return Err(error(at, "must be a list")),
            },
            "const" => node.allowed = Some(vec![value.clone()]),
            "required" => {
                let names = value.as_array().into_iter().flatten();
                let names: Vec<_> = names.filter_map(Json::as_str).map(str::to_owned).collect();
                if Some(names.len()) != value.as_array().map(Vec::len) {
                    return Err(error(at, "must be a list of names"));
                }
                node.required = names;
            }
            "properties" => node.properties = self.map(value, at, depth)?,
            "additionalProperties" => {
                node.additional = Some(Box::new(self.node(value, at, depth + 1)?));
            }
            "items" => node.items = Some(Box::new(self.node(value, at, depth + 1)?)),
            "allOf" => {
                let all = self.list(value, at, depth)?;
                node.all.extend(all);
            }
            "anyOf" => node.any = Some(self.list(value, at, depth)?),
            "oneOf" => node.one = Some(self.list(value, at, depth)?),
            "pattern" => node.pattern = Some(self.pattern(value, at)?),
            "format" => node.format = Some(format(value, at)?),
            "not" => node.not = Some(Box::new(self.node(value, at, depth + 1)?)),
            "$ref" => {
                let named = self.named(value, at, depth)?;
                node.all.push(named);
            }
            // Read before everything else.
            "$defs" if depth == 0 => {}
            "$defs" => return Err(error(at, "must be at the root")),
            note if NOTES.contains(&note) => {}
            keyword => {
                if let Some(limit) = number_limit(keyword) {
                    let value = value.as_f64();
                    let value = value.ok_or_else(|| error(at, "must be a number"))?;
                    node.numbers.push((limit, value));
                } else if let Some(limit) = size_limit(keyword) {
                    let value = value.as_u64().and_then(|size| usize::try_from(size).ok());
                    let value = value.ok_or_else(|| error(at, "must be a whole number"))?;
                    node.sizes.push((limit, value));
                } else {
                    return Err(error(at, "is a keyword that is not known here"));
                }
            }
        }
        Ok(())
    }

    fn pattern(&mut self, value: &'a Json, at: &str) -> Result<Arc<Regex>, SchemaError> {
        let text = value.as_str();
        let text = text.ok_or_else(|| error(at, "must be a regular expression, as a string"))?;
        if let Some(known) = self.patterns.get(text) {
            return Ok(Arc::clone(known));
        }
        if text.len() > PATTERN_BYTES_MAX {
            let why = format!("has {} bytes, at most {PATTERN_BYTES_MAX}", text.len());
            return Err(error(at, why));
        }
        let mut builder = RegexBuilder::new(text);
        let compiled = builder.size_limit(PATTERN_SIZE_MAX).build();
        let compiled = compiled.map_err(|why| {
            let words = "is no regular expression that can be used (there are no look-arounds, back-references and \\p{…})";
            error(at, format!("{words}: {why}"))
        })?;
        let compiled = Arc::new(compiled);
        self.patterns.insert(text, Arc::clone(&compiled));
        Ok(compiled)
    }

    fn map(
        &mut self,
        value: &'a Json,
        at: &str,
        depth: usize,
    ) -> Result<Vec<(String, Node)>, SchemaError> {
        let entries = value.as_object();
        let entries = entries.ok_or_else(|| error(at, "must be an object"))?;
        let entries = entries.iter();
        entries
            .map(|(name, schema)| {
                let node = self.node(schema, &format!("{at}/{name}"), depth + 1)?;
                Ok((name.clone(), node))
            })
            .collect()
    }

    fn list(&mut self, value: &'a Json, at: &str, depth: usize) -> Result<Vec<Node>, SchemaError> {
        let schemas = value.as_array().filter(|schemas| !schemas.is_empty());
        let schemas = schemas.ok_or_else(|| error(at, "must be a list of schemas"))?;
        let schemas = schemas.iter().enumerate();
        schemas
            .map(|(index, schema)| self.node(schema, &format!("{at}/{index}"), depth + 1))
            .collect()
    }

    fn named(&mut self, value: &'a Json, at: &str, depth: usize) -> Result<Node, SchemaError> {
        let name = value.as_str().and_then(|text| text.strip_prefix(DEFS));
        let name = name.filter(|name| !name.contains(['/', '~', '%']));
        let name = name.ok_or_else(|| {
            error(
                at,
                format!("must be {DEFS} and a name without \"/\", \"~\" and \"%\""),
            )
        })?;
        let schema = self.defs.and_then(|defs| defs.get(name));
        let schema =
            schema.ok_or_else(|| error(at, format!("names {name:?}, which is not there")))?;
        self.node(schema, at, depth + 1)
    }
}

fn format(value: &Json, at: &str) -> Result<Format, SchemaError> {
    value.as_str().and_then(Format::of).ok_or_else(|| {
        let known = Format::words();
        error(
            at,
            format!("names {value}, which is not checked here; known are {known}"),
        )
    })
}

fn types(value: &Json, at: &str) -> Result<Vec<Kind>, SchemaError> {
    let one = std::slice::from_ref(value);
    let words = value.as_array().map_or(one, Vec::as_slice);
    words
        .iter()
        .map(|word| {
            let known = Kind::WORDS
                .iter()
                .find(|(name, _)| word.as_str() == Some(name));
            known
                .map(|(_, kind)| *kind)
                .ok_or_else(|| error(at, format!("names {word}, which is no type of JSON Schema")))
        })
        .collect()
}

fn number_limit(keyword: &str) -> Option<Limit> {
    Some(match keyword {
        "minimum" => Limit::Minimum,
        "maximum" => Limit::Maximum,
        "exclusiveMinimum" => Limit::ExclusiveMinimum,
        "exclusiveMaximum" => Limit::ExclusiveMaximum,
        _ => return None,
    })
}

fn size_limit(keyword: &str) -> Option<SizeLimit> {
    Some(match keyword {
        "minLength" => SizeLimit::MinLength,
        "maxLength" => SizeLimit::MaxLength,
        "minItems" => SizeLimit::MinItems,
        "maxItems" => SizeLimit::MaxItems,
        _ => return None,
    })
}
