//! `samples.jsonl` of each task, as rows of the page.

use std::path::Path;

use serde::Deserialize;

use super::head::head;
use super::{Answer, Row};
use crate::compare::pair::Winner;
use crate::jsonl::InputError;
use crate::mt_bench::{Id, Turn};
use crate::report::collect::Subject;
use crate::report::evaluation::Task;
use crate::table::count;
use crate::{alpaca, compare, ifeval, mt_bench};

/// The samples of one file, at most.
const SAMPLES: usize = 1000;
/// The characters of one text, at most.
const CHARACTERS: usize = 20_000;

/// The verdicts, as words.
pub mod verdict {
    /// All instructions are followed.
    pub const FOLLOWED: &str = "all followed";
    /// Not all of them are.
    pub const NOT_FOLLOWED: &str = "not all followed";
    /// Preferred.
    pub const WIN: &str = "win";
    /// The other is.
    pub const LOSS: &str = "loss";
    /// Neither is.
    pub const TIE: &str = "tie";
    /// Has a score.
    pub const SCORED: &str = "scored";
    /// What others are compared with.
    pub const BASELINE: &str = "baseline";
    /// None.
    pub const UNSCORED: &str = "unscored";
}

#[derive(Debug, Deserialize)]
struct AlpacaSample {
    index: usize,
    prompt: String,
    response: Option<String>,
    reference: String,
    preference: Option<f64>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct CompareSample {
    index: usize,
    prompt: String,
    response_a: String,
    response_b: String,
    winner: Option<Winner>,
    #[serde(default)]
    preferences: Vec<[Option<f64>; 2]>,
    followed: Option<Followed>,
    error: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Followed {
    instructions: usize,
    a: usize,
    b: usize,
}

#[derive(Debug, Deserialize)]
struct MtBenchSample {
    question_id: Id,
    category: Option<String>,
    turn: Turn,
    prompt: Option<String>,
    models: Vec<String>,
    responses: Vec<Option<String>>,
    score: Option<f64>,
    winner: Option<String>,
    games: Vec<Option<String>>,
    reason: Option<String>,
}

/// The rows of a file, as many as `bytes` allow, and how many samples it has.
///
/// # Errors
/// When it cannot be read, or a line of it is not what the task writes.
pub fn read(subject: &Subject, path: &Path, bytes: usize) -> Result<(Vec<Row>, usize), InputError> {
    let name = subject.name();
    match &subject.evaluation.task {
        Task::Ifeval(_) => rows(path, bytes, |sample| of_ifeval(sample, name)),
        Task::Alpaca(_) => rows(path, bytes, |sample| of_alpaca(sample, name)),
        Task::Compare(_) => rows(path, bytes, |sample| of_compare(sample, subject)),
        Task::MtBench(_) => rows(path, bytes, |sample| of_mt_bench(sample, subject)),
    }
}

fn rows<T: serde::de::DeserializeOwned>(
    path: &Path,
    bytes: usize,
    row: impl Fn(T) -> Row,
) -> Result<(Vec<Row>, usize), InputError> {
    let (samples, total) = head::<T>(path, SAMPLES, bytes)?;
    Ok((samples.into_iter().map(row).collect(), total))
}

fn of_ifeval(sample: ifeval::sample::Sample, model: &str) -> Row {
    let score = &sample.score;
    let followed = score.strict.iter().filter(|&&followed| followed).count();
    let total = sample.instruction_id_list.len();
    let word = |followed: bool| if followed { "followed" } else { "not followed" };
    let verdicts = score.strict.iter().zip(&score.loose).zip(&score.reasons);
    let reason = |(id, ((&strict, &loose), reason)): (&String, ((&bool, &bool), &Option<String>))| {
        let loosely = if strict == loose { String::new() } else { format!(", loosely {}", word(loose)) };
        let reason = reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        format!("{id} {}{loosely}{reason}", word(strict))
    };
    let mut reasons: Vec<String> = sample.instruction_id_list.iter().zip(verdicts).map(reason).collect();
    reasons.extend(sample.error.iter().map(|error| format!("no response: {error}")));
    if sample.finish_reason.as_deref() == Some("length") {
        reasons.push("cut off at the token limit".into());
    }
    let (verdict, label) = match &sample.response {
        None => (verdict::UNSCORED, "no response".to_owned()),
        Some(_) if followed == total => (verdict::FOLLOWED, format!("{followed} of {total} followed")),
        Some(_) => (verdict::NOT_FOLLOWED, format!("{followed} of {total} followed")),
    };
    let text = sample.response.map(clip);
    let id = sample.key.as_str().map_or_else(|| sample.key.to_string(), str::to_owned);
    let answers = vec![Answer { model: model.to_owned(), text, verdict, label, reasons }];
    Row { task: ifeval::run::TASK, id, prompt: clip(sample.prompt), types: sample.instruction_id_list, answers }
}

fn of_alpaca(sample: AlpacaSample, model: &str) -> Row {
    let preference = sample.preference.map(|preference| preference - 1.0);
    let verdict = verdict_of(preference.map(Winner::of), Winner::A);
    let label = preference.map_or("unscored".into(), |preference| format!("{verdict}, preference {preference:.2}"));
    let text = |text| Some(clip(text));
    let baseline = Answer {
        model: "baseline".into(),
        text: text(sample.reference),
        verdict: verdict::BASELINE,
        label: "baseline".into(),
        reasons: Vec::new(),
    };
    let reasons = sample.error.into_iter().collect();
    let answer = Answer { model: model.to_owned(), text: sample.response.map(clip), verdict, label, reasons };
    let id = sample.index.to_string();
    Row { task: alpaca::TASK, id, prompt: clip(sample.prompt), types: Vec::new(), answers: vec![baseline, answer] }
}

fn of_compare(sample: CompareSample, subject: &Subject) -> Row {
    let names: Vec<&str> = subject.models.iter().map(|(_, name)| name.as_str()).collect();
    let side = |index: usize, text: String, side: Winner| {
        let verdict = verdict_of(sample.winner, side);
        let mut reasons = Vec::new();
        if let Some(Followed { instructions, a, b }) = sample.followed {
            reasons.push(format!("{} of {instructions} instructions followed", [a, b][index]));
        }
        if let (Some([Some(first), Some(second)]), true) = (sample.preferences.first(), sample.followed.is_none()) {
            let [first, second] = if index == 0 { [*first, *second] } else { [1.0 - first, 1.0 - second] };
            let [own, other] = if index == 0 { [first, second] } else { [second, first] };
            reasons.push(format!("preferred by {own:.2} when shown first, by {other:.2} when shown second"));
        }
        reasons.extend(sample.error.clone());
        let model = names.get(index).copied().unwrap_or_default().to_owned();
        Answer { model, text: Some(clip(text)), verdict, label: verdict.into(), reasons }
    };
    let answers = vec![side(0, sample.response_a, Winner::A), side(1, sample.response_b, Winner::B)];
    let id = format!("{} {}", names.join(" vs "), sample.index);
    Row { task: compare::TASK, id, prompt: clip(sample.prompt), types: Vec::new(), answers }
}

fn of_mt_bench(sample: MtBenchSample, subject: &Subject) -> Row {
    let shown = |raw: &String| {
        let known = subject.models.iter().find(|(other, _)| other == raw);
        known.map_or_else(|| raw.clone(), |(_, shown)| shown.clone())
    };
    let is_pair = sample.models.len() > 1;
    let answer = |(index, model): (usize, &String)| {
        let (verdict, label) = if is_pair {
            let winner = sample.winner.as_deref().map(|winner| match winner {
                "model_1" => Winner::A,
                "model_2" => Winner::B,
                _ => Winner::Tie,
            });
            let verdict = verdict_of(winner, if index == 0 { Winner::A } else { Winner::B });
            (verdict, verdict.to_owned())
        } else {
            let score = |score: f64| (verdict::SCORED, format!("score {score}"));
            sample.score.map_or((verdict::UNSCORED, "unscored".to_owned()), score)
        };
        // What the judge said of a pair is about both.
        let said = sample.games.iter().flatten().filter(|_| !is_pair || index == 0).map(|said| clip(said.clone()));
        let mut reasons: Vec<String> = said.collect();
        if index == 0 {
            reasons.extend(sample.reason.clone());
        }
        let text = sample.responses.get(index).cloned().flatten().map(clip);
        Answer { model: shown(model), text, verdict, label, reasons }
    };
    let answers: Vec<Answer> = sample.models.iter().enumerate().map(answer).collect();
    let turn = sample.turn.index() + 1;
    let who = if is_pair { format!(", {}", sample.models.join(" vs ")) } else { String::new() };
    Row {
        task: mt_bench::summary::TASK,
        id: format!("{} turn {turn}{who}", sample.question_id),
        prompt: clip(sample.prompt.unwrap_or_default()),
        types: sample.category.into_iter().collect(),
        answers,
    }
}

/// What a winner means for one side.
fn verdict_of(winner: Option<Winner>, side: Winner) -> &'static str {
    match winner {
        None => verdict::UNSCORED,
        Some(Winner::Tie) => verdict::TIE,
        Some(winner) if winner == side => verdict::WIN,
        Some(_) => verdict::LOSS,
    }
}

/// A text that is not too long for the page, and says so.
fn clip(text: String) -> String {
    match text.char_indices().nth(CHARACTERS) {
        None => text,
        Some((end, _)) => {
            format!("{} … ({} in the file)", &text[..end], count(text[end..].chars().count(), "more character"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_ifeval_sample_tells_what_was_followed_and_why_not() {
        let sample = json!({
            "key": 7, "prompt": "p", "response": "a, b", "instruction_id_list": ["x:a", "y:b", "z:c"],
            "strict": [true, false, false], "loose": [true, true, false], "reasons": [null, "r", null],
            "finish_reason": "length", "error": null
        });
        let row = of_ifeval(serde_json::from_value(sample).unwrap(), "m");
        let answer = &row.answers[0];
        assert_eq!(
            (row.id.as_str(), answer.verdict, answer.label.as_str()),
            ("7", "not all followed", "1 of 3 followed")
        );
        let reasons =
            ["x:a followed", "y:b not followed, loosely followed: r", "z:c not followed", "cut off at the token limit"];
        assert_eq!(answer.reasons, reasons);
    }

    #[test]
    fn a_preference_above_the_middle_is_a_win_of_the_model() {
        for (preference, verdict) in [(Some(1.9), "win"), (Some(1.2), "loss"), (Some(1.5), "tie"), (None, "unscored")] {
            let sample =
                json!({"index": 0, "prompt": "p", "response": "a", "reference": "b", "preference": preference});
            let row = of_alpaca(serde_json::from_value(sample).unwrap(), "m");
            assert_eq!((row.answers[0].verdict, row.answers[1].verdict), ("baseline", verdict));
        }
    }

    #[test]
    fn a_long_text_is_clipped_between_characters() {
        let clipped = clip("ü".repeat(CHARACTERS + 3));
        assert!(clipped.ends_with("ü … (3 more characters in the file)"), "{}", &clipped[clipped.len() - 60..]);
        assert_eq!(clip("ü".into()), "ü");
    }
}
