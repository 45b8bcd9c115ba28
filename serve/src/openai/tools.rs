//! Functions that a model may call: those a chat request offers, and the calls that its conversation holds already.

use serde_json::{Map, Value, json};

use super::fields::{Fields, wrong_type};
use super::{ApiError, ErrorKind};

/// How many tools a request may offer, as OpenAI has it.
pub const MAX_TOOLS: usize = 128;
/// How many characters the name of a function may have, as OpenAI has it.
const MAX_NAME: usize = 64;

/// The functions that a reply may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tools {
    /// The functions; not empty.
    pub functions: Vec<Function>,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// Whether one reply may have several calls.
    pub parallel: bool,
}

/// A function.
#[derive(Debug, Clone, PartialEq)]
pub struct Function {
    /// Its name, unique in a request.
    pub name: String,
    /// The JSON schema of its arguments, an object's.
    pub parameters: Value,
    /// The tool as chat templates present it.
    pub presented: Value,
}

/// Whether a reply calls functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToolChoice {
    /// As the model likes.
    Auto,
    /// It does.
    Required,
    /// It calls this one, once.
    Function(String),
}

impl Tools {
    /// Reads `tools`, `tool_choice` and `parallel_tool_calls`. `None` if there are no tools or none may be called.
    pub(super) fn parse(fields: &mut Fields) -> Result<Option<Self>, ApiError> {
        let functions = functions(fields)?;
        let parallel = fields.boolean("parallel_tool_calls")?.unwrap_or(true);
        let choice = match fields.take("tool_choice") {
            None => Some(ToolChoice::Auto),
            Some(Value::String(choice)) => match choice.as_str() {
                "none" => None,
                "auto" => Some(ToolChoice::Auto),
                "required" => Some(ToolChoice::Required),
                _ => {
                    let what = format!("must be `none`, `auto`, `required` or a function, not `{choice}`");
                    return Err(fields.invalid("tool_choice", &what));
                }
            },
            Some(value) => Some(ToolChoice::Function(chosen(value)?)),
        };
        match &choice {
            Some(ToolChoice::Required | ToolChoice::Function(_)) if functions.is_empty() => {
                Err(fields.invalid("tool_choice", "needs `tools`"))
            }
            Some(ToolChoice::Function(name)) if functions.iter().all(|function| function.name != *name) => {
                let message = format!("`tool_choice` names the function `{name}`, which is not in `tools`");
                Err(ApiError::of_field(ErrorKind::InvalidValue, "tool_choice.function.name", message))
            }
            _ => Ok(choice.filter(|_| !functions.is_empty()).map(|choice| Self { functions, choice, parallel })),
        }
    }

    /// The functions that the reply can call.
    pub fn callable(&self) -> impl Iterator<Item = &Function> {
        self.functions.iter().filter(|function| match &self.choice {
            ToolChoice::Function(name) => function.name == *name,
            ToolChoice::Auto | ToolChoice::Required => true,
        })
    }

    /// Whether the reply must be a call.
    pub fn is_forced(&self) -> bool {
        self.choice != ToolChoice::Auto
    }

    /// How many calls a reply may have.
    pub fn max_calls(&self) -> usize {
        /// A small model that must call may else go on until its tokens are used up.
        const MAX_FORCED: usize = 16;
        match self.choice {
            ToolChoice::Function(_) => 1,
            _ if !self.parallel => 1,
            ToolChoice::Required => MAX_FORCED,
            ToolChoice::Auto => usize::MAX,
        }
    }
}

/// `tools`.
pub(super) fn functions(fields: &mut Fields) -> Result<Vec<Function>, ApiError> {
    let tools = match fields.take("tools") {
        None => return Ok(Vec::new()),
        Some(Value::Array(tools)) => tools,
        Some(other) => return Err(wrong_type("tools", "a list of tools", &other)),
    };
    if tools.len() > MAX_TOOLS {
        return Err(fields.invalid("tools", &format!("has {} entries; {MAX_TOOLS} are allowed", tools.len())));
    }
    let mut functions: Vec<Function> = Vec::with_capacity(tools.len());
    for (index, tool) in tools.into_iter().enumerate() {
        let prefix = format!("tools[{index}].");
        let function = function(tool, &prefix)?;
        if functions.iter().any(|other| other.name == function.name) {
            let message = format!("`{prefix}function.name`: there are two functions `{}`", function.name);
            return Err(ApiError::of_field(ErrorKind::InvalidValue, format!("{prefix}function.name"), message));
        }
        functions.push(function);
    }
    Ok(functions)
}

/// `{"type": "function", "function": {"name", "description", "parameters", "strict"}}`. Arguments follow their schema
/// wherever a call is required, whether `strict` is said or not.
fn function(tool: Value, prefix: &str) -> Result<Function, ApiError> {
    let mut fields = Fields::new(tool, prefix)?;
    of_type_function(&mut fields)?;
    let mut function = Fields::new(fields.require("function")?, &format!("{prefix}function."))?;
    fields.refuse_rest(&[], &[])?;

    let name = function.text("name")?;
    let is_fit = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.is_empty() || name.len() > MAX_NAME || !name.chars().all(is_fit) {
        let what = format!("must have 1 to {MAX_NAME} letters, digits, `_` or `-`");
        return Err(function.invalid("name", &what));
    }
    let mut presented = Map::new();
    presented.insert("name".into(), json!(name));
    if let Some(description) = function.take("description") {
        if !description.is_string() {
            return Err(wrong_type(&function.path("description"), "a string", &description));
        }
        presented.insert("description".into(), description);
    }
    let parameters = match function.take("parameters") {
        None => json!({"type": "object", "properties": {}, "additionalProperties": false}),
        Some(Value::Object(parameters)) => {
            presented.insert("parameters".into(), Value::Object(parameters.clone()));
            arguments_object(parameters, &function)?
        }
        Some(other) => return Err(wrong_type(&function.path("parameters"), "a JSON schema", &other)),
    };
    function.boolean("strict")?;
    function.refuse_rest(&[], &[])?;
    Ok(Function { name, parameters, presented: json!({"type": "function", "function": presented}) })
}

/// The schema of an object, which says so.
fn arguments_object(mut schema: Map<String, Value>, function: &Fields) -> Result<Value, ApiError> {
    if schema.get("type").is_some_and(|kind| kind != "object") {
        return Err(function.invalid("parameters", "must be the schema of an object: its `type` must be `object`"));
    }
    schema.insert("type".into(), json!("object"));
    Ok(Value::Object(schema))
}

/// The name in `{"type": "function", "function": {"name"}}`.
fn chosen(value: Value) -> Result<String, ApiError> {
    let mut fields = Fields::new(value, "tool_choice.")?;
    of_type_function(&mut fields)?;
    let mut function = Fields::new(fields.require("function")?, "tool_choice.function.")?;
    fields.refuse_rest(&[], &[])?;
    let name = function.text("name")?;
    function.refuse_rest(&[], &[])?;
    Ok(name)
}

/// `tool_calls` of an assistant's message. Empty if there are none.
pub(super) fn calls(message: &mut Fields) -> Result<Vec<Value>, ApiError> {
    let calls = match message.take("tool_calls") {
        None => return Ok(Vec::new()),
        Some(Value::Array(calls)) => calls,
        Some(other) => return Err(wrong_type(&message.path("tool_calls"), "a list of calls", &other)),
    };
    let path = message.path("tool_calls");
    calls.into_iter().enumerate().map(|(index, call)| self::call(call, &format!("{path}[{index}]."))).collect()
}

/// A call as chat templates are given it. The arguments are JSON text of an object, unless they were cut off by a limit.
fn call(call: Value, prefix: &str) -> Result<Value, ApiError> {
    let mut fields = Fields::new(call, prefix)?;
    let id = fields.text("id")?;
    of_type_function(&mut fields)?;
    let mut function = Fields::new(fields.require("function")?, &format!("{prefix}function."))?;
    // `index` is in the chunks of a stream, from which clients put messages together.
    fields.refuse_rest(&["index"], &[])?;
    let name = function.text("name")?;
    let arguments = function.require("arguments")?;
    if !arguments.is_string() && !arguments.is_object() {
        return Err(wrong_type(&function.path("arguments"), "JSON text of an object", &arguments));
    }
    // As the parsing helpers of clients leave it.
    function.refuse_rest(&["parsed_arguments"], &[])?;
    Ok(json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}))
}

fn of_type_function(fields: &mut Fields) -> Result<(), ApiError> {
    let kind = fields.require("type")?;
    if kind == "function" {
        return Ok(());
    }
    let path = fields.path("type");
    Err(ApiError::of_field(ErrorKind::Unsupported, &path, format!("`{path}` must be `function`")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: Value) -> Result<Option<Tools>, ApiError> {
        Tools::parse(&mut Fields::new(body, "").unwrap())
    }

    fn tool(name: &str) -> Value {
        json!({"type": "function", "function": {"name": name, "parameters": {"properties": {"x": {"type": "integer"}}}}})
    }

    #[test]
    fn what_may_be_called() {
        let both = [tool("f"), tool("g")];
        for (choice, forced, callable, max_calls) in [
            (Value::Null, false, 2, usize::MAX),
            (json!("auto"), false, 2, usize::MAX),
            (json!("required"), true, 2, 16),
            (json!({"type": "function", "function": {"name": "g"}}), true, 1, 1),
        ] {
            let tools = parse(json!({"tools": both, "tool_choice": choice})).unwrap().unwrap();
            assert_eq!((tools.is_forced(), tools.callable().count(), tools.max_calls()), (forced, callable, max_calls));
        }
        assert_eq!(parse(json!({"tools": both, "parallel_tool_calls": false})).unwrap().unwrap().max_calls(), 1);
        for none in [
            json!({}),
            json!({"tools": []}),
            json!({"tools": [], "tool_choice": "auto"}),
            json!({"tools": both, "tool_choice": "none"}),
        ] {
            assert_eq!(parse(none).unwrap(), None);
        }
    }

    #[test]
    fn arguments_are_objects() {
        let parameters = |parameters: Value| {
            let tools = json!([{"type": "function", "function": {"name": "f", "parameters": parameters}}]);
            parse(json!({ "tools": tools })).map(|tools| tools.unwrap().functions[0].parameters.clone())
        };
        let object = json!({"properties": {"x": {}}, "type": "object"});
        assert_eq!(parameters(json!({"properties": {"x": {}}})).unwrap(), object);
        let none = json!({"type": "object", "properties": {}, "additionalProperties": false});
        assert_eq!(parameters(Value::Null).unwrap(), none);
        assert_eq!(parameters(json!({"type": "array"})).unwrap_err().param(), Some("tools[0].function.parameters"));
    }

    #[test]
    fn templates_do_not_see_what_is_not_theirs() {
        let function = json!({"name": "f", "description": null, "parameters": {"type": "object"}, "strict": true});
        let tools = parse(json!({"tools": [{"type": "function", "function": function}]})).unwrap().unwrap();
        let presented = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}});
        assert_eq!(tools.functions[0].presented, presented);
    }

    #[test]
    fn wrong_tools_are_named() {
        use ErrorKind::{InvalidValue, MissingField, Unsupported};
        let named = |name: &str| json!([{"type": "function", "function": {"name": name}}]);
        let with = |function: Value| json!([{"type": "function", "function": function}]);
        for (body, kind, param) in [
            (json!({"tools": {"f": 1}}), InvalidValue, "tools"),
            (json!({"tools": vec![tool("f"); 129]}), InvalidValue, "tools"),
            (json!({"tools": [tool("f"), tool("f")]}), InvalidValue, "tools[1].function.name"),
            (json!({"tools": [{"type": "web_search"}]}), Unsupported, "tools[0].type"),
            (json!({"tools": [{"type": "function"}]}), MissingField, "tools[0].function"),
            (json!({"tools": named("")}), InvalidValue, "tools[0].function.name"),
            (json!({"tools": named("a b")}), InvalidValue, "tools[0].function.name"),
            (json!({"tools": named(&"a".repeat(65))}), InvalidValue, "tools[0].function.name"),
            (
                json!({"tools": with(json!({"name": "f", "description": 1}))}),
                InvalidValue,
                "tools[0].function.description",
            ),
            (
                json!({"tools": with(json!({"name": "f", "parameters": []}))}),
                InvalidValue,
                "tools[0].function.parameters",
            ),
            (json!({"tools": with(json!({"name": "f", "returns": {}}))}), Unsupported, "tools[0].function.returns"),
            (json!({"tool_choice": "required"}), InvalidValue, "tool_choice"),
            (json!({"tools": [tool("f")], "tool_choice": "any"}), InvalidValue, "tool_choice"),
            (json!({"tools": [tool("f")], "tool_choice": {"type": "allowed_tools"}}), Unsupported, "tool_choice.type"),
            (
                json!({"tools": [tool("f")], "tool_choice": {"type": "function", "function": {"name": "g"}}}),
                InvalidValue,
                "tool_choice.function.name",
            ),
            (json!({"tools": [tool("f")], "parallel_tool_calls": 1}), InvalidValue, "parallel_tool_calls"),
        ] {
            let error = parse(body.clone()).expect_err(&body.to_string());
            assert_eq!((error.kind(), error.param()), (kind, Some(param)), "{body}");
        }
    }
}
