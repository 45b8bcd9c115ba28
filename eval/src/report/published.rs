//! What the paper reports, and what a measured number needs to be comparable with it.
//!
//! Hong, Lee, Thorne: ORPO, arXiv 2403.07691v2, and the AlpacaEval 2.0 leaderboard for the length-controlled win rate.

use serde_json::Value;

use super::evaluation::{Evaluation, Task};
use crate::judge::way::Measure;
use crate::results::DataSource;
use crate::table::count;
use crate::{ifeval, mt_bench};

/// A model of the paper. Percentages, but for MT-Bench.
pub struct Published {
    /// Its name.
    pub model: &'static str,
    /// IFEval: prompt strict, prompt loose, instruction strict, instruction loose.
    pub ifeval: Option<[f64; 4]>,
    /// AlpacaEval 1.0 and 2.0.
    pub alpaca: Option<[f64; 2]>,
    /// AlpacaEval 2.0, length-controlled.
    pub length_controlled: Option<f64>,
    /// MT-Bench, over both turns.
    pub mt_bench: Option<f64>,
}

/// The rows in the order of the models' sizes.
pub const ROWS: [Published; 10] = [
    alpaca("Phi-2 + SFT", [48.37, 0.11]),
    alpaca("Phi-2 + SFT + DPO", [50.63, 0.78]),
    alpaca("Phi-2 + ORPO", [71.80, 6.35]),
    alpaca("Llama-2-Chat (7B)", [71.34, 4.96]),
    alpaca("Llama-2-Chat (13B)", [81.09, 7.70]),
    alpaca("Llama-2 + ORPO (7B)", [81.26, 9.44]),
    alpaca("Zephyr-α (7B)", [85.76, 8.35]),
    alpaca("Zephyr-β (7B)", [90.60, 10.99]),
    Published {
        model: "Mistral-ORPO-α (7B)",
        ifeval: Some([50.09, 50.83, 59.95, 61.63]),
        alpaca: Some([87.92, 11.33]),
        length_controlled: None,
        mt_bench: Some(7.23),
    },
    Published {
        model: "Mistral-ORPO-β (7B)",
        ifeval: Some([52.87, 55.64, 63.55, 66.19]),
        alpaca: Some([91.41, 12.20]),
        length_controlled: Some(14.7),
        mt_bench: Some(7.32),
    },
];

const fn alpaca(model: &'static str, alpaca: [f64; 2]) -> Published {
    Published { model, ifeval: None, alpaca: Some(alpaca), length_controlled: None, mt_bench: None }
}

/// The prompts, instructions and questions of the official sets.
const IFEVAL_PROMPTS: usize = 541;
const ALPACA_INSTRUCTIONS: usize = 805;
const MT_BENCH_ANSWERS: usize = 160;
/// The judge of AlpacaEval 2.0.
const ALPACA_JUDGE: &str = "weighted_alpaca_eval_gpt4_turbo";

/// Whether the paper's numbers were measured in the same way; a sentence without its subject.
pub fn comparability(evaluation: &Evaluation) -> Option<String> {
    let total = evaluation.common.counts.total;
    let data = evaluation.common.data.as_ref();
    match &evaluation.task {
        Task::Ifeval(_) => Some(ifeval_data(data, total)),
        Task::Alpaca(_) => Some(alpaca_judge(evaluation.judge("annotator"), evaluation.judge("measure"), total)),
        Task::MtBench(found) => match &found.by_model {
            mt_bench::summary::ByModel::Single(models) => {
                Some(mt_bench_judge(data, evaluation.common.judge.as_ref(), total, models.len()))
            }
            mt_bench::summary::ByModel::Pair(_) => None,
        },
        Task::Compare(_) => None,
    }
}

fn ifeval_data(data: Option<&DataSource>, total: usize) -> String {
    let source = data.map_or("unknown prompts", |data| &data.source);
    match data {
        Some(data) if data.sha256 == ifeval::data::OFFICIAL.sha256 && total == IFEVAL_PROMPTS => {
            format!("IFEval on the official {total} prompts: comparable with the published numbers.")
        }
        Some(data) if data.sha256 == ifeval::data::OFFICIAL.sha256 => {
            format!(
                "IFEval on {total} of the official {IFEVAL_PROMPTS} prompts: not comparable with the published numbers."
            )
        }
        Some(data) if data.source == "embedded" => {
            format!(
                "IFEval on the {total} embedded prompts, not the official {IFEVAL_PROMPTS}: not comparable with the published \
                 numbers (`--data official` is)."
            )
        }
        _ if total == IFEVAL_PROMPTS => {
            format!(
                "IFEval on {total} prompts of `{source}`, which is not byte for byte the pinned official file: comparable with \
                 the published numbers if they are the same prompts."
            )
        }
        _ => format!("IFEval on {} of `{source}`: not comparable with the published numbers.", count(total, "prompt")),
    }
}

fn alpaca_judge(annotator: Option<&str>, measure: Option<&str>, total: usize) -> String {
    let is_weighted = measure.is_none_or(|measure| measure == Measure::Weighted.to_string());
    if annotator == Some(ALPACA_JUDGE) && is_weighted && total == ALPACA_INSTRUCTIONS {
        return format!(
            "AlpacaEval judged by `{ALPACA_JUDGE}` on {total} instructions: comparable with the published 2.0."
        );
    }
    let judge = annotator.map_or("an unnamed judge".to_owned(), |name| format!("`{name}`"));
    let judge = if is_weighted { judge } else { format!("{judge} ({})", measure.unwrap_or_default()) };
    format!(
        "AlpacaEval judged by {judge} on {}: not comparable with the published numbers, which need `{ALPACA_JUDGE}` and \
         the official {ALPACA_INSTRUCTIONS} instructions.",
        count(total, "instruction")
    )
}

fn mt_bench_judge(data: Option<&DataSource>, judge: Option<&Value>, total: usize, models: usize) -> String {
    let model = judge.and_then(|judge| judge["model"].as_str());
    let named = model.map_or("an unnamed judge".to_owned(), |name| format!("`{name}`"));
    let is_official =
        data.is_none_or(|data| data.sha256 == mt_bench::OFFICIAL.sha256) && total == MT_BENCH_ANSWERS * models;
    let is_gpt_4 = model.is_some_and(|name| name == "gpt-4" || name.starts_with("gpt-4-"));
    if is_official && is_gpt_4 {
        return format!(
            "MT-Bench judged by {named}, {MT_BENCH_ANSWERS} answers a model: comparable with the published numbers."
        );
    }
    format!(
        "MT-Bench judged by {named}, {} of {}: not comparable with the published numbers, which need GPT-4 and the \
         official 80 questions, each answer judged once.",
        count(total, "answer"),
        count(models, "model")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn data(source: &str, sha256: &str) -> DataSource {
        DataSource { source: source.into(), sha256: sha256.into() }
    }

    #[test]
    fn only_the_official_conditions_are_comparable() {
        let official = data("hub", ifeval::data::OFFICIAL.sha256);
        assert!(ifeval_data(Some(&official), 541).contains(": comparable"));
        assert!(ifeval_data(Some(&official), 20).contains(": not comparable"));
        assert!(ifeval_data(Some(&data("embedded", "x")), 124).contains("124 embedded prompts"));
        assert!(ifeval_data(Some(&data("mine.jsonl", "x")), 541).contains("if they are the same prompts"));
        assert!(ifeval_data(None, 3).contains("unknown prompts"));
        assert!(alpaca_judge(Some(ALPACA_JUDGE), None, 805).contains(": comparable"));
        assert!(alpaca_judge(Some(ALPACA_JUDGE), Some("weighted"), 805).contains(": comparable"));
        assert!(
            alpaca_judge(Some(ALPACA_JUDGE), Some("unweighted"), 805).contains("(unweighted) on 805 instructions: not")
        );
        assert!(alpaca_judge(Some(ALPACA_JUDGE), None, 804).contains("not comparable"));
        assert!(alpaca_judge(None, None, 805).contains("an unnamed judge"));
        let judge = |name: &str| json!({"model": name});
        assert!(mt_bench_judge(None, Some(&judge("gpt-4")), 320, 2).contains(": comparable"));
        assert!(mt_bench_judge(None, Some(&judge("gpt-4o")), 160, 1).contains("not comparable"));
        assert!(mt_bench_judge(Some(&data("embedded", "x")), Some(&judge("gpt-4")), 160, 1).contains("not comparable"));
        assert!(mt_bench_judge(None, None, 160, 1).contains("an unnamed judge"));
    }
}
