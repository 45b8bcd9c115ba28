//! Results as tables for people.

use super::run::Evaluation;
use super::summary::METRICS;
use crate::table::new_table;

/// The metrics, the counts, and the win rates by part of the evaluation set. Plain text without colour.
pub fn render(evaluation: &Evaluation) -> String {
    let Evaluation { names, summary, results, .. } = evaluation;
    let mut table = new_table(&["metric", "%", "stderr", "95 % interval", "n"]);
    for name in METRICS {
        let Some(metric) = results.metrics.get(name) else { continue };
        let [low, high] = metric.ci95;
        table.add_row([
            name.to_owned(),
            format!("{:.2}", metric.value),
            format!("{:.2}", metric.stderr),
            format!("{low:.2} - {high:.2}"),
            metric.n.to_string(),
        ]);
    }
    let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "?".into());
    let mut text =
        format!("alpaca, {} against {}, by {}\n", name(&names.model), name(&names.baseline), name(&names.annotator));
    text += &format!("{table}\n");
    let (rate, counts) = (&summary.rate, &summary.counts);
    text += &format!(
        "{} comparisons: {} wins, {} losses, {} draws; {} unscored ({} without an answer, {} without a verdict, \
         {} unparsed)\n",
        counts.total,
        rate.n_wins,
        rate.n_wins_base,
        rate.n_draws,
        counts.unscored(),
        counts.no_answer,
        counts.no_verdict,
        counts.unparsed
    );
    text +=
        &format!("{} characters in an answer on average, {} answers cut off\n", summary.avg_length, counts.truncated);
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
            let [win_rate, error] = [rate.win_rate, rate.standard_error].map(|number| format!("{number:.2}"));
            table.add_row([dataset.clone(), win_rate, error, rate.n.to_string()]);
        }
        text += &format!("\n{table}\n");
    }
    text
}
