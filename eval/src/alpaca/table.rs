//! Results as tables for people.

use super::run::Evaluation;
use super::summary::METRICS;
use crate::table::{METRIC_COLUMNS, count, judge_notes, metric_row, new_table, or_dash};

/// The metrics, the counts, and the win rates by part of the evaluation set. Plain text without colour.
pub fn render(evaluation: &Evaluation) -> String {
    let Evaluation { names, summary, results, .. } = evaluation;
    let mut table = new_table(&METRIC_COLUMNS);
    for name in METRICS {
        let Some(metric) = results.metrics.get(name) else { continue };
        let name = evaluation.other_measure().map_or(name.to_owned(), |measure| format!("{name} ({measure})"));
        table.add_row(metric_row(&name, metric, 1.0));
    }
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
    let mut text =
        format!("alpaca, {} against {}, by {}\n", name(&names.model), name(&names.baseline), name(&names.annotator));
    text += &format!("{table}\n");
    let (rate, counts) = (&summary.rate, &summary.counts);
    text += &format!(
        "{}: {}, {}, {}; {} unscored ({} without an answer, {} without a verdict, {} unparsed)\n",
        count(counts.total, "comparison"),
        count(rate.n_wins, "win"),
        count(rate.n_wins_base, "loss"),
        count(rate.n_draws, "draw"),
        counts.unscored(),
        counts.no_answer,
        counts.no_verdict,
        counts.unparsed
    );
    let length = or_dash(summary.avg_length, |length| length.to_string());
    text += &format!("{length} characters per answer on average, {} cut off\n", count(counts.truncated, "answer"));
    if let Some(bias) = &summary.bias {
        text += &bias.render("the judge");
    }
    text += &judge_notes(results.judge.as_ref());
    match &summary.length_controlled {
        Ok(found) => {
            let [length, difficulty, model] = found.coef;
            text += &format!(
                "length regression: C {:.4}, weights of length {length:.4}, difficulty {difficulty:.4}, \
                 model {model:.4}\n",
                found.c
            );
        }
        Err(reason) => text += &format!("no length-controlled win rate: {reason}\n"),
    }
    if summary.by_dataset.len() > 1 {
        let mut table = new_table(&["dataset", "win rate %", "stderr", "n"]);
        for (dataset, rate) in &summary.by_dataset {
            let [win_rate, error] =
                [rate.win_rate, rate.standard_error].map(|number| or_dash(number, |number| format!("{number:.2}")));
            table.add_row([dataset.clone(), win_rate, error, rate.n.to_string()]);
        }
        text += &format!("\n{table}\n");
    }
    text
}
