//! Results as tables for people.

use comfy_table::{CellAlignment, Table, presets};

use crate::ifeval::metrics;
use crate::results::Results;

/// The metrics, the counts, and the verdicts by type of instruction. Plain text without colour.
pub fn render(results: &Results) -> String {
    let mut table = new_table(&["metric", "%", "stderr", "95 % interval", "n"]);
    for name in metrics::NAMES {
        let Some(metric) = results.metrics.get(name) else { continue };
        let [low, high] = metric.ci95.map(percent);
        table.add_row([
            name.into(),
            percent(metric.value),
            percent(metric.stderr),
            format!("{low} - {high}"),
            metric.n.to_string(),
        ]);
    }
    let mut text = format!("{}{}\n{table}\n", results.task, subject(results));
    let counts = &results.counts;
    text += &format!(
        "{} prompts: {} scored, {} unscored ({} failed requests), {} truncated\n",
        counts.total, counts.scored, counts.unscored, counts.errors, counts.truncated
    );
    if !results.by_instruction.is_empty() {
        let mut table = new_table(&["instruction", "strict %", "loose %", "n"]);
        for (id, counts) in &results.by_instruction {
            table.add_row([id.clone(), percent(counts.strict), percent(counts.loose), counts.n.to_string()]);
        }
        text += &format!("\n{table}\n");
    }
    text
}

fn subject(results: &Results) -> String {
    match (&results.model, &results.responses) {
        (Some(model), _) => format!(", {model}"),
        (None, Some(responses)) => format!(", {}", responses.source),
        (None, None) => String::new(),
    }
}

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn percent(fraction: f64) -> String {
    format!("{:.2}", 100.0 * fraction)
}
