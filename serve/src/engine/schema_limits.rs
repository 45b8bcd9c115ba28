//! What a JSON schema may hold, so that making a grammar of it takes a second at most, whoever wrote it.
//!
//! llguidance bounds most of the work itself (see [`super::constraint`]). It does not bound the steps that these limits
//! are about; the numbers are where a step took less than a second and 100 MB on one core.

use std::collections::BTreeSet;

use serde_json::Value;

/// Bytes of the schema as JSON.
const MAX_BYTES: usize = 128 << 10;
/// Properties of one object: the time grows with their square.
const MAX_PROPERTIES: usize = 1000;
/// Patterns and formats that can have to hold together: the time doubles with each.
const MAX_JOINED_PATTERNS: usize = 8;
/// The product of all `multipleOf`s, without their decimal points: an automaton has so many states.
const MAX_MULTIPLES: u64 = 10_000;

/// Keywords that change nothing about what stands beside them.
const ANNOTATIONS: [&str; 10] =
    ["$schema", "$id", "$comment", "$defs", "definitions", "title", "description", "default", "examples", "deprecated"];

/// Refuses a schema that is too much.
///
/// # Errors
/// What is too much, and how much is allowed.
pub fn check(schema: &Value) -> Result<(), String> {
    let bytes = schema.to_string().len();
    if bytes > MAX_BYTES {
        return Err(format!("it has {bytes} bytes; {MAX_BYTES} are allowed"));
    }
    let mut found = Found::default();
    found.look_at(schema);
    if found.properties > MAX_PROPERTIES {
        return Err(format!("an object has {} properties; {MAX_PROPERTIES} are allowed", found.properties));
    }
    let patterns = found.patterns.len();
    if found.joins && patterns > MAX_JOINED_PATTERNS {
        return Err(format!(
            "it joins schemas and has {patterns} patterns and formats; {MAX_JOINED_PATTERNS} are allowed"
        ));
    }
    let product = found.multiples.iter().fold(1_u64, |product, multiple| product.saturating_mul(*multiple));
    if product > MAX_MULTIPLES {
        return Err(format!("the product of its `multipleOf`s, without decimal points, is more than {MAX_MULTIPLES}"));
    }
    Ok(())
}

/// Whether several parts of a schema can have to hold for one value.
pub fn joins(schema: &Value) -> bool {
    let mut found = Found::default();
    found.look_at(schema);
    found.joins
}

/// What a schema holds anywhere. References are not followed: what they point to is in the schema, too.
#[derive(Default)]
struct Found<'a> {
    /// The most properties of one object.
    properties: usize,
    patterns: BTreeSet<&'a str>,
    multiples: BTreeSet<u64>,
    /// Whether several schemas can have to hold for one value.
    joins: bool,
}

impl<'a> Found<'a> {
    fn look_at(&mut self, value: &'a Value) {
        match value {
            Value::Object(fields) => {
                let ruling = fields.keys().filter(|key| !ANNOTATIONS.contains(&key.as_str())).count();
                let branches = ["anyOf", "oneOf", "$ref"].iter().any(|key| fields.contains_key(*key));
                self.joins |= fields.contains_key("allOf") || (branches && ruling > 1);
                for (key, value) in fields {
                    match (key.as_str(), value) {
                        ("pattern" | "format", Value::String(pattern)) => {
                            self.patterns.insert(pattern);
                        }
                        ("multipleOf", Value::Number(number)) => {
                            self.multiples.insert(digits(&number.to_string()));
                        }
                        ("properties", Value::Object(properties)) => {
                            self.properties = self.properties.max(properties.len());
                        }
                        ("patternProperties", Value::Object(properties)) => {
                            self.properties = self.properties.max(properties.len());
                            self.patterns.extend(properties.keys().map(String::as_str));
                        }
                        _ => {}
                    }
                    self.look_at(value);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| self.look_at(value)),
            _ => {}
        }
    }
}

/// The digits of a number as one number: `0.05` is 5. One that is written with an exponent counts as too large.
fn digits(number: &str) -> u64 {
    number.replace(['.', '-'], "").parse().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects(count: usize, value: fn(usize) -> Value) -> Vec<Value> {
        (0..count).map(value).collect()
    }

    #[test]
    fn what_is_too_much_is_refused_with_the_reason() {
        let properties = |count: usize| {
            let properties = (0..count).map(|index| (format!("p{index}"), json!({})));
            json!({"properties": properties.collect::<serde_json::Map<_, _>>()})
        };
        let pattern = |index: usize| json!({"pattern": format!("a{index}")});
        // Joined without `allOf`, by what stands beside a branch.
        let nested = (0..9).fold(json!({}), |inner, index| json!({"anyOf": [inner], "pattern": format!("a{index}")}));
        for (schema, words) in [
            (json!({"const": "x".repeat(MAX_BYTES)}), "bytes"),
            (properties(MAX_PROPERTIES + 1), "properties"),
            (json!({"items": [properties(MAX_PROPERTIES + 1)]}), "properties"),
            (json!({"allOf": objects(9, pattern)}), "patterns"),
            (nested, "patterns"),
            (json!({"multipleOf": 10_007}), "multipleOf"),
            (json!({"multipleOf": 1e-7}), "multipleOf"),
            (json!({"items": {"multipleOf": 101}, "$defs": {"a": {"multipleOf": 1.03}}}), "multipleOf"),
        ] {
            let error = check(&schema).expect_err(words);
            assert!(error.contains(words), "{error}");
        }
        for schema in [
            properties(MAX_PROPERTIES),
            json!({"anyOf": objects(100, pattern)}),
            json!({"allOf": objects(8, pattern)}),
            json!({"properties": {"a": {"multipleOf": 0.01}, "b": {"multipleOf": 500}, "c": {"multipleOf": 5}}}),
            json!({"$ref": "#/$defs/a", "description": "b", "$defs": {"a": {"anyOf": objects(9, pattern)}}}),
            json!(true),
        ] {
            assert_eq!(check(&schema), Ok(()));
        }
    }
}
