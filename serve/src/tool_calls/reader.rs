//! The reader that finds calls in a reply.

use super::style::Style;
use super::syntax::{Balance, FIRST_KEY, HEAD, HERMES_END, KEYS, Named, PYTHON_TAG, call, named_call};
use crate::openai::Tools;
use crate::text::possible_start;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::{Function, ToolChoice};
    use serde_json::{Value, json};

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
}
