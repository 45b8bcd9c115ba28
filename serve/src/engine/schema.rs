//! JSON schemas as the grammar engine reads them: what the standard allows and the engine does not know is rewritten.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// The formats that the engine knows. The standard calls every other one an annotation (JSON Schema 2020-12, 7.2.1).
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];
/// Keywords that count, of which `2.0` is as good a value as `2`.
const COUNTS: [&str; 6] = ["minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"];
/// Keywords that hold a schema, a list of schemas, or schemas by name.
const SCHEMAS: [&str; 3] = ["items", "additionalItems", "additionalProperties"];
const LISTS: [&str; 5] = ["anyOf", "oneOf", "allOf", "prefixItems", "items"];
const NAMED: [&str; 4] = ["properties", "patternProperties", "$defs", "definitions"];
/// Where the targets of references are put that the engine could not find.
const MOVED: &str = "x-moved-";

/// A schema that means the same to the engine.
///
/// # Errors
/// A reference that points nowhere, or out of the schema.
pub(super) fn readable(schema: &Value) -> Result<Value, String> {
    let mut outside = None;
    visit(schema, &mut |fields| {
        let target = fields.get("$ref").and_then(Value::as_str);
        if let Some(target) = target.filter(|target| *target != "#" && !target.starts_with("#/")) {
            outside = Some(target.to_string());
        }
    });
    if let Some(target) = outside {
        return Err(format!("`$ref` must point into the schema, as `#/$defs/name` does, not to `{target}`"));
    }
    let mut moved = BTreeMap::new();
    let mut readable = rewritten(schema, &mut moved);
    let mut done = 0;
    let mut definitions = Map::new();
    // What is moved can hold references of its own.
    while done < moved.len() {
        let next: Vec<(String, String)> = moved
            .iter()
            .filter(|(_, name)| !definitions.contains_key(*name))
            .map(|(a, b)| (a.clone(), b.clone()))
            .collect();
        for (pointer, name) in next {
            let target = schema.pointer(&pointer).ok_or_else(|| format!("`$ref` #{pointer} points nowhere"))?;
            let target = rewritten(target, &mut moved);
            definitions.insert(name, target);
        }
        done = definitions.len();
    }
    if let (Value::Object(fields), false) = (&mut readable, definitions.is_empty()) {
        let place = fields.entry("$defs").or_insert_with(|| json!({}));
        if let Value::Object(place) = place {
            place.extend(definitions);
        }
    }
    Ok(readable)
}

/// The keywords of `schema` that the engine does not check, each once.
pub fn unchecked(schema: &Value) -> Vec<&'static str> {
    let mut found = false;
    visit(schema, &mut |fields| found |= fields.get("uniqueItems") == Some(&Value::Bool(true)));
    if found { vec!["uniqueItems"] } else { Vec::new() }
}

/// The patterns of a schema.
pub(super) fn patterns(schema: &Value) -> Vec<String> {
    let mut patterns = Vec::new();
    visit(schema, &mut |fields| {
        patterns.extend(fields.get("pattern").and_then(Value::as_str).map(str::to_string));
        let named = fields.get("patternProperties").and_then(Value::as_object);
        patterns.extend(named.into_iter().flat_map(Map::keys).cloned());
    });
    patterns
}

/// Calls `look` with every schema that is an object.
fn visit(schema: &Value, look: &mut impl FnMut(&Map<String, Value>)) {
    let Value::Object(fields) = schema else { return };
    look(fields);
    for (key, value) in fields {
        match value {
            Value::Object(schemas) if NAMED.contains(&key.as_str()) => {
                schemas.values().for_each(|schema| visit(schema, look));
            }
            Value::Array(schemas) if LISTS.contains(&key.as_str()) => {
                schemas.iter().for_each(|schema| visit(schema, look));
            }
            schema if SCHEMAS.contains(&key.as_str()) => visit(schema, look),
            _ => {}
        }
    }
}

/// `schema` without what the engine does not know. References that it would not find go to `moved`, by pointer.
fn rewritten(schema: &Value, moved: &mut BTreeMap<String, String>) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    let mut kept = Map::new();
    for (key, value) in fields {
        let key = key.as_str();
        let value = match value {
            Value::String(format) if key == "format" && !FORMATS.contains(&format.as_str()) => continue,
            Value::Bool(_) if key == "uniqueItems" => continue,
            Value::Number(number) if COUNTS.contains(&key) => whole(number).unwrap_or_else(|| value.clone()),
            Value::String(target) if key == "$ref" => json!(reference(target, moved)),
            Value::Object(schemas) if NAMED.contains(&key) => {
                Value::Object(schemas.iter().map(|(name, schema)| (name.clone(), rewritten(schema, moved))).collect())
            }
            Value::Array(schemas) if LISTS.contains(&key) => {
                schemas.iter().map(|schema| rewritten(schema, moved)).collect()
            }
            schema if SCHEMAS.contains(&key) => rewritten(schema, moved),
            other => other.clone(),
        };
        kept.insert(key.to_string(), value);
    }
    Value::Object(kept)
}

/// A count that is written with a point or an exponent.
fn whole(number: &serde_json::Number) -> Option<Value> {
    let float = number.as_f64().filter(|float| number.as_u64().is_none() && float.fract() == 0.0)?;
    (0.0..9e15).contains(&float).then(|| json!(float as u64))
}

/// A reference that the engine can follow: it knows no escapes.
fn reference(target: &str, moved: &mut BTreeMap<String, String>) -> String {
    let Some(pointer) = target.strip_prefix('#').filter(|pointer| pointer.contains(['%', '~'])) else {
        return target.to_string();
    };
    let count = moved.len();
    let name = moved.entry(unescaped(pointer)).or_insert_with(|| format!("{MOVED}{count}"));
    format!("#/$defs/{name}")
}

/// A URI fragment without percent signs; what is not an escape stays.
fn unescaped(fragment: &str) -> String {
    let mut bytes = Vec::with_capacity(fragment.len());
    let mut rest = fragment.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).filter(|_| *first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_go_and_counts_become_whole_but_names_and_values_stay() {
        let schema = json!({
            "format": "password", "minLength": 2.0, "uniqueItems": true, "enum": [{"format": "x", "minLength": 2.0}],
            "properties": {"format": {"format": "uuid"}, "uniqueItems": {"items": [{"maxItems": 1e1}]}},
            "anyOf": [{"format": "path", "minLength": 2.5}],
        });
        let expected = json!({
            "minLength": 2, "enum": [{"format": "x", "minLength": 2.0}],
            "properties": {"format": {"format": "uuid"}, "uniqueItems": {"items": [{"maxItems": 10}]}},
            "anyOf": [{"minLength": 2.5}],
        });
        assert_eq!(readable(&schema).unwrap(), expected);
        assert_eq!(unchecked(&schema), ["uniqueItems"]);
        assert!(unchecked(&json!({"properties": {"uniqueItems": {"const": {"uniqueItems": true}}}})).is_empty());
    }

    #[test]
    fn references_with_escapes_are_followed() {
        let schema = json!({
            "properties": {"a": {"$ref": "#/$defs/x~1y"}, "b": {"$ref": "#/$defs/p%25q"}, "c": {"$ref": "#/$defs/t~0u"}},
            "$defs": {"x/y": {"type": "integer"}, "p%q": {"$ref": "#/$defs/x~1y"}, "t~u": {"$ref": "#/$defs/t~0u"}},
        });
        let readable = readable(&schema).unwrap();
        for (name, expected) in [
            ("a", json!({"type": "integer"})),
            ("b", readable["properties"]["a"].clone()),
            ("c", readable["properties"]["c"].clone()),
        ] {
            let target = readable["properties"][name]["$ref"].as_str().unwrap();
            assert!(!target.contains(['~', '%']), "{target}");
            assert_eq!(readable.pointer(&target[1..]), Some(&expected), "{name}");
        }
        let lost = json!({"$ref": "#/$defs/no~1where"});
        let outside = super::readable(&json!({"items": {"$ref": "http://example.org/x"}})).unwrap_err();
        assert_eq!(outside, "`$ref` must point into the schema, as `#/$defs/name` does, not to `http://example.org/x`");
        assert_eq!(super::readable(&lost), Err("`$ref` #/$defs/no~1where points nowhere".into()));
    }
}
