//! Every model's numbers in one table, and the paper's in another.

use std::collections::BTreeMap;

use crate::mt_bench::summary::ByModel;
use crate::report::collect::{Collected, Subject};
use crate::report::evaluation::Task;
use crate::report::published::{self, Published};
use crate::report::view::{Block, Cell, Row, Section, Table};
use crate::stats::Metric;

/// A column: its name, the key of its numbers, how they are shown.
struct Column {
    name: &'static str,
    key: &'static str,
    factor: f64,
    decimals: usize,
}

const fn percent(name: &'static str, key: &'static str, factor: f64) -> Column {
    Column { name, key, factor, decimals: 1 }
}

const COLUMNS: [Column; 8] = [
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
            Some(metric) => Cell::interval(metric.value, metric.ci95, column.factor, column.decimals),
            None => Cell::default(),
        };
        let mut cells: Vec<Cell> = columns.iter().map(cell).collect();
        if !log_odds.is_empty() {
            let known = log_odds.get(name.as_str());
            cells.push(known.map_or_else(Cell::default, |value| Cell::number(format!("{value:.2}"))));
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
    let mut blocks =
        vec![Block::Table(Table::new("Measured here. The smaller numbers are 95 % intervals.", &header, rows))];
    let notes = comparability(collected);
    if !notes.is_empty() {
        blocks.push(Block::Table(paper()));
        blocks.push(Block::Notes { items: notes });
    }
    Some(Section { id: "summary", title: "Summary", blocks })
}

/// Metrics by model and column.
fn numbers(collected: &Collected) -> BTreeMap<(&str, String), Metric> {
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
                    if average.n > 0 {
                        numbers.insert((shown, "mt-bench/average".to_owned()), average);
                    }
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

/// The paper's rows.
fn paper() -> Table {
    let cell = |value: Option<f64>| value.map_or_else(Cell::default, |value| Cell::number(format!("{value:.2}")));
    let row = |published: &Published| {
        let Published { model, ifeval, alpaca, length_controlled, mt_bench } = published;
        let mut cells: Vec<Cell> = (0..4).map(|index| cell(ifeval.map(|numbers| numbers[index]))).collect();
        cells.extend([
            cell(alpaca.map(|[first, _]| first)),
            cell(alpaca.map(|[_, second]| second)),
            cell(*length_controlled),
            cell(*mt_bench),
        ]);
        Row { head: (*model).to_owned(), cells }
    };
    let header = [
        "Model",
        "IFEval prompt strict, %",
        "IFEval prompt loose, %",
        "IFEval instruction strict, %",
        "IFEval instruction loose, %",
        "AlpacaEval 1.0, %",
        "AlpacaEval 2.0, %",
        "AlpacaEval 2.0 length-controlled, %",
        "MT-Bench, 1 to 10",
    ];
    let caption = "Published, not measured here: the ORPO paper (arXiv 2403.07691), and the AlpacaEval leaderboard for the \
                   length-controlled win rate.";
    Table { published: true, ..Table::new(caption, &header, published::ROWS.iter().map(row).collect()) }
}

/// What the measured numbers rest on, each remark with the models that it is true of.
fn comparability(collected: &Collected) -> Vec<String> {
    let mut remarks: Vec<(String, Vec<&str>)> = Vec::new();
    for subject in &collected.evaluations {
        let Some(remark) = published::comparability(&subject.evaluation) else { continue };
        let names = subject.models.iter().map(|(_, name)| name.as_str());
        match remarks.iter_mut().find(|(known, _)| *known == remark) {
            Some((_, known)) => known.extend(names),
            None => remarks.push((remark, names.collect())),
        }
    }
    remarks.into_iter().map(|(remark, names)| format!("{}: {remark}", names.join(", "))).collect()
}
