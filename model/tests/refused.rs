//! Batches that cannot be computed: one error that says why, and nothing is written.

mod support;

use orpo_model::ModelConfig;
use orpo_model::infer::{Batch, BatchError, Inference, Part, Workspace};
use orpo_model::kv::{Pages, Table};
use serde_json::Value;
use support::*;

struct Setting {
    model: Inference,
    pages: Pages,
    table: Table,
}

fn setting(json: &Value) -> Setting {
    let model = random_model(json);
    let mut pages = Pages::new(model.config(), 1 << 20);
    let mut table = Table::new(&pages);
    assert!(table.grow(32, &mut pages));
    Setting { model, pages, table }
}

impl Setting {
    /// Computes a batch that must be refused, and looks at everything that must be as before.
    fn refused(&mut self, ids: &[u32], parts: &[(std::ops::Range<usize>, usize)], wanted: &[usize]) -> BatchError {
        let parts = parts.iter().map(|(rows, start)| Part {
            rows: rows.clone(),
            start: *start,
            table: &self.table,
            adapter: None,
        });
        let batch = Batch { ids: ids.to_vec(), parts: parts.collect(), wanted: wanted.to_vec() };
        let before = format!("{:?}", self.pages);
        let mut logits = vec![7.0];
        let error = self.model.forward(&batch, &mut self.pages, &mut Workspace::default(), &mut logits).unwrap_err();
        assert!(format!("{:?}", self.pages) == before && logits == [7.0]);
        error
    }
}

#[test]
fn each_defect_has_its_own_words() {
    let mut all = setting(&configs()[1]);
    let error = all.refused(&[1, 97], &[(0..2, 0)], &[]);
    assert_eq!(error, BatchError::Token { row: 1, id: 97, vocab_size: 97 });
    assert!(error.to_string().contains("token id 97"), "{error}");
    let error = all.refused(&[1, 2], &[(0..2, 199)], &[]);
    assert_eq!(error, BatchError::Position { part: 0, position: 200, limit: 200 });
    let error = all.refused(&[1, 2], &[(0..2, usize::MAX)], &[]);
    assert!(matches!(error, BatchError::Position { .. }), "{error}");
    let error = all.refused(&[1, 2], &[(0..2, 31)], &[]);
    assert_eq!(error, BatchError::Page { part: 0, group: 0, index: 2 });
    assert!(error.to_string().contains("positions from 32 on"), "{error}");
    let error = all.refused(&[1, 2], &[(0..2, 0)], &[0, 2]);
    assert_eq!(error, BatchError::Wanted { row: 2, rows: 2 });
    assert_eq!(all.refused(&[1, 2], &[(0..1, 0)], &[]), BatchError::Uncovered { covered: 1, rows: 2 });
    for parts in [&[(1..2, 0)][..], &[(0..1, 0), (0..2, 0)], &[(0..0, 0), (0..2, 0)], &[(0..3, 0)]] {
        assert!(matches!(all.refused(&[1, 2], parts, &[]), BatchError::Rows { .. }), "{parts:?}");
    }
    // The second part of a batch is looked at before the first one is written.
    let error = all.refused(&[1, 2, 3], &[(0..2, 0), (2..3, 60)], &[0]);
    assert_eq!(error, BatchError::Page { part: 1, group: 0, index: 2 });
}

#[test]
fn pages_that_others_hold_are_not_written() {
    let mut all = setting(&configs()[0]);
    let mut other = Table::new(&all.pages);
    other.adopt(&all.table.pages_at(0), &mut all.pages);
    let error = all.refused(&[1], &[(0..1, 15)], &[]);
    assert_eq!(error, BatchError::Shared { part: 0, group: 0, index: 0, holders: 2 });
    // Behind the shared page there is room.
    let part = Part { rows: 0..1, start: 16, table: &all.table, adapter: None };
    let batch = Batch { ids: vec![1], parts: vec![part], wanted: vec![] };
    let mut logits = vec![7.0];
    all.model.forward(&batch, &mut all.pages, &mut Workspace::default(), &mut logits).unwrap();
    assert!(logits.is_empty());
}

#[test]
fn a_page_given_back_is_missed_only_where_it_is_seen() {
    let mut all = setting(&configs()[1]);
    // The window is 20: a token at 35 sees none of the first page, one at 34 does.
    assert!(all.table.grow(48, &mut all.pages));
    assert_eq!(all.table.release_unseen(35, &mut all.pages), 1);
    let error = all.refused(&[1], &[(0..1, 34)], &[]);
    assert_eq!(error, BatchError::Page { part: 0, group: 0, index: 0 });
    let part = Part { rows: 0..1, start: 35, table: &all.table, adapter: None };
    let batch = Batch { ids: vec![1], parts: vec![part], wanted: vec![0] };
    all.model.forward(&batch, &mut all.pages, &mut Workspace::default(), &mut Vec::new()).unwrap();
}

#[test]
fn pages_of_another_model_are_refused() {
    let mut all = setting(&configs()[0]);
    all.pages = Pages::new(&ModelConfig::from_json(&configs()[1]).unwrap(), 1 << 20);
    let error = all.refused(&[1], &[(0..1, 0)], &[]);
    assert_eq!(error, BatchError::Pages);
}

#[test]
fn a_batch_without_rows_has_no_logits() {
    let mut all = setting(&configs()[0]);
    let batch = Batch { ids: vec![], parts: vec![], wanted: vec![] };
    let mut logits = vec![7.0];
    all.model.forward(&batch, &mut all.pages, &mut Workspace::default(), &mut logits).unwrap();
    assert!(logits.is_empty());
}
