//! Results as tables for people.

use comfy_table::{CellAlignment, Table, presets};

use crate::ifeval::metrics;
use crate::results::Results;

/// The metrics, the counts, and the verdicts by category and by type of instruction. Plain text without colour.
pub fn render(results: &Results) -> String {
    let mut table = new_table(&["metric", "%", "stderr", "95 % interval", "n"]);
    for name in metrics::NAMES {
        let Some(metric) = results.metrics.get(name) else { continue };
        table.add_row([
            name.into(),
            percent(metric.value),
            percent(metric.stderr),
            interval(metric.ci95),
            metric.n.to_string(),
        ]);
    }
    let mut text = format!("{}{}\n{table}\n", results.task, subject(results));
    let counts = &results.counts;
    text += &format!(
        "{} prompts: {} scored, {} unscored ({} failed requests), {} truncated\n",
        counts.total, counts.scored, counts.unscored, counts.errors, counts.truncated
    );
    if !results.strip_reasoning.is_empty() {
        let (stripped, unterminated) = (counts.stripped_reasoning, counts.unterminated_reasoning);
        text += &format!("reasoning taken out of {stripped} responses, {unterminated} of which end inside it\n");
    }
    for (name, groups) in [("category", &results.by_category), ("instruction", &results.by_instruction)] {
        if groups.is_empty() {
            continue;
        }
        let header = [name, "strict %", "stderr", "95 % interval", "loose %", "stderr", "95 % interval", "n"];
        let mut table = new_table(&header);
        for (id, counts) in groups {
            table.add_row([
                id.clone(),
                percent(counts.strict),
                percent(counts.strict_stderr),
                interval(counts.strict_ci95),
                percent(counts.loose),
                percent(counts.loose_stderr),
                interval(counts.loose_ci95),
                counts.n.to_string(),
            ]);
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

/// An empty table whose columns but the first are numbers.
pub(crate) fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN).set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A fraction as a percentage.
pub(crate) fn percent(fraction: f64) -> String {
    format!("{:.2}", 100.0 * fraction)
}

/// The ends of an interval of fractions.
pub(crate) fn interval(ends: [f64; 2]) -> String {
    let [low, high] = ends.map(percent);
    format!("{low} - {high}")
}
