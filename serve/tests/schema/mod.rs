//! A strict validator of the part of JSON schema that the published document uses. A keyword that it does not know is a
//! panic, so that nothing in the document goes unchecked.

use regex::Regex;
use serde_json::{Map, Value};

/// The schemas of a document, to which `$ref` points.
pub struct Schemas<'a>(pub &'a Value);

impl Schemas<'_> {
    /// Why `value` at `path` is not what `schema` describes.
    pub fn check(&self, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
        let keywords = schema.as_object().unwrap_or_else(|| panic!("{path}: {schema} is no schema"));
        keywords.iter().try_for_each(|(keyword, wanted)| self.keyword(keyword, wanted, keywords, value, path))
    }

    fn keyword(
        &self,
        keyword: &str,
        wanted: &Value,
        schema: &Map<String, Value>,
        value: &Value,
        path: &str,
    ) -> Result<(), String> {
        let limit = || wanted.as_f64().unwrap();
        let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
        let nothing = Map::new();
        let fields = value.as_object().unwrap_or(&nothing);
        let fine = match keyword {
            "description" | "default" | "contentMediaType" => true,
            "$ref" => {
                let target = wanted.as_str().unwrap().strip_prefix('#').unwrap();
                return self.check(self.0.pointer(target).expect(target), value, path);
            }
            "type" => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is_a(value, kind.as_str().unwrap())),
                kind => is_a(value, kind.as_str().unwrap()),
            },
            "contentSchema" => {
                let json = value.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
                let json = json.ok_or_else(|| format!("{path}: {value} is no JSON text"))?;
                return self.check(wanted, &json, path);
            }
            "enum" => wanted.as_array().unwrap().contains(value),
            "const" => wanted == value,
            "anyOf" => {
                let tries = wanted.as_array().unwrap().iter().map(|schema| self.check(schema, value, path));
                let reasons: Vec<String> = tries.map(Result::err).collect::<Option<_>>().unwrap_or_default();
                return if reasons.is_empty() { Ok(()) } else { Err(reasons.join(" or ")) };
            }
            "required" => {
                let mut names = wanted.as_array().unwrap().iter().map(|name| name.as_str().unwrap());
                !value.is_object() || names.all(|name| fields.contains_key(name))
            }
            "properties" => {
                let known = wanted.as_object().unwrap();
                return fields.iter().try_for_each(|(name, field)| match known.get(name) {
                    Some(schema) => self.check(schema, field, &format!("{path}.{name}")),
                    None => Ok(()),
                });
            }
            "additionalProperties" => {
                let others = fields.iter().filter(|(name, _)| {
                    schema.get("properties").is_none_or(|properties| properties.get(name.as_str()).is_none())
                });
                for (name, field) in others {
                    match wanted {
                        Value::Bool(true) => {}
                        Value::Bool(false) => return Err(format!("{path}.{name} is not in the document")),
                        schema => self.check(schema, field, &format!("{path}.{name}"))?,
                    }
                }
                true
            }
            "propertyNames" => {
                return fields.keys().try_for_each(|name| self.check(wanted, &Value::String(name.clone()), path));
            }
            "maxProperties" => fields.len() as f64 <= limit(),
            "items" => {
                let mut items = items.iter().enumerate();
                return items.try_for_each(|(index, item)| self.check(wanted, item, &format!("{path}[{index}]")));
            }
            "minItems" => !value.is_array() || items.len() as f64 >= limit(),
            "maxItems" => items.len() as f64 <= limit(),
            "minimum" => value.as_f64().is_none_or(|number| number >= limit()),
            "maximum" => value.as_f64().is_none_or(|number| number <= limit()),
            "minLength" => value.as_str().is_none_or(|text| text.chars().count() as f64 >= limit()),
            "pattern" => value.as_str().is_none_or(|text| Regex::new(wanted.as_str().unwrap()).unwrap().is_match(text)),
            other => panic!("{path}: the validator does not know the keyword `{other}`"),
        };
        if fine { Ok(()) } else { Err(format!("{path}: {value} is not {keyword} {wanted}")) }
    }
}

fn is_a(value: &Value, kind: &str) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("`{other}` is no type"),
    }
}
