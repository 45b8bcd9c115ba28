//! A comparison as a table for people.

use super::summary::Summary;
use crate::results::{Missing, Results};
use crate::table::{METRIC_COLUMNS, count, judge_notes, metric_row, new_table, or_dash, percent};

/// The metrics with what else was found, in plain text.
pub fn render(summary: &Summary, results: &Results, [a, b]: [&str; 2]) -> String {
    let mut table = new_table(&METRIC_COLUMNS);
    for name in ["win_rate", "win_rate_adjusted", "length_controlled_win_rate"] {
        let Some(metric) = results.metrics.get(name) else { continue };
        table.add_row(metric_row(name, metric, 100.0));
    }
    let decided = summary.decided;
    let mut text = format!("compare, A = {a}, B = {b}\n{table}\n");
    text += &format!(
        "A wins {}, B wins {}, {}; sign test p = {}\n",
        decided.n_wins,
        decided.n_losses,
        count(decided.n_ties, "tie"),
        p_value(summary.sign_test_p)
    );
    for (name, metric) in &results.metrics {
        if let Some(Missing::NotIdentifiable) = metric.reason {
            text += &format!("{name} is {}\n", Missing::NotIdentifiable);
        }
    }
    if let Some(mcnemar) = summary.mcnemar {
        let p = p_value(mcnemar.p);
        text += &format!(
            "all instructions followed by A alone {}, by B alone {}; McNemar p = {p}\n",
            mcnemar.only_a, mcnemar.only_b
        );
    }
    if let Some(bias) = &summary.bias {
        text += &bias.render("the judge");
    }
    if let Some(repeats) = &summary.repeats {
        let rates = repeats.win_rates.iter().map(|&rate| percent(rate)).collect::<Vec<_>>().join(", ");
        let (deviation, agreement) = (percent(repeats.standard_deviation), percent(repeats.agreement));
        text += &format!(
            "win rates of the repetitions {rates}: standard deviation {deviation}; the same winner in {agreement} %\n"
        );
    }
    for agreement in &summary.agreement {
        let kappa = agreement.cohens_kappa.map_or("undefined".into(), |kappa| format!("{kappa:.3}"));
        let share = percent(agreement.agreement);
        text += &format!(
            "agrees with `{}` on {share} % of {}, Cohen's kappa {kappa}\n",
            agreement.with,
            count(agreement.n, "pair")
        );
    }
    text += &judge_notes(results.judge.as_ref());
    let counts = &results.counts;
    text + &format!("{}: {} decided, {} not\n", count(counts.total, "pair"), counts.scored, counts.unscored)
}

fn p_value(p: Option<f64>) -> String {
    or_dash(p, |p| if p < 1e-4 { "< 0.0001".into() } else { format!("{p:.4}") })
}
