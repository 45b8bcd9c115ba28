//! Results as tables for people.

use comfy_table::{CellAlignment, Table, presets};
use serde::Deserialize;
use serde_json::Value;

use crate::ifeval::metrics;
use crate::judge::way::{Measure, describe_lessons};
use crate::judge::{Outcomes, Tally};
use crate::learning::Lesson;
use crate::results::{Metric, Results};

/// The metrics, the counts, and the verdicts by category and by type of instruction. Plain text without colour.
pub fn render(results: &Results) -> String {
    let mut table = new_table(&METRIC_COLUMNS);
    for name in metrics::NAMES {
        let Some(metric) = results.metrics.get(name) else { continue };
        table.add_row(metric_row(name, metric, 100.0));
    }
    let mut text = format!("{}{}\n{table}\n", results.task, subject(results));
    let counts = &results.counts;
    text += &format!(
        "{}: {} scored, {} unscored ({}), {} truncated\n",
        count(counts.total, "prompt"),
        counts.scored,
        counts.unscored,
        count(counts.errors, "failed request"),
        counts.truncated
    );
    if !results.strip_reasoning.is_empty() {
        let (stripped, unterminated) = (counts.stripped_reasoning, counts.unterminated_reasoning);
        let stripped = count(stripped, "response");
        text += &format!("reasoning taken out of {stripped}; {unterminated} never left it\n");
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

/// The columns of [`metric_row`].
pub(crate) const METRIC_COLUMNS: [&str; 5] = ["metric", "%", "stderr", "95 % interval", "n"];

/// A metric in percent, which is the metric times `factor`; a dash for what it does not have.
pub(crate) fn metric_row(name: &str, metric: &Metric, factor: f64) -> [String; 5] {
    let number = |value: f64| format!("{:.2}", factor * value);
    let range = |[low, high]: [f64; 2]| format!("{} - {}", number(low), number(high));
    let (value, stderr) = (or_dash(metric.value, number), or_dash(metric.stderr, number));
    [name.to_owned(), value, stderr, or_dash(metric.ci95, range), metric.n.to_string()]
}

/// What a table shows of a value that may be missing.
pub(crate) fn or_dash<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "-".to_owned(), show)
}

/// What the results say about asking the judge: the measure, what became of the requests, tokens, and what was learnt.
pub(crate) fn judge_notes(judge: Option<&Value>) -> String {
    let Some(judge) = judge else { return String::new() };
    let mut text = String::new();
    let is_official = judge["measure"].as_str().is_none_or(|measure| measure == Measure::Weighted.to_string());
    if let Some(measure) = judge["measure"].as_str() {
        let way = match (judge["verdict"]["way"].as_str(), judge["verdict"]["field"].as_str()) {
            (_, Some(field)) => format!("replies constrained by `{field}`"),
            (Some("logprobs"), _) => "log-probabilities".into(),
            _ => "the judge's text".into(),
        };
        let warning = if is_official { "" } else { "; not comparable with weighted numbers" };
        text += &format!("measure: {measure}, from {way}{warning}\n");
    }
    if let Ok(outcomes) = Outcomes::deserialize(&judge["outcomes"]) {
        text += &format!("judge: {outcomes}\n");
    }
    if let Ok(Tally { prompt_tokens, completion_tokens, reasoning_tokens, asked_again, dollars, .. }) =
        Tally::deserialize(&judge["requests"])
        && prompt_tokens + completion_tokens > 0
    {
        text += &format!("tokens of the judge in this run: {prompt_tokens} sent, {completion_tokens} received");
        if reasoning_tokens > 0 {
            text += &format!(", {reasoning_tokens} of them reasoning");
        }
        if asked_again > 0 {
            text += &format!("; {} sent once more with twice the limit", count(asked_again, "request"));
        }
        text += &dollars.map_or(String::new(), |dollars| format!("; {dollars:.2} US dollars"));
        text.push('\n');
    }
    if let Ok(lessons) = Vec::<Lesson>::deserialize(&judge["learnt"]) {
        text += &describe_lessons(&lessons);
    }
    text
}

/// A number of things, such as `1 loss` and `2 losses`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    let ending = match thing {
        _ if number == 1 => "",
        _ if thing.ends_with('s') => "es",
        _ => "s",
    };
    format!("{number} {thing}{ending}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_not_plural() {
        assert_eq!([0, 1, 2].map(|number| count(number, "row")), ["0 rows", "1 row", "2 rows"]);
        assert_eq!([1, 2].map(|number| count(number, "loss")), ["1 loss", "2 losses"]);
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        assert_eq!(metric_row("m", &Metric::proportion(0, 0), 100.0), ["m", "-", "-", "-", "0"]);
        let row = metric_row("m", &Metric::new(0.9125, 0.25, [0.5, 1.0], 8), 100.0);
        assert_eq!(row, ["m", "91.25", "25.00", "50.00 - 100.00", "8"]);
    }
}
