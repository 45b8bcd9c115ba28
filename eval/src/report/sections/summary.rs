//! The result in a sentence, and every model's numbers in one table.

use std::collections::BTreeMap;

use crate::mt_bench::summary::ByModel;
use crate::report::collect::{Collected, Subject};
use crate::report::evaluation::Task;
use crate::report::view::{Block, Cell, Row, Section, Table, fixed};
use crate::stats::Metric;

use super::headline;

/// A column: its name, the key of its numbers, how they are shown.
pub struct Column {
    /// Its heading; one that ends in `%` is in percent.
    pub name: &'static str,
    /// The task and the metric.
    pub key: &'static str,
    /// What makes percent of the metric.
    pub factor: f64,
    /// The decimals.
    pub decimals: usize,
}

/// Metrics by model and column.
pub type Numbers<'a> = BTreeMap<(&'a str, String), Metric>;

const fn percent(name: &'static str, key: &'static str, factor: f64) -> Column {
    Column { name, key, factor, decimals: 1 }
}

/// The columns in their order.
pub const COLUMNS: [Column; 8] = [
    percent("IFEval prompt strict, %", "ifeval/prompt_strict", 100.0),
    percent("IFEval prompt loose, %", "ifeval/prompt_loose", 100.0),
    percent("IFEval instruction strict, %", "ifeval/inst_strict", 100.0),
    percent("IFEval instruction loose, %", "ifeval/inst_loose", 100.0),
    percent("AlpacaEval win rate, %", "alpaca/win_rate", 1.0),
    percent("AlpacaEval length-controlled, %", "alpaca/length_controlled_winrate", 1.0),
    Column { name: "MT-Bench, 1 to 10", key: "mt-bench/average", factor: 1.0, decimals: 2 },
    percent("Preference accuracy, %", "pairs/accuracy", 100.0),
];

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    let numbers = numbers(collected);
    let log_odds: BTreeMap<&str, f64> =
        collected.pairs.iter().map(|scores| (scores.name.as_str(), scores.log_odds)).collect();
    let columns: Vec<&Column> =
        COLUMNS.iter().filter(|column| numbers.keys().any(|(_, key)| key == column.key)).collect();
    if columns.is_empty() {
        return None;
    }
    let row = |name: &&String| {
        let cell = |column: &&Column| match numbers.get(&(name.as_str(), column.key.to_owned())) {
            Some(metric) => Cell::metric(metric, column.factor, column.decimals),
            None => Cell::default(),
        };
        let mut cells: Vec<Cell> = columns.iter().map(cell).collect();
        if !log_odds.is_empty() {
            let known = log_odds.get(name.as_str());
            cells.push(known.map_or_else(Cell::default, |value| Cell::number(fixed(*value, 2))));
        }
        Row { head: (*name).clone(), cells }
    };
    let measured = |name: &&String| {
        log_odds.contains_key(name.as_str()) || numbers.keys().any(|(model, _)| model == &name.as_str())
    };
    let rows = collected.names.iter().filter(measured).map(|name| row(&name)).collect();
    let mut header = vec!["Model"];
    header.extend(columns.iter().map(|column| column.name));
    if !log_odds.is_empty() {
        header.push("Mean log odds");
    }
    let mut blocks = headline::blocks(collected, &numbers);
    blocks.push(Block::Table(Table::new("Measured here. The smaller numbers are 95 % intervals.", &header, rows)));
    Some(Section { id: "summary", title: "Summary", blocks })
}

fn numbers(collected: &Collected) -> Numbers<'_> {
    let mut numbers = BTreeMap::new();
    for subject in &collected.evaluations {
        let Subject { evaluation, models } = subject;
        let common = &evaluation.common;
        match &evaluation.task {
            Task::Ifeval(_) | Task::Alpaca(_) => {
                for name in common.metrics.keys() {
                    if let Some(metric) = evaluation.metric(name) {
                        numbers.insert((subject.name(), format!("{}/{name}", common.task)), metric);
                    }
                }
            }
            Task::MtBench(found) => {
                let ByModel::Single(scores) = &found.by_model else { continue };
                for (raw, shown) in models {
                    let average = scores[raw].means.average;
                    numbers.insert((shown, "mt-bench/average".to_owned()), average);
                }
            }
            Task::Compare(_) => {}
        }
    }
    for scores in collected.pairs.iter().filter(|scores| scores.accuracy.n > 0) {
        numbers.insert((&scores.name, "pairs/accuracy".to_owned()), scores.accuracy);
    }
    numbers
}
