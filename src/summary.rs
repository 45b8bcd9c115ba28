//! What a pipeline found, as a table and as `summary.json`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;

use crate::pipeline::file::{ORPO, Pipeline};
use crate::pipeline::record::{Record, Status};
use crate::pipeline::stages::{Kind, Model, Stage, stages};
use crate::shell::{describe, here, shown};
use crate::words::counted;

/// One model's numbers; what was not measured is null.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct ModelScores {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// Its directory.
    pub model: PathBuf,
    /// Preference metrics on held-out pairs, as the trainer names them.
    pub pairs: Option<Pairs>,
    /// `results.json` of IFEval.
    pub ifeval: Option<Value>,
    /// That of AlpacaEval.
    pub alpaca: Option<Value>,
    /// That of MT-Bench.
    pub mt_bench: Option<Value>,
}

/// Preference metrics on held-out pairs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pairs {
    /// Share of pairs whose chosen response is more probable per token than the rejected.
    pub preference_accuracy: f64,
    /// Mean log odds of chosen against rejected.
    pub mean_log_odds: f64,
    /// Number of pairs.
    pub n: usize,
}

/// Two models' answers against each other.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// Whose wins are counted.
    pub a: String,
    /// Against whom.
    pub b: String,
    /// `results.json`.
    pub results: Value,
}

/// All models, and where to look further.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// The base, then the variants.
    pub models: Vec<ModelScores>,
    /// The comparisons.
    pub comparisons: Vec<Comparison>,
    /// Whether everything could be scored.
    pub is_complete: bool,
    /// The report, if there is one.
    pub report: Option<PathBuf>,
    /// The run's directory.
    pub out: PathBuf,
    /// Wall time of this invocation.
    pub seconds: f64,
    /// Where the server and the report are reached, if somebody has arranged for that.
    pub public_url: Option<String>,
}

impl Serialize for Summary {
    /// The models by their names, beside the rest.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for model in &self.models {
            map.serialize_entry(&model.name, model)?;
        }
        map.serialize_entry("compare", &self.comparisons)?;
        map.serialize_entry("out", &self.out)?;
        map.serialize_entry("seconds", &self.seconds)?;
        map.end()
    }
}

/// A row of the table: what is measured, where it is found in a model's results, and what makes percent of it.
type Row = (&'static str, fn(&ModelScores) -> Option<&Value>, &'static str, f64);

const ROWS: [Row; 9] = [
    ("IFEval prompt-level strict", |model| model.ifeval.as_ref(), "prompt_strict", 100.0),
    ("IFEval instruction-level strict", |model| model.ifeval.as_ref(), "inst_strict", 100.0),
    ("IFEval prompt-level loose", |model| model.ifeval.as_ref(), "prompt_loose", 100.0),
    ("IFEval instruction-level loose", |model| model.ifeval.as_ref(), "inst_loose", 100.0),
    ("AlpacaEval win rate", |model| model.alpaca.as_ref(), "win_rate", 1.0),
    ("AlpacaEval length-controlled win rate", |model| model.alpaca.as_ref(), "length_controlled_winrate", 1.0),
    ("MT-Bench first turn", |model| model.mt_bench.as_ref(), "first_turn", 0.0),
    ("MT-Bench second turn", |model| model.mt_bench.as_ref(), "second_turn", 0.0),
    ("MT-Bench average", |model| model.mt_bench.as_ref(), "average", 0.0),
];

impl Summary {
    /// Reads what the stages of a pipeline have left.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(pipeline: &Pipeline, seconds: f64, public_url: Option<String>) -> Result<Self> {
        let out = &pipeline.out;
        let mut models = Vec::new();
        for name in pipeline.models() {
            let model = Model::of(pipeline, name)?.dir;
            models.push(ModelScores { name: name.into(), model, ..ModelScores::default() });
        }
        let mut summary = Self {
            models,
            comparisons: Vec::new(),
            is_complete: true,
            report: None,
            out: out.clone(),
            seconds,
            public_url,
        };
        for stage in stages(pipeline)? {
            let Some(record) = Record::read(out, &stage.name)? else { continue };
            if matches!(record.status, Status::Done | Status::Incomplete) {
                summary.is_complete &= record.status == Status::Done;
                summary.add(out, &stage)?;
            }
        }
        Ok(summary)
    }

    fn add(&mut self, out: &Path, stage: &Stage) -> Result<()> {
        let (_, subject) = stage.name.split_once(':').unwrap_or_default();
        let results = || read_json(&out.join(&stage.place).join("results.json"));
        let model = self.models.iter_mut().find(|model| model.name == subject);
        match (stage.kind, model) {
            (Kind::Score, Some(model)) => model.pairs = Some(Pairs::read(&out.join(&stage.place))?),
            (Kind::Ifeval, Some(model)) => model.ifeval = Some(results()?),
            (Kind::Alpaca, Some(model)) => model.alpaca = Some(results()?),
            (Kind::MtBench, Some(model)) => model.mt_bench = Some(results()?),
            (Kind::Compare, _) => {
                let place = stage.place.file_name().unwrap_or_default().to_string_lossy();
                let (a, b) = place.split_once("-vs-").context("a comparison lies in A-vs-B")?;
                self.comparisons.push(Comparison { a: a.into(), b: b.into(), results: results()? });
            }
            (Kind::Report, _) => self.report = Some(out.join(&stage.place)),
            _ => {}
        }
        Ok(())
    }

    /// What serves the model that a reader wants to talk to.
    fn serve_command(&self) -> String {
        let preferred = |model: &&ModelScores| model.name == ORPO;
        let tuned = self.models.iter().find(preferred).or(self.models.last());
        let model = tuned.map_or(PathBuf::new(), |tuned| tuned.model.clone());
        describe(&["serve".into(), "--model".into(), model.into()])
    }

    fn rows(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for (name, results, metric, percent) in ROWS {
            let value = |model: &ModelScores| {
                let metric = &results(model)?["metrics"][metric];
                // Over nothing there is no number.
                metric["value"].as_f64().filter(|_| metric["n"] != 0)
            };
            if percent > 0.0 {
                rows.extend(self.row(
                    name,
                    |model: &ModelScores| Some(percent * value(model)?),
                    |v| format!("{v:.1} %"),
                    1,
                ));
            } else {
                rows.extend(self.row(name, value, |v| format!("{v:.2}"), 2));
            }
        }
        let pairs = |model: &ModelScores| model.pairs.clone();
        let accuracy = |model: &ModelScores| Some(100.0 * pairs(model)?.preference_accuracy);
        rows.extend(self.row("preference accuracy", accuracy, |v| format!("{v:.1} %"), 1));
        rows.extend(self.row(
            "mean log odds",
            |model: &ModelScores| Some(pairs(model)?.mean_log_odds),
            |v| format!("{v:.2}"),
            2,
        ));
        rows
    }

    /// One number of every model; of two models also the change. Nothing where no model has it.
    fn row(
        &self,
        name: &str,
        value: impl Fn(&ModelScores) -> Option<f64>,
        show: impl Fn(f64) -> String,
        digits: usize,
    ) -> Option<Vec<String>> {
        let values: Vec<Option<f64>> = self.models.iter().map(value).collect();
        values.iter().flatten().next()?;
        let mut row = vec![name.to_owned()];
        row.extend(values.iter().map(|value| value.map_or(String::new(), &show)));
        if let [before, after] = values[..] {
            row.push(
                before.zip(after).map_or(String::new(), |(before, after)| format!("{:+.digits$}", after - before)),
            );
        }
        Some(row)
    }
}

impl Pairs {
    fn read(path: &Path) -> Result<Self> {
        let scores = read_json(path)?;
        let number = |key: &str| scores[key].as_f64().with_context(|| format!("no `{key}` in `{}`", path.display()));
        Ok(Self {
            preference_accuracy: number("rewards/accuracies")?,
            mean_log_odds: number("log_odds_chosen")?,
            n: number("n")? as usize,
        })
    }
}

fn read_json(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { a, b, results } = self;
        let count = |key: &str, noun| counted(results[key].as_u64().unwrap_or(0) as usize, noun);
        let [wins, losses, ties] = [count("n_wins", "win"), count("n_losses", "loss"), count("n_ties", "tie")];
        write!(f, "{a} against {b}: {wins}, {losses}, {ties}")?;
        let rate = &results["metrics"]["win_rate"];
        let percent = |value: &Value| value.as_f64().map(|value| format!("{:.1}", 100.0 * value));
        match (percent(&rate["value"]), percent(&rate["ci95"][0]).zip(percent(&rate["ci95"][1]))) {
            (Some(value), Some((low, high))) if rate["n"] != 0 => write!(f, "; win rate {value} % ({low} to {high})"),
            _ => write!(f, "; no win rate: nothing was scored"),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows = self.rows();
        if !rows.is_empty() {
            let mut table = Table::new();
            let mut header = vec!["held-out"];
            header.extend(self.models.iter().map(|model| model.name.as_str()));
            if self.models.len() == 2 {
                header.push("change");
            }
            table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
            table.add_rows(rows);
            for column in table.column_iter_mut().skip(1) {
                column.set_cell_alignment(CellAlignment::Right);
            }
            writeln!(f, "{table}")?;
        }
        for comparison in &self.comparisons {
            writeln!(f, "{comparison}")?;
        }
        let prompts = self.models.iter().filter_map(|model| model.ifeval.as_ref()?["counts"]["total"].as_u64()).next();
        let pairs = self.models.iter().find_map(|model| model.pairs.as_ref().map(|pairs| pairs.n));
        let counts = [prompts.map(|n| counted(n as usize, "prompt")), pairs.map(|n| counted(n, "pair"))];
        let counts: String = counts.into_iter().flatten().map(|count| count + ", ").collect();
        let (minutes, seconds) = (self.seconds as u64 / 60, self.seconds as u64 % 60);
        writeln!(f, "{counts}{minutes}:{seconds:02} minutes. Everything is in {}", shown(&self.out, &here()))?;
        if let Some(report) = &self.report {
            let place = self.public_url.as_ref().map(|url| format!("{url}/report"));
            writeln!(f, "Read it:     {}", place.unwrap_or_else(|| shown(report, &here())))?;
        }
        write!(f, "Talk to it:  {}", self.public_url.clone().unwrap_or_else(|| self.serve_command()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scores(name: &str, accuracy: f64, log_odds: f64) -> ModelScores {
        let pairs = Pairs { preference_accuracy: accuracy, mean_log_odds: log_odds, n: 7 };
        let model = PathBuf::from(format!("out/{name}/model"));
        ModelScores { name: name.into(), model, pairs: Some(pairs), ..ModelScores::default() }
    }

    fn summary(models: Vec<ModelScores>) -> Summary {
        Summary {
            models,
            comparisons: Vec::new(),
            is_complete: true,
            report: None,
            out: "out".into(),
            seconds: 75.0,
            public_url: None,
        }
    }

    #[test]
    fn the_table_shows_before_after_and_change() {
        let text = summary(vec![scores("base", 0.5, -0.25), scores("orpo", 0.975, 3.0)]).to_string();
        for part in
            ["50.0 %", "97.5 %", "+47.5", "-0.25", "+3.25", "7 pairs", "1:15 minutes", " serve --model out/orpo/model"]
        {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("IFEval") && !text.contains("prompts"), "{text}");
    }

    #[test]
    fn every_variant_has_a_column_and_every_comparison_a_line() {
        let mut sft = scores("sft", 0.75, 1.0);
        sft.ifeval = Some(json!({"metrics": {"inst_strict": {"value": 0.6}}, "counts": {"total": 12}}));
        sft.mt_bench = Some(json!({"metrics": {"average": {"value": 6.125}}}));
        sft.alpaca = Some(json!({"metrics": {"win_rate": {"value": 12.25}}}));
        let mut summary = summary(vec![scores("base", 0.5, 0.0), scores("orpo", 1.0, 2.0), sft]);
        let results = json!({"n_wins": 8, "n_losses": 3, "n_ties": 1,
                             "metrics": {"win_rate": {"value": 0.7, "ci95": [0.5, 0.9]}}});
        summary.comparisons = vec![Comparison { a: "orpo".into(), b: "sft".into(), results }];
        summary.report = Some("out/report.html".into());
        let text = summary.to_string();
        for part in [
            "60.0 %",
            "6.12",
            "12.2 %",
            "12 prompts, 7 pairs",
            "orpo against sft: 8 wins, 3 losses, 1 tie; win rate 70.0 % (50.0 to 90.0)",
            "Read it:     out/report.html",
        ] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        assert!(!text.contains("change"), "{text}");
        summary.public_url = Some("http://localhost:8000".into());
        let text = summary.to_string();
        for part in ["Read it:     http://localhost:8000/report", "Talk to it:  http://localhost:8000"] {
            assert!(text.contains(part), "no `{part}` in\n{text}");
        }
        // Where nothing was scored there is no number.
        let nothing = json!({"value": null, "stderr": null, "ci95": null, "n": 0, "reason": "nothing was scored"});
        summary.models[2].ifeval = Some(json!({"metrics": {"inst_strict": nothing}, "counts": {"total": 12}}));
        summary.comparisons[0].results["metrics"]["win_rate"] = nothing;
        let text = summary.to_string();
        assert!(!text.contains("IFEval") && !text.contains("NaN"), "{text}");
        assert!(text.contains("1 tie; no win rate: nothing was scored"), "{text}");
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["sft"]["pairs"]["mean_log_odds"], 1.0);
        assert_eq!(json["compare"][0]["results"]["n_wins"], 8);
    }
}
