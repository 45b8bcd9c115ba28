//! The published document says what the code does: fields, ranges, defaults, errors, routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use super::fields::tests::known;
use super::{
    ApiError, ChatRequest, CompletionRequest, DetokenizeRequest, ErrorKind, LoadAdapterRequest, TokenizeRequest,
    UnloadAdapterRequest,
};

static DOCUMENT: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("openapi.json")).unwrap());

fn resolved(schema: &'static Value) -> &'static Value {
    match schema["$ref"].as_str() {
        Some(target) => resolved(DOCUMENT.pointer(target.strip_prefix('#').unwrap()).expect(target)),
        None => schema,
    }
}

fn component(name: &str) -> &'static Value {
    &DOCUMENT["components"]["schemas"][name]
}

/// The paths of all fields, but for those of open objects, which are the client's own.
fn fields(schema: &'static Value, prefix: &str, paths: &mut BTreeSet<String>) {
    let schema = resolved(schema);
    for alternative in schema["anyOf"].as_array().into_iter().flatten() {
        fields(alternative, prefix, paths);
    }
    if let Some(items) = schema.get("items") {
        fields(items, &format!("{}[].", prefix.trim_end_matches('.')), paths);
    }
    if schema["additionalProperties"] == true {
        return;
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        paths.insert(format!("{prefix}{name}"));
        fields(property, &format!("{prefix}{name}."), paths);
    }
}

#[test]
fn every_field_that_is_read_is_documented_and_none_else() {
    let index = Regex::new(r"\[\d+\]").unwrap();
    let function = json!({"type": "function", "function": {"name": "f", "parameters": {}}});
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "content": "b", "tool_call_id": "c"},
    ]);
    let chat = json!({
        "model": "m", "messages": messages, "tools": [function], "stream": true, "stream_options": {},
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
    });
    let completion = json!({
        "model": "m", "prompt": "a", "stream": true, "stream_options": {},
        "response_format": {"type": "json_schema", "json_schema": {"schema": {}}},
    });
    let forms = json!({"response_format": {"type": "json_object"}});
    let outputs = json!({"structured_outputs": {}});
    let with = |extra: &Value, own: Value| {
        let mut body = extra.clone();
        body.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        body
    };
    let chats = [&forms, &outputs].map(|extra| with(extra, json!({ "messages": messages })));
    let completions = [&forms, &outputs].map(|extra| with(extra, json!({"prompt": "a"})));
    let parse_tokenize = |body: &[u8]| TokenizeRequest::parse(body).map(drop);
    type Parse = fn(&[u8]) -> Result<(), ApiError>;
    let cases: [(&[&str], &[Value], Parse); 6] = [
        (&["ChatCompletionRequest"], &[&[chat][..], &chats].concat(), |body| ChatRequest::parse(body).map(drop)),
        (&["CompletionRequest"], &[&[completion][..], &completions].concat(), |body| {
            CompletionRequest::parse(body).map(drop)
        }),
        (
            &["TokenizeTextRequest", "TokenizeChatRequest"],
            &[json!({"prompt": "a"}), json!({"messages": messages, "tools": [function]})],
            parse_tokenize,
        ),
        (&["LoadAdapterRequest"], &[json!({"lora_name": "n", "lora_path": "p"})], |body| {
            LoadAdapterRequest::parse(body).map(drop)
        }),
        (&["UnloadAdapterRequest"], &[json!({"lora_name": "n"})], |body| UnloadAdapterRequest::parse(body).map(drop)),
        (&["DetokenizeRequest"], &[json!({"tokens": [1]})], |body| DetokenizeRequest::parse(body).map(drop)),
    ];
    for (schemas, bodies, parse) in cases {
        known();
        for body in bodies {
            parse(body.to_string().as_bytes()).unwrap_or_else(|error| panic!("{error}: {body}"));
        }
        let read: BTreeSet<String> = known().iter().map(|path| index.replace_all(path, "[]").into_owned()).collect();
        let mut documented = BTreeSet::new();
        schemas.iter().for_each(|name| fields(component(name), "", &mut documented));
        assert_eq!(read, documented, "{schemas:?}: what is read, and what is documented");
    }
}

#[test]
fn ranges_and_defaults_are_the_document_s() {
    let chat = |body: &Value| ChatRequest::parse(body.to_string().as_bytes()).map(|request| format!("{request:?}"));
    let completion =
        |body: &Value| CompletionRequest::parse(body.to_string().as_bytes()).map(|request| format!("{request:?}"));
    type Parse<'a> = &'a dyn Fn(&Value) -> Result<String, ApiError>;
    let bases: [(&str, Value, Parse<'_>); 2] = [
        ("ChatCompletionRequest", json!({"model": "m", "messages": [{"role": "user", "content": "a"}]}), &chat),
        ("CompletionRequest", json!({"model": "m", "prompt": "a"}), &completion),
    ];
    let mut checked = 0;
    for (schema, base, parse) in bases {
        for (name, property) in component(schema)["properties"].as_object().unwrap() {
            let property = resolved(property);
            let with = |value: Value| {
                let mut body = base.clone();
                // Fields that go together.
                match name.as_str() {
                    "top_logprobs" => body["logprobs"] = json!(true),
                    "best_of" => body["n"] = value.clone(),
                    _ => {}
                }
                body[name] = value;
                parse(&body)
            };
            for (key, outwards) in [("minimum", -1.0), ("maximum", 1.0)] {
                let Some(limit) = property.get(key) else { continue };
                with(limit.clone()).unwrap_or_else(|error| panic!("{error}: {limit}"));
                let error = with(beyond(limit, outwards)).expect_err(name);
                assert!([Some(name.as_str()), Some("n")].contains(&error.param()), "{error}");
                checked += 1;
            }
            if let Some(default) = property.get("default") {
                assert_eq!(with(default.clone()).unwrap(), with(Value::Null).unwrap(), "{name}");
                checked += 1;
            }
            if let Some(most) = property["maxItems"].as_u64().filter(|_| name == "tools") {
                let tool = |index| json!({"type": "function", "function": {"name": format!("f{index}")}});
                assert!(with((0..most).map(tool).collect()).is_ok() && with((0..=most).map(tool).collect()).is_err());
                checked += 1;
            }
        }
    }
    assert!(checked > 60, "{checked}");
}

/// The next number outwards of a limit, as close as matters.
fn beyond(limit: &Value, outwards: f64) -> Value {
    match (limit.as_i64(), limit.as_u64()) {
        (Some(i64::MIN), _) | (None, Some(u64::MAX)) => json!(limit.as_f64().unwrap() * 2.0),
        (_, Some(limit)) if outwards > 0.0 => json!(limit + 1),
        (Some(limit), _) => json!(limit + outwards as i64),
        _ => json!(limit.as_f64().unwrap() + outwards * 0.001),
    }
}

#[test]
fn every_error_is_documented_with_its_status() {
    let codes: Vec<&str> = ErrorKind::ALL.iter().map(|kind| kind.code()).collect();
    assert_eq!(component("Error")["properties"]["code"]["enum"], json!(codes));
    let responses = DOCUMENT["components"]["responses"].as_object().unwrap();
    let mut statuses: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for operation in operations() {
        for (status, response) in operation["responses"].as_object().unwrap() {
            let name = response["$ref"].as_str().and_then(|target| target.rsplit('/').next());
            if let Some(name) = name {
                statuses.entry(name).or_default().insert(status);
            }
        }
    }
    assert_eq!(
        statuses.keys().copied().collect::<Vec<_>>(),
        responses.keys().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()
    );
    for kind in ErrorKind::ALL {
        let error = ApiError::new(kind, "x");
        assert!(
            component("Error")["properties"]["type"]["enum"]
                .as_array()
                .unwrap()
                .contains(&error.body()["error"]["type"])
        );
        let told = responses
            .iter()
            .filter(|(_, response)| response["description"].as_str().unwrap().contains(&format!("`{}`", kind.code())));
        let told: BTreeSet<&str> = told.flat_map(|(name, _)| statuses[name.as_str()].iter().copied()).collect();
        assert_eq!(told, BTreeSet::from([error.status().as_str()]), "{kind:?}");
    }
}

#[test]
fn every_route_is_documented() {
    let source = include_str!("../routes/mod.rs");
    let route = Regex::new(r#"\.route\("([^"]+)", (get|post)\("#).unwrap();
    // OpenAPI has no mark for a parameter with slashes.
    let routes: BTreeMap<String, &str> = route
        .captures_iter(source)
        .map(|found| (found[1].replace("{*", "{"), found.get(2).unwrap().as_str()))
        .collect();
    assert_eq!(routes.len(), source.matches(".route(").count());
    let paths = DOCUMENT["paths"].as_object().unwrap();
    let documented: BTreeMap<String, &str> =
        paths.iter().map(|(path, methods)| (path.clone(), only_key(methods))).collect();
    assert_eq!(routes, documented);
    assert_eq!(DOCUMENT["info"]["version"], env!("CARGO_PKG_VERSION"));
}

fn only_key(methods: &Value) -> &str {
    let methods: &Map<String, Value> = methods.as_object().unwrap();
    assert_eq!(methods.len(), 1);
    methods.keys().next().unwrap()
}

fn operations() -> impl Iterator<Item = &'static Value> {
    DOCUMENT["paths"].as_object().unwrap().values().flat_map(|methods| methods.as_object().unwrap().values())
}
