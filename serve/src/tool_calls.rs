//! How replies write calls of functions: the schema that forces a call, and the reader that finds calls in a text.
//!
//! A forced reply is a JSON list of `{"name": ..., "arguments": {...}}`. A free one writes calls as its chat template
//! teaches it. One reader serves whole and streamed answers, so that both say the same.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value, json};

use crate::engine::schema_limits;
use crate::openai::{Function, Tools};
use crate::text::possible_start;

/// How a model family writes calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `<tool_call>{"name", "arguments"}</tool_call>`, as Hermes and Qwen do.
    Hermes,
    /// `[TOOL_CALLS][{"name", "arguments"}, ...]`, as Mistral does, or `[TOOL_CALLS]name[ARGS]{...}`, as its newer models do.
    Mistral,
    /// The whole reply is `{"name", "parameters"}`, several with `;` between them, as Llama 3 does, or a list of them.
    Bare,
}

impl Style {
    /// The style that a chat template teaches.
    pub fn of(template: &str) -> Self {
        let styles = [Self::Hermes, Self::Mistral];
        let taught = |style: &Self| style.marker().is_some_and(|marker| template.contains(marker));
        styles.into_iter().find(taught).unwrap_or(Self::Bare)
    }

    /// What announces a call. In some vocabularies it is a special token.
    pub fn marker(self) -> Option<&'static str> {
        match self {
            Self::Hermes => Some("<tool_call>"),
            Self::Mistral => Some("[TOOL_CALLS]"),
            Self::Bare => None,
        }
    }

    fn arguments(self) -> &'static str {
        if self == Self::Bare { "parameters" } else { "arguments" }
    }
}

const HERMES_END: &str = "</tool_call>";
const PYTHON_TAG: &str = "<|python_tag|>";

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

/// A part of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text for people.
    Content(String),
    /// A call begins.
    Call {
        /// Its number in the reply, from 0 on.
        index: usize,
        /// The function.
        name: String,
    },
    /// More of a call's arguments: JSON text of an object, whole when all pieces are put together.
    Arguments {
        /// The call.
        index: usize,
        /// The text.
        text: String,
    },
}

/// Reads one reply as it comes. Text that turns out to be no call is content; the syntax of calls is not, nor is white
/// space around them.
#[derive(Debug, Clone)]
pub struct CallReader {
    style: Style,
    forced: bool,
    names: Vec<String>,
    max_calls: usize,
    state: State,
    held: String,
    calls: usize,
}

#[derive(Debug, Clone)]
enum State {
    /// Content, up to a marker if there can be one; not the white space behind a call.
    Text { marker: Option<&'static str>, behind_call: bool },
    /// What is held begins with what announces calls.
    Announced,
    /// A call must follow.
    Next { list: bool },
    /// An object has begun at `start` of what is held.
    Object { list: bool, start: usize, scanned: usize, balance: Balance },
    /// Inside of the arguments; `wrapped` if they are part of a call object.
    Arguments { list: bool, wrapped: bool, balance: Balance },
    /// Behind the arguments, in the same object.
    Rest { list: bool, balance: Balance },
    /// Behind a call.
    After { list: bool },
    /// No more calls are wanted.
    Full,
}

/// The beginning of a call whose name comes first, up to the arguments.
static HEAD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"^\{\s*"name"\s*:\s*"([^"\\]*)"\s*,\s*"(?:arguments|parameters)"\s*:\s*\{"#).expect("it is a constant")
});

/// The beginning of an object, up to its first key.
static FIRST_KEY: LazyLock<Regex> = LazyLock::new(|| Regex::new(r#"^\{\s*"([^"]*)""#).expect("it is a constant"));
/// The keys that a call can begin with.
const KEYS: [&str; 5] = ["name", "arguments", "parameters", "id", "type"];

impl CallReader {
    /// A reader of one reply by a model that was offered `tools`.
    pub fn new(tools: &Tools, style: Style) -> Self {
        let forced = tools.is_forced();
        let state = match style.marker() {
            Some(marker) if !forced => State::Text { marker: Some(marker), behind_call: false },
            _ => State::Announced,
        };
        let names = tools.callable().map(|function| function.name.clone()).collect();
        Self { style, forced, names, max_calls: tools.max_calls(), state, held: String::new(), calls: 0 }
    }

    /// How many calls have begun.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Adds text; returns what became certain.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// Ends the reply; `cut` if it did not end by itself. A call that was not finished is content where it may not have
    /// been one.
    pub fn finish(&mut self, cut: bool) -> Vec<Part> {
        let held = std::mem::take(&mut self.held);
        let is_content = match self.state {
            State::Text { .. } => self.calls == 0 || !held.trim().is_empty(),
            State::Announced | State::Next { .. } | State::Object { .. } => {
                let surely = self.forced || self.calls > 0 || (cut && self.style.marker().is_some());
                !surely
            }
            State::Arguments { .. } | State::Rest { .. } | State::After { .. } | State::Full => false,
        };
        if is_content && !held.is_empty() { vec![Part::Content(held)] } else { Vec::new() }
    }

    /// Takes the next certain thing out of what is held; false if more text is needed.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state.clone() {
            State::Text { marker, behind_call } => self.text(marker, behind_call, parts),
            State::Announced => self.announced(parts),
            State::Next { list } => self.next(list),
            State::Object { list, start, scanned, balance } => self.object(list, start, scanned, balance, parts),
            State::Arguments { list, wrapped, mut balance } => {
                let end = balance.end(&self.held);
                let text: String = self.held.drain(..end.unwrap_or(self.held.len())).collect();
                if !text.is_empty() {
                    parts.push(Part::Arguments { index: self.calls - 1, text });
                }
                self.state = match end {
                    Some(_) if wrapped => State::Rest { list, balance: Balance::inside() },
                    Some(_) => State::After { list },
                    None => State::Arguments { list, wrapped, balance },
                };
                end.is_some()
            }
            State::Rest { list, mut balance } => {
                let end = balance.end(&self.held);
                self.held.drain(..end.unwrap_or(self.held.len()));
                self.state = if end.is_some() { State::After { list } } else { State::Rest { list, balance } };
                end.is_some()
            }
            State::After { list } => self.after(list),
            State::Full => {
                self.held.clear();
                false
            }
        }
    }

    fn text(&mut self, marker: Option<&'static str>, behind_call: bool, parts: &mut Vec<Part>) -> bool {
        if behind_call {
            self.held.drain(..self.held.len() - self.held.trim_start().len());
        }
        let found = marker.and_then(|marker| self.held.find(marker));
        // What could become a marker waits, and so does white space before it.
        let certain =
            found.unwrap_or_else(|| self.held.len() - marker.map_or(0, |marker| possible_start(&self.held, &[marker])));
        let content = self.held[..certain].trim_end().len();
        if content > 0 {
            parts.push(Part::Content(self.held[..content].to_string()));
            self.state = State::Text { marker, behind_call: false };
        }
        self.held.drain(..if found.is_some() { certain } else { content });
        if found.is_some() {
            self.state = State::Announced;
        }
        found.is_some()
    }

    fn announced(&mut self, parts: &mut Vec<Part>) -> bool {
        let marker = if self.forced { None } else { self.style.marker() };
        let mut rest = self.held.strip_prefix(marker.unwrap_or_default()).unwrap_or(&self.held).trim_start();
        if marker.is_none() {
            if !rest.is_empty() && PYTHON_TAG.starts_with(rest) {
                return false;
            }
            rest = rest.strip_prefix(PYTHON_TAG).unwrap_or(rest).trim_start();
        }
        let list = rest.starts_with('[') && (self.forced || self.style != Style::Hermes);
        if list {
            rest = rest[1..].trim_start();
        }
        if rest.is_empty() {
            return false;
        }
        if rest.starts_with('{') {
            self.object_at(list, self.held.len() - rest.len());
            return true;
        }
        if self.style == Style::Mistral && !self.forced && !list {
            match named_call(rest, &self.names) {
                Named::Call { name, arguments } => {
                    let arguments = self.held.len() - rest.len() + arguments;
                    self.begin(name, parts);
                    self.held.drain(..arguments);
                    self.state = State::Arguments { list, wrapped: false, balance: Balance::default() };
                    return true;
                }
                Named::Perhaps => return false,
                Named::No => {}
            }
        }
        self.give_up(parts);
        true
    }

    fn object_at(&mut self, list: bool, start: usize) {
        self.state = State::Object { list, start, scanned: start, balance: Balance::default() };
    }

    fn object(
        &mut self,
        list: bool,
        start: usize,
        scanned: usize,
        mut balance: Balance,
        parts: &mut Vec<Part>,
    ) -> bool {
        if let Some(head) = HEAD.captures(&self.held[start..]) {
            let (name, arguments) = (head[1].to_string(), start + head[0].len() - 1);
            if !self.names.contains(&name) {
                self.give_up(parts);
                return true;
            }
            self.begin(name, parts);
            self.held.drain(..arguments);
            self.state = State::Arguments { list, wrapped: true, balance: Balance::default() };
            return true;
        }
        // Other objects need not wait for their end.
        if FIRST_KEY.captures(&self.held[start..]).is_some_and(|first| !KEYS.contains(&&first[1])) {
            self.give_up(parts);
            return true;
        }
        // In another order of keys the name may be the last thing that comes.
        let Some(length) = balance.end(&self.held[scanned..]) else {
            self.state = State::Object { list, start, scanned: self.held.len(), balance };
            return false;
        };
        let end = scanned + length;
        match call(&self.held[start..end]).filter(|(name, _)| self.names.contains(name)) {
            Some((name, text)) => {
                self.begin(name, parts);
                parts.push(Part::Arguments { index: self.calls - 1, text });
                self.held.drain(..end);
                self.state = State::After { list };
            }
            None => self.give_up(parts),
        }
        true
    }

    fn begin(&mut self, name: String, parts: &mut Vec<Part>) {
        parts.push(Part::Call { index: self.calls, name });
        self.calls += 1;
    }

    fn after(&mut self, list: bool) -> bool {
        if self.calls == self.max_calls {
            self.state = State::Full;
            return true;
        }
        let marker = if self.forced { None } else { self.style.marker() };
        let rest = self.held.trim_start();
        let text = State::Text { marker, behind_call: true };
        let (end, then) = match (list, marker) {
            (true, _) if rest.starts_with(',') => (1, State::Next { list }),
            (true, _) if rest.starts_with(']') => (1, text),
            (false, None) if rest.starts_with(';') => (1, State::Next { list }),
            (false, None) if rest.starts_with('{') => (0, State::Next { list }),
            (false, Some(_)) if rest.starts_with(HERMES_END) => (HERMES_END.len(), text),
            (false, Some(_)) if HERMES_END.starts_with(rest) => return false,
            _ if rest.is_empty() => return false,
            _ => (0, text),
        };
        let taken = self.held.len() - rest.len() + end;
        self.held.drain(..taken);
        self.state = then;
        true
    }

    fn next(&mut self, list: bool) -> bool {
        let rest = self.held.trim_start();
        match rest.chars().next() {
            None => return false,
            Some('{') => self.object_at(list, self.held.len() - rest.len()),
            Some(_) => self.state = State::Text { marker: None, behind_call: true },
        }
        true
    }

    /// What is held is no call: what announced it is content, and the rest is looked at again.
    fn give_up(&mut self, parts: &mut Vec<Part>) {
        let marker = if self.forced { None } else { self.style.marker() };
        if let Some(marker) = marker.filter(|marker| self.held.starts_with(marker)) {
            parts.push(Part::Content(marker.into()));
            self.held.drain(..marker.len());
        }
        self.state = State::Text { marker, behind_call: false };
    }
}

/// A reading of text that does not begin with a bracket.
enum Named {
    /// A function's name, and where its arguments begin.
    Call { name: String, arguments: usize },
    /// More text decides.
    Perhaps,
    /// Something else.
    No,
}

/// Reads `name[ARGS]{`, with `[CALL_ID]id` between or without `[ARGS]`, as the versions of Mistral's format have it.
fn named_call(text: &str, names: &[String]) -> Named {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let length = text.find(|c| !is_of_name(c)).unwrap_or(text.len());
    let name = &text[..length];
    if length == text.len() {
        return if names.iter().any(|known| known.starts_with(name)) { Named::Perhaps } else { Named::No };
    }
    if !names.iter().any(|known| known == name) {
        return Named::No;
    }
    let mut rest = text[length..].trim_start();
    for marker in ["[CALL_ID]", "[ARGS]"] {
        if rest.len() < marker.len() && marker.starts_with(rest) {
            return Named::Perhaps;
        }
        if let Some(after) = rest.strip_prefix(marker) {
            let id = if marker == "[CALL_ID]" { after.find(|c| !is_of_name(c)) } else { Some(0) };
            let Some(id) = id else { return Named::Perhaps };
            rest = after[id..].trim_start();
        }
    }
    match rest.chars().next() {
        None => Named::Perhaps,
        Some('{') => Named::Call { name: name.into(), arguments: text.len() - rest.len() },
        Some(_) => Named::No,
    }
}

/// Name and arguments of a whole call object.
fn call(text: &str) -> Option<(String, String)> {
    let mut call: Map<String, Value> = serde_json::from_str(text).ok()?;
    let Value::String(name) = call.remove("name")? else { return None };
    let arguments = match call.remove("arguments").or_else(|| call.remove("parameters")) {
        None => "{}".into(),
        // Some models write the text of the object.
        Some(Value::String(text)) => {
            serde_json::from_str::<Map<String, Value>>(&text).ok()?;
            text
        }
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

/// Finds the end of a JSON object that comes in pieces.
#[derive(Debug, Clone, Default)]
struct Balance {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Balance {
    /// One that is inside of an object already.
    fn inside() -> Self {
        Self { depth: 1, ..Self::default() }
    }

    /// How much of `text` belongs to the object, if it ends in it.
    fn end(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
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

    /// Content and calls of a reply, the same however it is cut into pieces.
    fn read_with(tools: &Tools, style: Style, text: &str, cut: bool) -> (String, Vec<(String, String)>) {
        let mut results = Vec::new();
        for size in 1..=text.len().max(1) {
            let mut reader = CallReader::new(tools, style);
            let characters: Vec<char> = text.chars().collect();
            let mut parts = Vec::new();
            for piece in characters.chunks(size) {
                parts.extend(reader.push(&piece.iter().collect::<String>()));
            }
            parts.extend(reader.finish(cut));
            let (mut content, mut calls) = (String::new(), Vec::new());
            for part in parts {
                match part {
                    Part::Content(text) => content += &text,
                    Part::Call { index, name } => {
                        assert_eq!(index, calls.len());
                        calls.push((name, String::new()));
                    }
                    Part::Arguments { index, text } => calls[index].1 += &text,
                }
            }
            assert_eq!(reader.calls(), calls.len());
            results.push((content, calls));
        }
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{text}: {results:?}");
        results.pop().unwrap()
    }

    fn read(style: Style, text: &str) -> (String, Vec<(String, String)>) {
        read_with(&tools(ToolChoice::Auto, true), style, text, false)
    }

    fn calls(calls: &[(&str, &str)]) -> Vec<(String, String)> {
        calls.iter().map(|(name, arguments)| (name.to_string(), arguments.to_string())).collect()
    }

    #[test]
    fn calls_of_every_style_are_found() {
        let hermes = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"}<\\\"é\"}}\n</tool_call>";
        let f = ("f", "{\"a\": \"}<\\\"é\"}");
        for (style, text, content, expected) in [
            (Style::Hermes, hermes.to_string(), "", calls(&[f])),
            (Style::Hermes, format!("Well.\n{hermes}\n{hermes}\n"), "Well.", calls(&[f, f])),
            (Style::Hermes, format!("{hermes} Done."), "Done.", calls(&[f])),
            (Style::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}".into(), "", calls(&[("f", "{}")])),
            (
                Style::Hermes,
                "<tool_call>{\"arguments\": {\"a\": [1]}, \"name\": \"g\"}</tool_call>".into(),
                "",
                calls(&[("g", "{\"a\":[1]}")]),
            ),
            (Style::Hermes, "<tool_call>{\"name\": \"f\"}</tool_call>".into(), "", calls(&[("f", "{}")])),
            (
                Style::Mistral,
                "[TOOL_CALLS] [{\"name\": \"f\", \"arguments\": {\"a\": 1}, \"id\": \"x\"}, {\"name\":\"g\",\"arguments\":{}}]"
                    .into(),
                "",
                calls(&[("f", "{\"a\": 1}"), ("g", "{}")]),
            ),
            (
                Style::Mistral,
                "Let me see.[TOOL_CALLS][{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}]".into(),
                "Let me see.",
                calls(&[("f", "{\"a\": 1}")]),
            ),
            (
                Style::Mistral,
                "Now.[TOOL_CALLS]f[ARGS]{\"a\": {}}[TOOL_CALLS]g[CALL_ID]12ab[ARGS] {}".into(),
                "Now.",
                calls(&[("f", "{\"a\": {}}"), ("g", "{}")]),
            ),
            (Style::Mistral, "[TOOL_CALLS]f{\"a\": 1}".into(), "", calls(&[("f", "{\"a\": 1}")])),
            (Style::Bare, " {\"name\": \"f\", \"parameters\": {\"a\": 1}}".into(), "", calls(&[("f", "{\"a\": 1}")])),
            (
                Style::Bare,
                "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}".into(),
                "",
                calls(&[("f", "{}"), ("g", "{}")]),
            ),
            (Style::Bare, "[{\"name\": \"f\", \"arguments\": {}}]\n".into(), "", calls(&[("f", "{}")])),
        ] {
            assert_eq!(read(style, &text), (content.to_string(), expected), "{text}");
        }
    }

    #[test]
    fn text_that_is_no_call_is_content_to_the_last_space() {
        for style in [Style::Hermes, Style::Mistral, Style::Bare] {
            for text in
                ["", " ", "a < b\n\n", "{\"a\": 1}", "[1, 2]", "say {\"name\": \"f\", \"parameters\": {}}", "<tool"]
            {
                assert_eq!(read(style, text), (text.to_string(), Vec::new()), "{style:?}");
            }
        }
        for (style, text) in [
            (Style::Hermes, "<tool_call>\nf(1)\n</tool_call>"),
            (Style::Hermes, "<tool_call>{\"name\": \"unknown\", \"arguments\": {}}</tool_call>"),
            (Style::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": [1]}</tool_call>"),
            (Style::Hermes, "<tool_call>{\"name\": \"f\""),
            (Style::Mistral, "[TOOL_CALLS]unknown[ARGS]{}"),
            (Style::Mistral, "[TOOL_CALLS]f[ARGS]1"),
            (Style::Mistral, "[TOOL_CALLS]f of x"),
            (Style::Bare, "{\"name\": \"unknown\", \"parameters\": {}}"),
            (Style::Bare, "{\"name\": \"f\", \"parameters\""),
        ] {
            assert_eq!(read(style, text), (text.to_string(), Vec::new()));
        }
        // A second try counts.
        let text = "<tool_call>oops<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        assert_eq!(read(Style::Hermes, text), ("<tool_call>oops".to_string(), calls(&[("f", "{}")])));
    }

    #[test]
    fn a_call_that_is_cut_off_shows_no_syntax() {
        let auto = tools(ToolChoice::Auto, true);
        let text = "Hm.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
        for end in "Hm.\n<tool_call>".len()..text.len() {
            let (content, found) = read_with(&auto, Style::Hermes, &text[..end], true);
            assert_eq!(content, "Hm.", "{}", &text[..end]);
            assert!(found.is_empty() || "{\"a\": 1}".starts_with(&found[0].1), "{found:?}");
        }
    }

    #[test]
    fn forced_calls_are_a_list_in_every_style() {
        let text = "[ {\"name\": \"f\",\n\"arguments\": {\"a\": [{}]} } , {\"name\":\"g\",\"parameters\":{}}]";
        for style in [Style::Hermes, Style::Mistral, Style::Bare] {
            let found = read_with(&tools(ToolChoice::Required, true), style, text, false);
            assert_eq!(found, (String::new(), calls(&[("f", "{\"a\": [{}]}"), ("g", "{}")])));
            for end in 0..text.len() {
                let (content, _) = read_with(&tools(ToolChoice::Required, true), style, &text[..end], true);
                assert_eq!(content, "");
            }
        }
    }

    #[test]
    fn an_object_that_is_no_call_streams() {
        let mut reader = CallReader::new(&tools(ToolChoice::Auto, true), Style::Bare);
        assert_eq!(reader.push("{\"nam"), []);
        assert_eq!(reader.push("es\": [1,"), [Part::Content("{\"names\": [1,".into())]);
        assert_eq!(reader.push(" 2]"), [Part::Content(" 2]".into())]);
    }

    #[test]
    fn without_parallel_calls_only_the_first_counts() {
        let text = "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>".repeat(2) + " more";
        let found = read_with(&tools(ToolChoice::Auto, false), Style::Hermes, &text, false);
        assert_eq!(found, (String::new(), calls(&[("f", "{}")])));
    }

    #[test]
    fn the_style_is_the_template_s() {
        assert_eq!(Style::of("... <tool_call>\\n{...}\\n</tool_call>"), Style::Hermes);
        assert_eq!(Style::of("{{- '[TOOL_CALLS] [' }}"), Style::Mistral);
        assert_eq!(Style::of("Respond in the format {\"name\": ..., \"parameters\": ...}"), Style::Bare);
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
