//! Results as tables for people: plain text without colour.

use std::cmp::Ordering;

use comfy_table::Table;

use super::category;
use super::single::Means;
use super::summary::{AllCounts, ByModel, Summary, TASK};
use crate::results::Metric;
use crate::table;

/// The models, the best one first, what became of the judgments, and the categories of a model that is alone.
pub fn render(summary: &Summary) -> String {
    let name = match (&summary.model, &summary.judgments) {
        (Some(model), _) => format!(", {model}"),
        (None, Some(judgments)) => format!(", {}", judgments.source),
        (None, None) => String::new(),
    };
    let mut text = format!("{TASK}{name}\n{}\n", by_model(&summary.by_model));
    let AllCounts { counts, losses, duplicates } = summary.counts;
    let reasons = [
        (losses.no_verdict, "without a verdict"),
        (losses.off_scale, "off the scale"),
        (losses.judge_failed, "with a failed judge"),
        (losses.no_answer, "without an answer"),
        (losses.missing, "missing"),
    ];
    let reasons: Vec<String> =
        reasons.iter().filter(|(n, _)| *n > 0).map(|(n, reason)| format!("{n} {reason}")).collect();
    let judgments = table::count(counts.total, "judgment");
    text += &format!("{judgments}: {} scored, {} unscored", counts.scored, counts.unscored);
    if !reasons.is_empty() {
        text += &format!(" ({})", reasons.join(", "));
    }
    text.push('\n');
    if duplicates > 0 {
        text += &format!("repeated: {}\n", table::count(duplicates, "judgment"));
    }
    if let Some(bias) = &summary.bias {
        text += &bias.render("the judge");
    }
    text += &table::judge_notes(Some(&summary.judge));
    if !summary.by_category.is_empty() {
        let mut table = scored_table("category");
        for category in category::in_order(summary.by_category.keys().map(String::as_str)) {
            let means = &summary.by_category[category];
            table.add_row(scored_row(category, means));
        }
        text += &format!("\n{table}\n");
    }
    text
}

fn by_model(found: &ByModel) -> String {
    match found {
        ByModel::Single(models) => {
            let mut sorted: Vec<_> = models.iter().collect();
            sorted.sort_by(|(_, one), (_, other)| best_first(one.means.average, other.means.average));
            let mut table = scored_table("model");
            for (model, scores) in sorted {
                table.add_row(scored_row(model, &scores.means));
            }
            table.to_string()
        }
        ByModel::Pair(models) => {
            let mut sorted: Vec<_> = models.iter().collect();
            sorted.sort_by(|(_, one), (_, other)| best_first(one.win_rate_adjusted, other.win_rate_adjusted));
            let header = ["model", "win", "loss", "tie", "win %", "loss %", "adjusted %", "95 % interval", "n"];
            let mut table = table::new_table(&header);
            for (model, standing) in sorted {
                let rate = |metric: Metric| table::or_dash(metric.value, table::percent);
                table.add_row([
                    model.clone(),
                    standing.win.to_string(),
                    standing.loss.to_string(),
                    standing.tie.to_string(),
                    rate(standing.win_rate),
                    rate(standing.loss_rate),
                    rate(standing.win_rate_adjusted),
                    table::or_dash(standing.win_rate_adjusted.ci95, table::interval),
                    standing.win_rate_adjusted.n.to_string(),
                ]);
            }
            table.to_string()
        }
    }
}

/// The order of the higher value first; what has none comes last.
fn best_first(one: Metric, other: Metric) -> Ordering {
    other.value.partial_cmp(&one.value).unwrap_or(Ordering::Equal)
}

fn scored_table(first: &str) -> Table {
    table::new_table(&[first, "first turn", "second turn", "average", "95 % interval", "n"])
}

fn scored_row(name: &str, means: &Means) -> [String; 6] {
    // As many digits as published averages have.
    let value = |metric: &Metric| table::or_dash(metric.value, |value| format!("{value:.4}"));
    [
        name.to_owned(),
        value(&means.first_turn),
        value(&means.second_turn),
        value(&means.average),
        table::or_dash(means.average.ci95, |[low, high]| format!("{low:.2} - {high:.2}")),
        means.average.n.to_string(),
    ]
}
