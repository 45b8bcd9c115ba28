//! The schema that forces a reply to be calls.

use serde_json::{Map, Value, json};

use super::style::Style;
use crate::engine::schema_limits;
use crate::openai::{Function, Tools};

/// The schema of a reply that must call functions: a list of calls.
pub fn schema(tools: &Tools, style: Style) -> Value {
    let key = style.arguments();
    let mut definitions = Map::new();
    let mut call = |function: &Function| {
        let place = format!("#/$defs/{}", function.name);
        let parameters = &function.parameters;
        let parameters = if schema_limits::joins(parameters) { parameters.clone() } else { closed(parameters) };
        definitions.insert(function.name.clone(), moved_to(&place, &parameters));
        json!({
            "type": "object",
            "properties": {"name": {"const": function.name}, key: {"$ref": place}},
            "required": ["name", key],
            "additionalProperties": false,
        })
    };
    let calls: Vec<Value> = tools.callable().map(&mut call).collect();
    let items = json!({ "anyOf": calls });
    json!({"type": "array", "minItems": 1, "maxItems": tools.max_calls(), "items": items, "$defs": definitions})
}

/// A schema whose objects have the properties that they list, and others only if they speak of them: arguments that a
/// function does not know are of no use, and a small model would go on inventing them. Where schemas are joined, one of
/// them lists only a part of the properties; such schemas are not for this function.
fn closed(schema: &Value) -> Value {
    const OPEN: [&str; 3] = ["additionalProperties", "unevaluatedProperties", "patternProperties"];
    let Value::Object(fields) = schema else { return schema.clone() };
    let close = |(key, value): (&String, &Value)| {
        let value = match (key.as_str(), value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(schemas)) => {
                Value::Object(schemas.iter().map(|(name, schema)| (name.clone(), closed(schema))).collect())
            }
            ("anyOf" | "oneOf" | "prefixItems", Value::Array(schemas)) => schemas.iter().map(closed).collect(),
            ("items" | "additionalProperties", schema) => closed(schema),
            _ => value.clone(),
        };
        (key.clone(), value)
    };
    let mut fields: Map<String, Value> = fields.iter().map(close).collect();
    if fields.contains_key("properties") && !OPEN.iter().any(|key| fields.contains_key(*key)) {
        fields.insert("additionalProperties".into(), json!(false));
    }
    Value::Object(fields)
}

/// A schema that is to stand at `place` of another: what it says of itself is said of that place.
fn moved_to(place: &str, schema: &Value) -> Value {
    match schema {
        Value::Object(fields) => {
            let moved = fields.iter().map(|(key, value)| {
                let local = value.as_str().filter(|_| key == "$ref").and_then(|target| target.strip_prefix('#'));
                let value = local.map_or_else(|| moved_to(place, value), |rest| json!(format!("{place}{rest}")));
                (key.clone(), value)
            });
            Value::Object(moved.collect())
        }
        Value::Array(values) => Value::Array(values.iter().map(|value| moved_to(place, value)).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::ToolChoice;

    fn tools(choice: ToolChoice, parallel: bool) -> Tools {
        let function =
            |name: &str| Function { name: name.into(), parameters: json!({"type": "object"}), presented: Value::Null };
        Tools { functions: vec![function("f"), function("g")], choice, parallel }
    }

    #[test]
    fn objects_have_no_arguments_but_those_they_list() {
        let mut tools = tools(ToolChoice::Required, true);
        let parameters = json!({"type": "object", "properties": {
            "properties": {"type": "array", "items": {"properties": {"a": {"const": {"properties": 1}}}}},
            "open": {"properties": {}, "additionalProperties": {"properties": {}}},
            "any": {"anyOf": [{"properties": {}}, {"type": "null"}]},
        }});
        let closed = json!({"type": "object", "properties": {
            "properties": {"type": "array", "items": {
                "properties": {"a": {"const": {"properties": 1}}}, "additionalProperties": false}},
            "open": {"properties": {}, "additionalProperties": {"properties": {}, "additionalProperties": false}},
            "any": {"anyOf": [{"properties": {}, "additionalProperties": false}, {"type": "null"}]},
        }, "additionalProperties": false});
        tools.functions[0].parameters = parameters;
        let joined = json!({"properties": {"a": {}}, "allOf": [{"properties": {"b": {}}}]});
        tools.functions[1].parameters = joined.clone();
        let schema = schema(&tools, Style::Hermes);
        assert_eq!((&schema["$defs"]["f"], &schema["$defs"]["g"]), (&closed, &joined));
    }

    #[test]
    fn references_inside_of_parameters_follow_them() {
        let mut tools = tools(ToolChoice::Function("g".into()), true);
        tools.functions[1].parameters =
            json!({"properties": {"a": {"$ref": "#/$defs/A"}, "b": {"$ref": "#"}}, "$defs": {"A": {"enum": ["#"]}}});
        let schema = schema(&tools, Style::Hermes);
        assert_eq!(schema["$defs"]["g"]["properties"]["a"]["$ref"], "#/$defs/g/$defs/A");
        assert_eq!(schema["$defs"]["g"]["properties"]["b"]["$ref"], "#/$defs/g");
        assert_eq!((&schema["$defs"]["f"], &schema["maxItems"]), (&Value::Null, &json!(1)));
        assert_eq!(schema["items"]["anyOf"].as_array().unwrap().len(), 1);
    }
}
