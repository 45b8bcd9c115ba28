//! Agreement as tables for people.

use super::summary::{SHARES, Summary};
use crate::judge::Tally;
use crate::results::{Metric, Results};
use crate::table::{METRIC_COLUMNS, count, metric_row, new_table, or_dash};

/// The metrics, the winners, the biases of both sides and the models. Plain text without colour.
pub fn render(summary: &Summary, results: &Results, [judge, reference]: [&str; 2]) -> String {
    let mut text = format!("judge-agreement, {judge} beside {reference}\n");
    let mut table = new_table(&METRIC_COLUMNS);
    for name in SHARES {
        let Some(metric) = summary.metrics.get(name) else { continue };
        table.add_row(metric_row(name, metric, 100.0));
    }
    text += &format!("{table}\n");
    text += &format!("Cohen's kappa {}\n", number(&summary.metrics["cohens_kappa"]));
    if let (Some(spearman), Some(kendall)) = (summary.metrics.get("spearman"), summary.metrics.get("kendall")) {
        text += &format!(
            "rankings of {}: Spearman {}, Kendall {}\n",
            count(summary.models.len(), "model"),
            number(spearman),
            number(kendall)
        );
    }
    if let Some(bias) = &summary.bias {
        text += &bias.render("the judge");
    }
    if let Some(bias) = &summary.reference_bias {
        text += &bias.render("the reference");
    }
    let counts = &results.counts;
    text += &format!("{}: {} scored, {} unscored\n", count(counts.total, "pair"), counts.scored, counts.unscored);
    if let Some(tally) = tally(results) {
        let Tally { requests, cached, prompt_tokens, completion_tokens, dollars, .. } = tally;
        text += &format!(
            "{} to the judge, {cached} of them answered before: {prompt_tokens} tokens sent, {completion_tokens} \
             received{}\n",
            count(requests, "request"),
            dollars.map_or_else(String::new, |dollars| format!(", {dollars:.2} US dollars"))
        );
    }
    let mut table = new_table(&["reference / judge", "output_1", "output_2", "tie"]);
    for (name, row) in ["output_1", "output_2", "tie"].into_iter().zip(summary.confusion.0) {
        table.add_row([name.to_owned()].into_iter().chain(row.map(|count| count.to_string())));
    }
    text += &format!("\n{table}\n");
    if !summary.models.is_empty() {
        let mut table = new_table(&["model", "win % by the judge", "by the reference", "n"]);
        let mut models: Vec<_> = summary.models.iter().collect();
        models.sort_by(|(_, one), (_, other)| other.reference_win_rate.total_cmp(&one.reference_win_rate));
        for (name, standing) in models {
            let [judge, reference] = [standing.win_rate, standing.reference_win_rate].map(|rate| format!("{rate:.2}"));
            table.add_row([name.clone(), judge, reference, standing.n.to_string()]);
        }
        text += &format!("\n{table}\n");
    }
    text
}

/// What was asked, if anything was.
fn tally(results: &Results) -> Option<Tally> {
    serde_json::from_value(results.judge.as_ref()?.get("requests")?.clone()).ok()
}

/// A metric that is no share.
fn number(metric: &Metric) -> String {
    if let Some(reason) = metric.reason {
        return format!("- ({reason})");
    }
    let value = or_dash(metric.value, |value| format!("{value:.3}"));
    match metric.ci95 {
        Some([low, high]) => format!("{value} ({low:.3} - {high:.3})"),
        None => value,
    }
}
