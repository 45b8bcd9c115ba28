//! What a pipeline found, as a table and as `summary.json`.

use std::fmt;
use std::path::PathBuf;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use orpo_eval::results::Results;
use serde::Serialize;

/// Preference metrics on held-out pairs.
#[derive(Debug, Clone, Serialize)]
pub struct PairScores {
    /// Share of pairs whose chosen response is more probable per token than the rejected.
    pub preference_accuracy: f64,
    /// Mean log odds of chosen against rejected.
    pub mean_log_odds: f64,
    /// Number of pairs.
    pub n: usize,
}

/// One model's numbers.
#[derive(Debug, Clone, Serialize)]
pub struct ModelScores {
    /// The model's directory.
    pub model: PathBuf,
    /// IFEval-style accuracies over HTTP.
    pub ifeval: Option<Results>,
    /// Preference metrics on held-out pairs.
    pub pairs: Option<PairScores>,
}

/// Both models, and where to look further.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// The model before.
    pub base: ModelScores,
    /// The model after.
    pub orpo: ModelScores,
    /// The run's directory.
    pub out: PathBuf,
    /// Wall time of this invocation.
    pub seconds: f64,
}

const ACCURACIES: [(&str, &str); 4] = [
    ("prompt_strict", "IFEval prompt-level strict"),
    ("inst_strict", "IFEval instruction-level strict"),
    ("prompt_loose", "IFEval prompt-level loose"),
    ("inst_loose", "IFEval instruction-level loose"),
];

impl Summary {
    /// Whether everything could be scored.
    pub fn is_complete(&self) -> bool {
        [&self.base, &self.orpo].iter().all(|model| model.ifeval.as_ref().is_none_or(|r| r.counts.unscored == 0))
    }

    fn rows(&self) -> Vec<[String; 4]> {
        let mut rows = Vec::new();
        if let (Some(before), Some(after)) = (&self.base.ifeval, &self.orpo.ifeval) {
            for (key, name) in ACCURACIES {
                let value = |results: &Results| results.metrics.get(key).map_or(f64::NAN, |metric| metric.value);
                rows.push(percent_row(name, value(before), value(after)));
            }
        }
        if let (Some(before), Some(after)) = (&self.base.pairs, &self.orpo.pairs) {
            rows.push(percent_row("preference accuracy", before.preference_accuracy, after.preference_accuracy));
            let (a, b) = (before.mean_log_odds, after.mean_log_odds);
            rows.push(["mean log odds".into(), format!("{a:.2}"), format!("{b:.2}"), format!("{:+.2}", b - a)]);
        }
        rows
    }
}

fn percent_row(name: &str, before: f64, after: f64) -> [String; 4] {
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    [name.into(), percent(before), percent(after), format!("{:+.1}", 100.0 * (after - before))]
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_FULL_CONDENSED).set_header(["held-out", "base", "ORPO", "change"]);
        table.add_rows(self.rows());
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        if let Some(results) = &self.orpo.ifeval {
            write!(f, "{} prompts", results.counts.total)?;
        }
        if let Some(pairs) = &self.orpo.pairs {
            write!(f, ", {} pairs", pairs.n)?;
        }
        let (minutes, seconds) = (self.seconds as u64 / 60, self.seconds as u64 % 60);
        writeln!(f, ", {minutes}:{seconds:02} minutes. Everything is in {}", self.out.display())?;
        write!(f, "Talk to it:  orpo serve --model {}", self.orpo.model.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(accuracy: f64, log_odds: f64) -> ModelScores {
        let pairs = PairScores { preference_accuracy: accuracy, mean_log_odds: log_odds, n: 7 };
        ModelScores { model: "out/orpo/model".into(), ifeval: None, pairs: Some(pairs) }
    }

    #[test]
    fn the_table_shows_before_after_and_change() {
        let summary = Summary { base: scores(0.5, -0.25), orpo: scores(0.975, 3.0), out: "out".into(), seconds: 75.0 };
        let text = summary.to_string();
        for part in [
            "50.0 %",
            "97.5 %",
            "+47.5",
            "-0.25",
            "+3.25",
            "7 pairs",
            "1:15 minutes",
            "orpo serve --model out/orpo/model",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(summary.is_complete());
    }
}
