//! Scores of MT-Bench by category and turn, and pairs.

use std::collections::BTreeSet;

use crate::mt_bench::category::CATEGORIES;
use crate::mt_bench::pairwise::Standing;
use crate::mt_bench::single::{Means, Scores};
use crate::mt_bench::summary::ByModel;
use crate::report::charts::radar::{self, Shape};
use crate::report::collect::{Collected, Subject};
use crate::report::evaluation::Task;
use crate::report::view::{Block, Cell, Figure, Figures, Legend, Row, Section, Table, id};
use crate::stats::Metric;

use super::{at_most, style};

/// Reads the mean of a turn, or of both.
type Mean = fn(&Means) -> Metric;

/// The columns of turns.
const TURNS: [(&str, Mean); 3] = [
    ("First turn", |means| means.first_turn),
    ("Second turn", |means| means.second_turn),
    ("Average", |means| means.average),
];

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    let mut scores: Vec<(&str, &Scores)> = Vec::new();
    let mut standings: Vec<(&str, &Standing)> = Vec::new();
    for subject in &collected.evaluations {
        let Task::MtBench(found) = &subject.evaluation.task else { continue };
        for (raw, shown) in &subject.models {
            match &found.by_model {
                ByModel::Single(models) => scores.push((shown, &models[raw])),
                ByModel::Pair(models) => standings.push((shown, &models[raw])),
            }
        }
    }
    let mut blocks = Vec::new();
    if !scores.is_empty() {
        blocks.extend(radars(collected, &scores).map(Block::Figures));
        blocks.push(Block::Table(totals(&scores)));
        let categories = categories(&scores);
        if !categories.is_empty() {
            let table = Block::Table(by_category(&scores, &categories));
            blocks.push(Block::Details { summary: "Table: by category and turn".into(), blocks: vec![table] });
        }
    }
    if !standings.is_empty() {
        blocks.push(Block::Table(pairs(&standings)));
    }
    let is_own = |subject: &&Subject| matches!(subject.evaluation.task, Task::MtBench(_));
    let items: Vec<String> =
        collected.evaluations.iter().filter(is_own).filter_map(|subject| subject.evaluation.bias()).collect();
    if !items.is_empty() {
        blocks.push(Block::Notes { items });
    }
    (!blocks.is_empty()).then_some(Section { id: "mt-bench", title: "MT-Bench", blocks })
}

/// All categories, those of the benchmark first and in its order.
fn categories(models: &[(&str, &Scores)]) -> Vec<String> {
    let found: BTreeSet<&String> = models.iter().flat_map(|(_, scores)| scores.by_category.keys()).collect();
    let mut found: Vec<String> = found.into_iter().cloned().collect();
    found.sort_by_key(|name| CATEGORIES.iter().position(|known| known == name).unwrap_or(CATEGORIES.len()));
    found
}

fn radars(collected: &Collected, models: &[(&str, &Scores)]) -> Option<Figures> {
    let (drawn, remark) = at_most(models, "models");
    let axes = categories(drawn);
    if axes.len() < 3 {
        return None;
    }
    let chart = |(title, turn): &(&str, Mean)| {
        let value = |scores: &Scores, axis: &String| {
            scores.by_category.get(axis).map(turn).filter(|metric| metric.n > 0)?.value
        };
        let shape = |(name, scores): &(&str, &Scores)| {
            let values: Vec<Option<f64>> = axes.iter().map(|axis| value(scores, axis)).collect();
            values.iter().any(Option::is_some).then(|| Shape { style: style(collected, name), values })
        };
        let shapes: Vec<Shape> = drawn.iter().filter_map(shape).collect();
        if shapes.is_empty() {
            return None;
        }
        let names = drawn.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let description = format!("Mean scores by category from 0 to 10 for {names}; the numbers are in the table.");
        let caption =
            Figures::caption(id(&["mt-bench", title]), &format!("MT-Bench by category, {title}"), description);
        Some(Figure {
            title: (*title).to_owned(),
            svg: radar::svg(&radar::Chart { caption, axes: axes.clone(), most: 10.0, shapes }),
        })
    };
    Some(Figures {
        title: "Scores by category".into(),
        note: format!("Mean scores, from 0 in the middle to 10.{remark}"),
        legend: drawn.iter().map(|(name, _)| Legend::line(style(collected, name), name)).collect(),
        charts: TURNS.iter().take(2).filter_map(chart).collect(),
        in_columns: false,
    })
}

fn score(metric: Metric) -> Cell {
    if metric.n == 0 { Cell::default() } else { Cell::metric(&metric, 1.0, 2) }
}

fn totals(models: &[(&str, &Scores)]) -> Table {
    let row = |(name, scores): &(&str, &Scores)| {
        let mut cells: Vec<Cell> = TURNS.iter().map(|(_, turn)| score(turn(&scores.means))).collect();
        cells.extend([scores.scored, scores.unscored].map(|number| Cell::number(number.to_string())));
        Row { head: (*name).to_owned(), cells }
    };
    let header = ["Model", "first turn", "second turn", "average", "scored", "unscored"];
    Table::new(
        "Mean scores from 1 to 10; the smaller numbers are 95 % intervals.",
        &header,
        models.iter().map(row).collect(),
    )
}

fn by_category(models: &[(&str, &Scores)], categories: &[String]) -> Table {
    let mut header = vec!["Category".to_owned()];
    header.extend(
        models.iter().flat_map(|(name, _)| TURNS.iter().map(move |(turn, _)| format!("{name}, {turn}").to_lowercase())),
    );
    let row = |category: &String| {
        let cells = models.iter().flat_map(|(_, scores)| {
            let means = scores.by_category.get(category);
            TURNS.iter().map(move |(_, turn)| means.map_or_else(Cell::default, |means| score(turn(means))))
        });
        Row { head: category.clone(), cells: cells.collect() }
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let caption = "Mean scores by category; the smaller numbers are 95 % intervals.";
    Table::new(caption, &header, categories.iter().map(row).collect())
}

fn pairs(models: &[(&str, &Standing)]) -> Table {
    let row = |(name, standing): &(&str, &Standing)| {
        let counts = [standing.win, standing.loss, standing.tie].map(|number| Cell::number(number.to_string()));
        let rate = |metric: Metric| Cell::metric(&metric, 100.0, 1);
        let rates = [standing.win_rate, standing.loss_rate, standing.win_rate_adjusted].map(rate);
        Row { head: (*name).to_owned(), cells: counts.into_iter().chain(rates).collect() }
    };
    let header = ["Model", "wins", "losses", "ties", "win rate, %", "loss rate, %", "adjusted, %"];
    Table::new(
        "Pairs, each judged in both orders; the smaller numbers are 95 % intervals.",
        &header,
        models.iter().map(row).collect(),
    )
}
