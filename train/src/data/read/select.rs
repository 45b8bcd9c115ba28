//! How the rows of a file are to be understood.

use std::collections::BTreeMap;

use super::container::Found;
use super::{Row, json};
use crate::data::layout::{self, Layout};

/// How the rows of a file are to be understood.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Selection {
    /// The layout; found from the first rows where it is not given.
    pub format: Option<Layout>,
    /// For a field of the layout the name it has in the file.
    pub columns: BTreeMap<String, String>,
    /// Columns of the file that are left out on purpose.
    pub ignore_columns: Vec<String>,
    /// The key of a JSON object under which its rows are.
    pub field: Option<String>,
    /// Makes turns for the chat template of pairs that are strings.
    pub apply_chat_template: bool,
    /// Cuts the prompt off the beginning of responses that both repeat it.
    pub cut_repeated_prompt: bool,
}

/// A row with its fields under the layout's names.
pub(super) struct Named {
    pub(super) row: Row,
    /// The fields that hold a number that is not finite, by the layout's names.
    pub(super) not_finite: Vec<String>,
    /// Columns of the file for which `columns` puts another one.
    pub(super) displaced: Vec<String>,
}

impl Selection {
    /// What is wrong with it, if anything: a name in `columns` that no layout has.
    pub(super) fn check(&self) -> Result<(), String> {
        match self.columns.keys().find(|name| !layout::is_column(name)) {
            Some(name) => Err(format!(
                "`columns` names `{name}`, which no layout reads; its names are those of the layout, such as `prompt`, \
                 and its values those of the file"
            )),
            None => Ok(()),
        }
    }

    pub(super) fn named(&self, found: Found) -> Named {
        let Found { mut row, mut not_finite } = found;
        // All are taken out before any is put back, so that two columns may change places.
        let taken: Vec<_> = self.columns.iter().map(|(name, column)| (name, row.remove(column))).collect();
        let mut displaced = Vec::new();
        for (name, value) in taken {
            if let Some(value) = value
                && row.insert(name.clone(), value).is_some()
            {
                displaced.push(name.clone());
            }
        }
        for column in &mut not_finite {
            if let Some((name, _)) = self.columns.iter().find(|(_, renamed)| *renamed == column) {
                column.clone_from(name);
            }
        }
        for value in row.values_mut() {
            if let Some(turns) = value.as_str().and_then(json::turns_of_text) {
                *value = turns;
            }
        }
        Named { row, not_finite, displaced }
    }
}
