//! From a data file to rows: the container (JSONL, JSON, CSV, gzip, parquet) gives objects, the layout gives pairs.

mod container;
mod csv;
mod json;
mod parquet;
mod scan;
mod select;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use serde_json::{Map, Value};

use self::container::Found;
use self::select::Named;
pub use self::select::Selection;
use super::layout::{self, Layout, Overlooked, RowError};
use super::{Document, Dropped, Preference, Text};
use crate::error::TrainError;

/// One object of a data file.
pub type Row = Map<String, Value>;

/// The rows of a file, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct FileRows<T> {
    /// How it was understood.
    pub layout: &'static str,
    /// What a row's number counts in this container: `line` or `row`.
    pub unit: &'static str,
    /// Every row with its number (counted from 1), or why it cannot be used.
    pub rows: Vec<(usize, Result<T, Dropped>)>,
    /// What a user should know about them.
    pub noticed: Noticed,
}

/// What was noticed in the rows of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Noticed {
    /// Rows with tools for the chat template to present.
    pub with_tools: usize,
    /// Rows with a system message.
    pub with_system: usize,
    /// Rows of turns, which the chat template renders.
    pub turns: usize,
    /// Pairs that are strings, which no template is applied to.
    pub strings: usize,
    /// Pairs whose responses both begin with the prompt.
    pub repeated_prompts: usize,
    /// Pairs of which one response thinks (`<think>`) and the other does not.
    pub one_thinks: usize,
    /// Rows with reasoning apart from the answer, by the key that holds it.
    pub reasoning: BTreeMap<&'static str, usize>,
    /// Columns with content that is not used.
    pub unused: BTreeSet<String>,
}

impl<T> FileRows<T> {
    /// The rows that can be used.
    pub fn used(&self) -> impl Iterator<Item = (usize, &T)> {
        self.rows.iter().filter_map(|(number, row)| row.as_ref().ok().map(|row| (*number, row)))
    }

    /// The numbers of the rows that cannot be used, by reason.
    pub fn dropped(&self) -> BTreeMap<Dropped, Vec<usize>> {
        let mut dropped: BTreeMap<Dropped, Vec<usize>> = BTreeMap::new();
        for (number, row) in &self.rows {
            if let Err(reason) = row {
                dropped.entry(*reason).or_default().push(*number);
            }
        }
        dropped
    }
}

/// Rows from which the layout is found.
const DETECTION_ROWS: usize = 16;

/// Reads the preference pairs of a file.
///
/// # Errors
/// When the file cannot be read, its layout is not known, or a row does not fit the layout: with row and field.
pub fn read_preferences(path: &Path, selection: &Selection) -> Result<FileRows<Preference>, TrainError> {
    let invalid = |reason: String| TrainError::invalid(path, reason);
    selection.check().map_err(invalid)?;
    let layout = match selection.format {
        Some(layout) => layout,
        None => {
            let (rows, not_finite) = first_rows(path, selection)?;
            layout::detect(&rows).map_err(|reason| invalid(not_finite.unwrap_or(reason)))?
        }
    };
    if selection.apply_chat_template && !layout.marks_prompts() {
        return Err(invalid(format!(
            "`data.apply_chat_template` needs to know where the prompt ends, which the layout `{}` leaves open; add a \
             column `prompt`",
            layout.name()
        )));
    }
    let mut noticed = Noticed::default();
    let (unit, rows) = parse_rows(path, selection, |named| {
        noticed.unused.extend(named.displaced.iter().cloned());
        let pair = understood(layout, selection, named, &mut noticed.unused)?;
        noticed.with_tools += usize::from(!pair.tools.is_empty());
        noticed.with_system += usize::from(pair.prompt.has_system());
        noticed.turns += usize::from(matches!(pair.prompt, Text::Chat(_)));
        noticed.strings += usize::from(matches!(pair.prompt, Text::Plain(_)));
        noticed.repeated_prompts += usize::from(pair.repeats_prompt());
        noticed.one_thinks += usize::from(pair.chosen.thinks() != pair.rejected.thinks());
        pair.reasoning_key().into_iter().for_each(|key| *noticed.reasoning.entry(key).or_default() += 1);
        Ok(pair)
    })?;
    Ok(FileRows { layout: layout.name(), unit, rows, noticed })
}

/// The pair of a row, if it can be used. Columns with content that the layout leaves out are put into `unused`.
fn understood(
    layout: Layout,
    selection: &Selection,
    named: &Named,
    unused: &mut BTreeSet<String>,
) -> Result<Preference, RowError> {
    let row = &named.row;
    let mut parsed = match layout.parse(row, selection.apply_chat_template) {
        Err(wrong @ RowError::Wrong(_)) => return Err(wrong.in_layout(layout.name())),
        parsed => parsed,
    };
    let is_tokenised = matches!(&parsed, Ok(pair) if matches!(pair.prompt, Text::Ids(_)));
    let reads = |name: &str| {
        let has_turns = !matches!(&parsed, Ok(pair) if !matches!(pair.prompt, Text::Chat(_)));
        layout.reads(row, name) || has_turns && layout::is_context(row, name)
    };
    let left_out: Vec<&str> = row
        .iter()
        .filter(|(name, value)| layout::is_filled(value) && !reads(name))
        .map(|(name, _)| name.as_str())
        .collect();
    if let Some(name) = named.not_finite.iter().find(|name| reads(name)) {
        return Err(not_finite(name));
    }
    let left_out = left_out.into_iter().filter(|name| !selection.ignore_columns.iter().any(|ignored| ignored == name));
    for name in left_out {
        unused.insert(name.to_string());
        match layout::overlooked(row, name, layout.marks_prompts(), reads) {
            Some(Overlooked::Media) => return Err(Dropped::Media.into()),
            // Beside token ids, texts are what they were made of.
            Some(Overlooked::Prompt) if !is_tokenised => {
                let layout = layout.name();
                return Err(RowError::Wrong(format!(
                    "`{name}` looks like a part of the prompt, but the layout `{layout}` does not read it; name it as the \
                     prompt (data.columns = {{ prompt = \"{name}\" }}), join it with the prompt in the file, or, if it is \
                     not needed, set data.ignore_columns = [\"{name}\"]"
                )));
            }
            _ => {}
        }
    }
    if selection.cut_repeated_prompt {
        parsed = parsed.map(Preference::without_repeated_prompt);
    }
    let pair = parsed?;
    pair.unusable().map_or(Ok(pair), |reason| Err(reason.into()))
}

fn not_finite(name: &str) -> RowError {
    RowError::Wrong(format!("`{name}` holds NaN or an infinity, which JSON does not have"))
}

/// Reads documents for next-token training: objects with `messages` (a list of turns) or `text` (a string).
///
/// # Errors
/// When the file cannot be read or a row is not such an object.
pub fn read_documents(path: &Path, selection: &Selection) -> Result<FileRows<Document>, TrainError> {
    let mut noticed = Noticed::default();
    let (unit, rows) = parse_rows(path, selection, |named| {
        let reads = |name: &str| layout::document_reads(&named.row, name);
        let left_out = named.row.iter().filter(|(name, value)| layout::is_filled(value) && !reads(name));
        let left_out = left_out.map(|(name, _)| name).filter(|name| !selection.ignore_columns.contains(*name));
        noticed.unused.extend(named.displaced.iter().chain(left_out).cloned());
        if let Some(name) = named.not_finite.iter().find(|name| reads(name)) {
            return Err(not_finite(name));
        }
        let document = layout::document(&named.row)?;
        noticed.with_tools += usize::from(!document.tools.is_empty());
        noticed.with_system += usize::from(document.text.has_system());
        noticed.turns += usize::from(matches!(document.text, Text::Chat(_)));
        document.text.reasoning_key().into_iter().for_each(|key| *noticed.reasoning.entry(key).or_default() += 1);
        if document.text.is_empty() { Err(Dropped::EmptySide.into()) } else { Ok(document) }
    })?;
    Ok(FileRows { layout: "documents", unit, rows, noticed })
}

type Numbered<T> = Vec<(usize, Result<T, Dropped>)>;

fn parse_rows<T>(
    path: &Path,
    selection: &Selection,
    mut parse: impl FnMut(&Named) -> Result<T, RowError>,
) -> Result<(&'static str, Numbered<T>), TrainError> {
    let mut rows = Vec::new();
    let unit = container::each_row(path, selection.field.as_deref(), &mut |number, found| {
        let parsed = match parse(&selection.named(found)) {
            Ok(parsed) => Ok(parsed),
            Err(RowError::Unusable(reason)) => Err(reason),
            Err(RowError::Wrong(reason)) => return Err(reason),
        };
        rows.push((number, parsed));
        Ok(ControlFlow::Continue(()))
    })?;
    if rows.is_empty() {
        return Err(TrainError::invalid(path, "it holds no rows"));
    }
    Ok((unit, rows))
}

/// The rows from which the layout is found; and if a column of layouts holds a number that is not finite, which may be why it
/// is not found, what to say about it.
fn first_rows(path: &Path, selection: &Selection) -> Result<(Vec<Row>, Option<String>), TrainError> {
    let mut rows = Vec::new();
    let mut reason = None;
    container::each_row(path, selection.field.as_deref(), &mut |number, found: Found| {
        let named = selection.named(found);
        if let (None, Some(name)) = (&reason, named.not_finite.iter().find(|name| layout::is_column(name))) {
            reason = Some(format!("`{name}` of row {number} holds NaN or an infinity, which JSON does not have"));
        }
        rows.push(named.row);
        Ok(if rows.len() < DETECTION_ROWS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    if rows.is_empty() {
        return Err(TrainError::invalid(path, "it holds no rows"));
    }
    Ok((rows, reason))
}

#[cfg(test)]
mod tests {
    use orpo_chat::Message;

    use super::*;

    fn file(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        file
    }

    fn read(content: &[u8]) -> Result<FileRows<Preference>, String> {
        read_preferences(file(content).path(), &Selection::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_keep_their_line_and_those_without_use_their_reason() {
        let content = br#"
{"prompt": "a", "chosen": "b", "rejected": "c", "id": 7}

{"prompt": "a", "chosen": "b", "rejected": "b"}
{"prompt": "a", "chosen": "", "rejected": "b"}
{"prompt": "a", "chosen": "b", "rejected": "b"}"#;
        let rows = read(content).unwrap();
        assert_eq!((rows.layout, rows.unit), ("trl_standard_explicit", "line"));
        let used: Vec<_> = rows.used().map(|(line, pair)| (line, pair.chosen.clone())).collect();
        assert_eq!(used, [(2, Text::Plain("b".into()))]);
        let dropped: Vec<_> = rows.dropped().into_iter().collect();
        assert_eq!(dropped, [(Dropped::EqualSides, vec![4, 6]), (Dropped::EmptySide, vec![5])]);
    }

    #[test]
    fn a_wrong_row_is_named_with_line_and_field() {
        let good = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
        for (row, expected) in [
            (&br#"{"prompt": "a", "chosen": "b"}"#[..], "line 2: no `rejected` (its fields are `prompt`, `chosen`)"),
            (br#"{"prompt": "a", "chosen": 3, "rejected": "c"}"#, "line 2: `chosen` must be a string"),
            (br#"{"prompt": {}, "chosen": "b", "rejected": "c"}"#, "line 2: `prompt` must be a string, not an object"),
            (b"{oops", "line 2: not JSON"),
            (b"[]", "line 2: not a JSON object"),
            (b"{\"prompt\": \"\xff\"}", "line 2: not UTF-8"),
            (br#"{"prompt": "a", "chosen": NaN, "rejected": "c"}"#, "line 2: `chosen` holds NaN or an infinity"),
        ] {
            let error = read(&[good.as_bytes(), row].join(&b'\n')).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        assert!(read(b"\n").unwrap_err().contains("no rows"));
        let error = read(br#"{"prompt": "a", "chosen": NaN, "rejected": "c"}"#).unwrap_err();
        assert!(error.contains("`chosen` of row 1 holds NaN"), "{error}");
    }

    #[test]
    fn columns_are_renamed_and_may_change_places() {
        let content = br#"{"question": "q", "chosen": "worse", "rejected": "better"}"#;
        let columns = [("prompt", "question"), ("chosen", "rejected"), ("rejected", "chosen")];
        let columns = columns.map(|(name, column)| (name.to_string(), column.to_string())).into();
        let selection = Selection { columns, ..Default::default() };
        let rows = read_preferences(file(content).path(), &selection).unwrap();
        let (_, pair) = rows.used().next().unwrap();
        let plain = |text: &str| Text::Plain(text.into());
        assert_eq!((&pair.prompt, &pair.chosen), (&plain("q"), &plain("better")));
    }

    #[test]
    fn a_format_makes_turns_of_plain_strings() {
        let content = br#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
        let columns = [("question".to_string(), "prompt".to_string())].into();
        let format = Some(Layout::named("orca_dpo_pairs").unwrap());
        let selection = Selection { format, columns, ..Default::default() };
        let rows = read_preferences(file(content).path(), &selection).unwrap();
        let (_, pair) = rows.used().next().unwrap();
        assert_eq!(pair.prompt, Text::Chat(vec![Message::user("q")]));
        let content = br#"{"ask": "q", "chosen": "a", "rejected": "b"}"#;
        let error = read_preferences(file(content).path(), &selection).unwrap_err().to_string();
        assert!(error.contains("line 1: no `question`") && error.contains("`orca_dpo_pairs`"), "{error}");
    }

    #[test]
    fn a_null_drops_its_row_and_a_missing_field_is_an_error() {
        let rows = read(
            br#"{"prompt": "a", "chosen": "b", "rejected": "c"}
{"prompt": "a", "chosen": "b", "rejected": null}
{"prompt": null, "chosen": "b", "rejected": "c"}"#,
        );
        assert_eq!(rows.unwrap().dropped(), [(Dropped::NullField, vec![2, 3])].into());
    }

    /// The only pair of a file, and what was noticed in it.
    fn only(content: &str, selection: &Selection) -> Result<(Preference, Noticed), String> {
        let rows = read_preferences(file(content.as_bytes()).path(), selection).map_err(|error| error.to_string())?;
        let (_, pair) = rows.used().next().ok_or_else(|| format!("{:?}", rows.dropped()))?;
        Ok((pair.clone(), rows.noticed.clone()))
    }

    #[test]
    fn columns_that_are_not_used_are_named_and_prompts_are_never_lost() {
        let default = Selection::default();
        let row = r#"{"prompt": "q", "chosen": "a", "rejected": "b", "id": 7, "source": "web", "none": null, "tools": "[{}]"}"#;
        let unused = |names: &[&str]| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
        assert_eq!(only(row, &default).unwrap().1.unused, unused(&["id", "source", "tools"]));
        for (row, column) in [
            (r#"{"prompt": "q", "context": "c", "chosen": "a", "rejected": "b"}"#, "context"),
            (r#"{"context": "c", "chosen": "a", "rejected": "b"}"#, "context"),
            (r#"{"question": "q", "input": "x", "chosen": "a", "rejected": "b"}"#, "input"),
            (r#"{"trajectory": [{"from": "user", "value": "q"}], "chosen": "a 1", "rejected": "a 2"}"#, "trajectory"),
            (
                r#"{"query": "q", "chosen": [{"role": "assistant", "content": "a"}],
                 "rejected": [{"role": "assistant", "content": "b"}]}"#,
                "query",
            ),
        ] {
            let error = only(row, &default).unwrap_err();
            assert!(error.contains(&format!("line 1: `{column}` looks like a part of the prompt")), "{error}");
        }
        let tokenised =
            r#"{"prompt_input_ids": [1], "chosen_input_ids": [2], "rejected_input_ids": [3], "prompt": "q"}"#;
        assert_eq!(only(tokenised, &default).unwrap().1.unused, unused(&["prompt"]));
        // A copy of what is used is no loss, and neither is what is left out on purpose.
        let copy = r#"{"prompt": "Who? Why?", "question": "Why?", "chosen": "a", "rejected": "b"}"#;
        assert_eq!(only(copy, &default).unwrap().1.unused, unused(&["question"]));
        let row = r#"{"prompt": "q", "context": "c", "chosen": "a", "rejected": "b"}"#;
        let ignoring = Selection { ignore_columns: vec!["context".into()], ..Default::default() };
        assert_eq!(only(row, &ignoring).unwrap().1.unused, unused(&[]));
        // A name that `columns` gives to another column.
        let columns = [("prompt".to_string(), "query".to_string())].into();
        let row = r#"{"prompt": "p", "query": "q", "chosen": "a", "rejected": "b"}"#;
        assert_eq!(only(row, &Selection { columns, ..Default::default() }).unwrap().1.unused, unused(&["prompt"]));
        let columns = [("promt".to_string(), "query".to_string())].into();
        let error = only(row, &Selection { columns, ..Default::default() }).unwrap_err();
        assert!(error.contains("`columns` names `promt`"), "{error}");
    }

    #[test]
    fn instructions_keep_their_input_and_images_are_not_passed_over() {
        let default = Selection::default();
        let row = r#"{"instruction": "i", "input": "x", "chosen": "a", "rejected": "b", "output": "c"}"#;
        let (pair, noticed) = only(row, &default).unwrap();
        assert_eq!(pair.prompt, Text::Chat(vec![Message::user("i\nx")]));
        assert_eq!(noticed.unused, ["output".to_string()].into());
        let columns: BTreeMap<_, _> = [("prompt".to_string(), "instruction".to_string())].into();
        let error = only(row, &Selection { columns, ..Default::default() }).unwrap_err();
        assert!(error.contains("`input` looks like a part of the prompt"), "{error}");
        let row = r#"{"prompt": "q", "chosen": "a", "rejected": "b", "images": ["a.png"]}"#;
        assert!(only(row, &default).unwrap_err().contains("Media"));
        assert!(only(&row.replace(r#"["a.png"]"#, "[]"), &default).is_ok());
    }

    #[test]
    fn strings_become_turns_and_lose_what_they_repeat_where_this_is_asked_for() {
        let row = r#"{"prompt": "What is it?", "chosen": "What is it? A.", "rejected": "What is it? B."}"#;
        let turns = Selection { apply_chat_template: true, ..Default::default() };
        let (pair, noticed) = only(row, &turns).unwrap();
        assert_eq!(pair.prompt, Text::Chat(vec![Message::user("What is it?")]));
        assert_eq!(pair.chosen, Text::Chat(vec![Message::assistant("What is it? A.")]));
        assert_eq!((noticed.turns, noticed.strings, noticed.repeated_prompts), (1, 0, 1));
        let (pair, noticed) = only(row, &Selection { cut_repeated_prompt: true, ..turns.clone() }).unwrap();
        assert_eq!((pair.chosen, noticed.repeated_prompts), (Text::Chat(vec![Message::assistant("A.")]), 0));
        let (pair, _) = only(row, &Selection { cut_repeated_prompt: true, ..Default::default() }).unwrap();
        assert_eq!(pair.chosen, Text::Plain(" A.".into()));
        let format = Some(Layout::named("trl_standard_explicit").unwrap());
        let row = r#"{"system": "s", "prompt": "q", "chosen": "a", "rejected": "b", "tools": [{"name": "f"}]}"#;
        let (pair, noticed) = only(row, &Selection { format, ..turns.clone() }).unwrap();
        assert_eq!(pair.prompt, Text::Chat(vec![Message::new("system", "s"), Message::user("q")]));
        assert_eq!((pair.tools.len(), noticed.unused.len()), (1, 0));
        let error = only(r#"{"chosen": "q a", "rejected": "q b"}"#, &turns).unwrap_err();
        assert!(error.contains("`trl_standard_implicit`") && error.contains("`prompt`"), "{error}");
    }

    #[test]
    fn turns_written_as_json_in_a_cell_are_turns() {
        let cell = |role: &str, text: &str| format!(r#""[{{""role"": ""{role}"", ""content"": ""{text}""}}]""#);
        let cells = [cell("user", "q"), cell("assistant", "a"), cell("assistant", "b")].join(",");
        let (pair, _) = only(&format!("prompt,chosen,rejected\n{cells}\n"), &Selection::default()).unwrap();
        assert_eq!(
            (pair.prompt, pair.chosen),
            (Text::Chat(vec![Message::user("q")]), Text::Chat(vec![Message::assistant("a")]))
        );
        let error = read(b"prompt,chosen,rejected\nq,\"[{'role': 'assistant', 'content': 'a'}]\",b\n").unwrap_err();
        assert!(error.contains("row 1: `chosen` holds turns as Python prints"), "{error}");
    }

    #[test]
    fn documents() {
        let content = br#"{"messages": [{"role": "user", "content": "a"}]}
{"text": "b"}
{"text": ""}"#;
        let rows = read_documents(file(content).path(), &Selection::default()).unwrap();
        let used: Vec<_> = rows.used().map(|(_, document)| document.text.clone()).collect();
        assert_eq!(used, [Text::Chat(vec![Message::user("a")]), Text::Plain("b".into())]);
        assert_eq!(rows.dropped()[&Dropped::EmptySide], [3]);
        let content =
            br#"{"messages": [{"role": "user", "content": "a"}], "system": "s", "tools": [{"name": "f"}], "id": 1}"#;
        let rows = read_documents(file(content).path(), &Selection::default()).unwrap();
        let (_, document) = rows.used().next().unwrap();
        assert_eq!(document.text, Text::Chat(vec![Message::new("system", "s"), Message::user("a")]));
        assert_eq!((document.tools.len(), rows.noticed.unused), (1, ["id".to_string()].into()));
        let error = read_documents(file(b"{\"prompt\": 1}").path(), &Selection::default()).unwrap_err().to_string();
        assert!(error.contains("`messages` and `text`"), "{error}");
    }
}
