//! The layouts in which preference data is published, one file each, and how one is told from another.
//!
//! A new layout is a file with a [`Spec`] and a line in [`LAYOUTS`].

mod alpaca_ranking;
mod context;
mod explain;
mod fields;
mod hh_transcript;
mod llama_factory_v1;
mod openai_preference;
mod orca_dpo_pairs;
mod sharegpt_ranking;
mod sides;
mod stack_exchange_paired;
mod token_ids;
mod trl_conversational;
mod trl_standard;
mod ultrafeedback_binarized;

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::read::Row;
use super::{Document, Dropped, Preference, Text};

pub(super) use self::context::{Overlooked, is_context, is_filled, overlooked};

/// Why a row gives no pair.
#[derive(Debug, PartialEq)]
pub(super) enum RowError {
    /// It is not what the layout says: a field is missing or of another type.
    Wrong(String),
    /// It is well formed, but nothing can be learnt from it.
    Unusable(Dropped),
}

impl RowError {
    /// The error with the layout that was expected.
    pub(super) fn in_layout(self, layout: &str) -> Self {
        match self {
            Self::Wrong(reason) => Self::Wrong(format!("{reason}; the layout is `{layout}`")),
            unusable @ Self::Unusable(_) => unusable,
        }
    }
}

impl From<String> for RowError {
    fn from(reason: String) -> Self {
        Self::Wrong(reason)
    }
}

impl From<Dropped> for RowError {
    fn from(reason: Dropped) -> Self {
        Self::Unusable(reason)
    }
}

/// One layout.
struct Spec {
    name: &'static str,
    /// Its fields, for messages.
    fields: &'static str,
    /// The columns without which there is no pair.
    required: &'static [&'static str],
    /// True for a column that the pair of a row is made of, besides those of the context.
    reads: fn(&Row, &str) -> bool,
    /// True if a row has the fields of this layout, of the right kind.
    fits: fn(&Row) -> bool,
    parse: fn(&Row) -> Result<Preference, RowError>,
}

/// All layouts; the first that fits is taken.
static LAYOUTS: [Spec; 13] = [
    token_ids::SPEC,
    openai_preference::SPEC,
    llama_factory_v1::SPEC,
    stack_exchange_paired::SPEC,
    sharegpt_ranking::SPEC,
    alpaca_ranking::SPEC,
    orca_dpo_pairs::SPEC,
    ultrafeedback_binarized::SPEC,
    trl_conversational::EXPLICIT,
    trl_conversational::IMPLICIT,
    trl_standard::EXPLICIT,
    hh_transcript::SPEC,
    trl_standard::IMPLICIT,
];

/// A layout of preference pairs, by its name.
#[derive(Clone, Copy)]
pub struct Layout(&'static Spec);

impl Layout {
    /// The layout of this name.
    ///
    /// # Errors
    /// With the names there are.
    pub fn named(name: &str) -> Result<Self, String> {
        LAYOUTS.iter().find(|spec| spec.name == name).map(Self).ok_or_else(|| {
            let names: Vec<&str> = LAYOUTS.iter().map(|spec| spec.name).collect();
            format!("there is no layout `{name}`; the layouts are {}", names.join(", "))
        })
    }

    /// Its name in recipes and messages.
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// True if its rows say where the prompt ends, or have turns anyway.
    pub(super) fn marks_prompts(self) -> bool {
        self.name() != trl_standard::IMPLICIT.name
    }

    /// True for a column that the pair of `row` is made of.
    pub(super) fn reads(self, row: &Row, name: &str) -> bool {
        (self.0.reads)(row, name)
    }

    /// The pair of a row; a conversation with its system message and its tools. With `as_turns` strings become turns.
    pub(super) fn parse(self, row: &Row, as_turns: bool) -> Result<Preference, RowError> {
        let pair = (self.0.parse)(row)?;
        let mut pair = if as_turns { pair.with_turns() } else { pair };
        if let Text::Chat(turns) = pair.prompt {
            pair.prompt = Text::Chat(context::with_system(row, turns)?);
            pair.tools = context::tools(row)?;
        }
        Ok(pair)
    }
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl fmt::Debug for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Layout {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Layout {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        Self::named(&name).map_err(serde::de::Error::custom)
    }
}

/// True for a column that some layout reads, or documents have.
pub(super) fn is_column(name: &str) -> bool {
    const OTHERS: [&str; 9] =
        ["input", "output", "history", "query", "problem", "prompt_input_ids", "messages", "text", "tools"];
    LAYOUTS.iter().any(|spec| spec.required.contains(&name))
        || OTHERS.contains(&name)
        || context::SYSTEM.contains(&name)
}

/// The layout that fits most of a file's first rows.
///
/// # Errors
/// When none fits any of them: with the nearest layout, or what else the file may be.
pub(super) fn detect(first: &[Row]) -> Result<Layout, String> {
    let fitting = |spec: &Spec| first.iter().filter(|row| (spec.fits)(row)).count();
    // Of several that fit equally well `max_by_key` takes the last.
    let best = LAYOUTS.iter().rev().max_by_key(|spec| fitting(spec)).filter(|spec| fitting(spec) > 0);
    best.map(Layout).ok_or_else(|| explain::unknown(first))
}

/// A document for next-token training: `messages` or `text`.
pub(super) fn document(row: &Row) -> Result<Document, RowError> {
    match (fields::has(row, "messages"), fields::has(row, "text")) {
        (true, false) => {
            let turns = context::with_system(row, fields::turns(row, "messages")?)?;
            Ok(Document { text: Text::Chat(turns), tools: context::tools(row)? })
        }
        (false, true) => Ok(Document { text: Text::Plain(fields::string(row, "text")?.into()), tools: Vec::new() }),
        (false, false) if row.contains_key("messages") || row.contains_key("text") => Err(Dropped::NullField.into()),
        _ => Err(RowError::Wrong(format!(
            "a document has exactly one of `messages` and `text`, but {}",
            fields::list_of(row)
        ))),
    }
}

/// True for a column that the document of a row is made of.
pub(super) fn document_reads(row: &Row, name: &str) -> bool {
    matches!(name, "messages" | "text") || fields::has(row, "messages") && is_context(row, name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn row(value: Value) -> Row {
        match value {
            Value::Object(row) => row,
            other => panic!("{other} is no object"),
        }
    }

    #[test]
    fn names_are_unique_and_read_again() {
        for spec in &LAYOUTS {
            let text = serde_json::to_string(&Layout(spec)).unwrap();
            assert_eq!(serde_json::from_str::<Layout>(&text).unwrap(), Layout(spec));
            assert_eq!(LAYOUTS.iter().filter(|other| other.name == spec.name).count(), 1);
        }
        assert!(Layout::named("alpaka").unwrap_err().contains("alpaca_ranking"));
    }

    #[test]
    fn the_layout_is_that_of_most_rows() {
        let string = || row(json!({"prompt": "p", "chosen": "a", "rejected": "b"}));
        let list = || row(json!({"prompt": [], "chosen": [], "rejected": []}));
        assert_eq!(detect(&[list(), string(), string()]).unwrap().name(), "trl_standard_explicit");
        assert_eq!(detect(&[list(), string(), list()]).unwrap().name(), "trl_conversational_explicit");
    }

    /// Arbitrary JSON under the names that layouts look for.
    fn wild_row() -> impl Strategy<Value = Row> {
        let name = prop::sample::select(vec![
            "prompt",
            "chosen",
            "rejected",
            "question",
            "system",
            "input",
            "output",
            "instruction",
            "conversations",
            "messages",
            "preferred_output",
            "non_preferred_output",
            "chosen_messages",
            "rejected_messages",
            "role",
            "response_j",
            "response_k",
            "content",
            "from",
            "value",
            "type",
            "text",
            "label",
            "history",
            "prompt_input_ids",
            "chosen_input_ids",
            "rejected_input_ids",
            "tools",
        ]);
        let text = prop::sample::select(vec![
            "",
            " ",
            "user",
            "assistant",
            "gpt",
            "human",
            "text",
            "é\n\nHuman: a",
            "\n\nHuman: a\n\nAssistant: b",
            "Assistant:",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (0..9u32).prop_map(Value::from),
            text.prop_map(Value::from),
        ];
        let names = name.clone();
        let value = leaf.prop_recursive(4, 64, 4, move |inner| {
            let object = prop::collection::vec((names.clone(), inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect()),
            ]
        });
        prop::collection::vec((name, value), 0..6)
            .prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_string(), v)).collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_row_makes_a_layout_panic(row in wild_row()) {
            for spec in &LAYOUTS {
                let fits = (spec.fits)(&row);
                let parsed = (spec.parse)(&row);
                // A row without the fields of a layout is refused by it, never taken for something else. Three take
                // more where they are asked for by name.
                if let Ok(pair) = parsed {
                    let is_wide = ["hh_transcript", "orca_dpo_pairs", "alpaca_ranking"].contains(&spec.name);
                    prop_assert!(fits || is_wide, "{} took {row:?}", spec.name);
                    let _ = pair.unusable();
                }
            }
            for name in row.keys() {
                let _ = overlooked(&row, name, false, |name| name == "chosen");
            }
            let _ = (detect(std::slice::from_ref(&row)), document(&row), context::tools(&row));
            let _ = context::with_system(&row, Vec::new());
        }
    }
}
