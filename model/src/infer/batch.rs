//! The rows of one forward pass, and what can be wrong with them.

use std::ops::Range;

use super::AdapterId;
use crate::config::ModelConfig;
use crate::kv::{PAGE, Pages, Table};

/// Rows of many sequences: next tokens of some, pieces of the prompts of others.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// The token of each row.
    pub ids: Vec<u32>,
    /// Which rows belong to which sequence, in the order of the rows.
    pub parts: Vec<Part<'a>>,
    /// The rows whose logits are asked for, in the order in which they are returned.
    pub wanted: Vec<usize>,
}

/// Consecutive tokens of one sequence. A sequence has at most one part in a batch.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// Its rows.
    pub rows: Range<usize>,
    /// The position of its first row; everything before is in the pages already.
    pub start: usize,
    /// The pages of the sequence, those for these rows included.
    pub table: &'a Table,
    /// The adapter that the sequence asks for.
    pub adapter: Option<AdapterId>,
}

/// Why a batch cannot be computed; nothing was written then.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The parts leave, repeat or reorder rows.
    #[error(
        "part {part} of the batch has the rows {found:?}; they must be one or more, begin at row {expected} and end within {rows} rows"
    )]
    Rows {
        /// The part.
        part: usize,
        /// Its rows.
        found: Range<usize>,
        /// The end of the part before it.
        expected: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// The last rows belong to no part.
    #[error("the parts of the batch end at row {covered}, but it has {rows} rows")]
    Uncovered {
        /// The end of the last part.
        covered: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// A token is not in the vocabulary.
    #[error("row {row} has the token id {id}, but the vocabulary has {vocab_size} tokens")]
    Token {
        /// The row.
        row: usize,
        /// Its token.
        id: u32,
        /// Size of the vocabulary.
        vocab_size: usize,
    },
    /// A position is beyond what the model can use.
    #[error("part {part} of the batch ends at position {position}, but the model has {limit} positions")]
    Position {
        /// The part.
        part: usize,
        /// Its last position.
        position: usize,
        /// `max_position_embeddings`.
        limit: usize,
    },
    /// A page that is read or written is not in the table.
    #[error("part {part} of the batch needs the page for the positions from {} on (group {group}), which its table has not; \
             grow the table before the pass", index * PAGE)]
    Page {
        /// The part.
        part: usize,
        /// Group of layers.
        group: usize,
        /// Index of the page.
        index: usize,
    },
    /// A page that would be written has other holders.
    #[error("part {part} of the batch would write to page {index} of its table (group {group}), which {holders} hold")]
    Shared {
        /// The part.
        part: usize,
        /// Group of layers.
        group: usize,
        /// Index of the page.
        index: usize,
        /// How many hold it.
        holders: u32,
    },
    /// Logits are asked for a row that is not there.
    #[error("the logits of row {row} are asked for, but the batch has {rows} rows")]
    Wanted {
        /// The row.
        row: usize,
        /// Rows of the batch.
        rows: usize,
    },
    /// An adapter was unloaded or never there.
    #[error("part {part} of the batch asks for adapter {}, which is not loaded", adapter.0)]
    Adapter {
        /// The part.
        part: usize,
        /// The adapter.
        adapter: AdapterId,
    },
    /// The pages were made for another model.
    #[error("the pages do not fit the model's layers, heads and windows; make them from its configuration")]
    Pages,
}

impl Batch<'_> {
    /// Checks everything that the pass relies on.
    pub(super) fn check(
        &self,
        config: &ModelConfig,
        pages: &Pages,
        has_adapter: impl Fn(AdapterId) -> bool,
    ) -> Result<(), BatchError> {
        if !pages.fit(config) {
            return Err(BatchError::Pages);
        }
        let rows = self.ids.len();
        let vocab_size = config.vocab_size;
        if let Some((row, id)) = self.ids.iter().enumerate().find(|(_, id)| **id as usize >= vocab_size) {
            return Err(BatchError::Token { row, id: *id, vocab_size });
        }
        if let Some(row) = self.wanted.iter().find(|row| **row >= rows) {
            return Err(BatchError::Wanted { row: *row, rows });
        }
        let mut covered = 0;
        for (i, part) in self.parts.iter().enumerate() {
            if part.rows.start != covered || part.rows.is_empty() || part.rows.end > rows {
                return Err(BatchError::Rows { part: i, found: part.rows.clone(), expected: covered, rows });
            }
            covered = part.rows.end;
            part.check(i, config, pages)?;
            if let Some(adapter) = part.adapter.filter(|adapter| !has_adapter(*adapter)) {
                return Err(BatchError::Adapter { part: i, adapter });
            }
        }
        match covered == rows {
            true => Ok(()),
            false => Err(BatchError::Uncovered { covered, rows }),
        }
    }
}

impl Part<'_> {
    fn check(&self, part: usize, config: &ModelConfig, pages: &Pages) -> Result<(), BatchError> {
        let limit = config.max_position_embeddings;
        let end = self.start.saturating_add(self.rows.len());
        if end > limit {
            return Err(BatchError::Position { part, position: end - 1, limit });
        }
        for (group, layers) in pages.groups().iter().enumerate() {
            for index in layers.first_seen(self.start) / PAGE..end.div_ceil(PAGE) {
                let page = self.table.page(group, index).ok_or(BatchError::Page { part, group, index })?;
                let holders = pages.holders(group, page);
                if (index + 1) * PAGE > self.start && holders != 1 {
                    return Err(BatchError::Shared { part, group, index, holders });
                }
            }
        }
        Ok(())
    }
}
