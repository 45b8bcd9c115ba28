//! Everything that was found, read, and named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::evaluation::{Evaluation, Task};
use super::find::{self, Found};
use super::size;
use super::training::Run;
use crate::jsonl::{self, InputError};
use crate::mt_bench::summary::ByModel;
use crate::stats::Metric;

/// What a report is made of.
#[derive(Debug, Default)]
pub struct Collected {
    /// Evaluations, each with its models.
    pub evaluations: Vec<Subject>,
    /// Training runs with their names.
    pub runs: Vec<(String, Run)>,
    /// How models came to be.
    pub models: Vec<Manifest>,
    /// How pipelines came to be.
    pub pipelines: Vec<Manifest>,
    /// Models on held-out pairs.
    pub pairs: Vec<PairScores>,
    /// Stages of pipelines, in the order of their beginnings.
    pub stages: Vec<Stage>,
    /// The names of all models, in the order in which they are shown.
    pub names: Vec<String>,
    /// What was not used, and why.
    pub left_out: Vec<String>,
    /// Files that should have been used and cannot be.
    pub broken: Vec<InputError>,
}

impl Collected {
    /// What was read, or nothing where a file is broken.
    fn usable<T>(&mut self, read: Result<T, InputError>) -> Option<T> {
        read.map_err(|error| self.broken.push(error)).ok()
    }
}

/// An evaluation and who was evaluated.
#[derive(Debug)]
pub struct Subject {
    /// The evaluation.
    pub evaluation: Evaluation,
    /// The models as the file calls them, and as the report does.
    pub models: Vec<(String, String)>,
}

impl Subject {
    /// What the report calls the first, and often only, model.
    pub fn name(&self) -> &str {
        self.models.first().map_or("", |(_, name)| name)
    }
}

/// An `orpo_manifest.json`.
#[derive(Debug)]
pub struct Manifest {
    /// The file.
    pub path: PathBuf,
    /// What it is about: a run, a model's directory, a pipeline.
    pub name: String,
    /// The number of parameters in the model's files, if they are at hand.
    pub parameters: Option<u64>,
    /// Its content.
    pub json: Value,
}

/// A model on held-out pairs, of a pipeline's summary.
#[derive(Debug)]
pub struct PairScores {
    /// The model.
    pub name: String,
    /// The share of pairs whose chosen answer is more probable.
    pub accuracy: Metric,
    /// The mean log odds of the chosen answer against the rejected.
    pub log_odds: f64,
}

/// A stage of a pipeline.
#[derive(Debug)]
pub struct Stage {
    /// The file.
    pub path: PathBuf,
    /// The command that repeats it.
    pub command: String,
    /// When it began.
    pub started_at: String,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// Searches directories and reads what is there. A file that cannot be read, or is not what its name says, does not stop
/// the others.
///
/// # Errors
/// When a directory cannot be read.
pub fn collect(roots: &[PathBuf]) -> Result<Collected, InputError> {
    let found = find::find(roots)?;
    let mut collected = Collected::default();
    collected.left_out.extend(found.too_deep.iter().map(|path| format!("{}: too deep to be searched", path.display())));
    let mut evaluations = Vec::new();
    for path in &found.results {
        match collected.usable(Evaluation::read(path)) {
            None => {}
            Some(Some(evaluation)) => evaluations.push(evaluation),
            Some(None) => collected.left_out.push(format!("{}: of a task that is not known here", path.display())),
        }
    }
    collected.evaluations = name_all(evaluations);
    collected.runs = runs(&found, &mut collected);
    for path in &found.manifests {
        let Some(json) = collected.usable(read_json(path)) else { continue };
        let is_model = json.get("recipe").is_some();
        let name = if is_model { name_of_model(path) } else { last_part(path.parent().unwrap_or(path)) };
        let list = if is_model { &mut collected.models } else { &mut collected.pipelines };
        let files = json["files"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
        let parameters = size::parameters(path.parent().unwrap_or(path), files);
        list.push(Manifest { path: path.clone(), name, parameters, json });
    }
    for path in &found.summaries {
        if let Some(json) = collected.usable(read_json(path)) {
            pair_scores("", &json, &mut collected.pairs);
        }
    }
    for path in &found.stages {
        let json = collected.usable(read_json(path));
        collected.stages.extend(json.and_then(|json| stage(path, &json)));
    }
    collected.stages.sort_by(|a, b| (&a.started_at, &a.path).cmp(&(&b.started_at, &b.path)));
    collected.names = names(&collected);
    let Collected { evaluations, names, .. } = &mut collected;
    evaluations.sort_by_key(|subject| names.iter().position(|name| name == subject.name()));
    Ok(collected)
}

/// The runs under names of their own; those that have not logged anything yet are left out.
fn runs(found: &Found, collected: &mut Collected) -> Vec<(String, Run)> {
    let mut runs = Vec::new();
    for path in &found.metrics {
        let Some(run) = collected.usable(Run::read(path)) else { continue };
        if run.is_empty() {
            collected.left_out.push(format!("{}: nothing is logged yet", path.display()));
        } else {
            runs.push(run);
        }
    }
    let named: Vec<_> =
        runs.iter().map(|run| (String::new(), last_part(&run.directory), run.directory.clone())).collect();
    labels(&named).into_iter().zip(runs).collect()
}

/// The evaluations with the names of their models. A file that names none is about the directory that it lies in.
fn name_all(evaluations: Vec<Evaluation>) -> Vec<Subject> {
    let mut named = Vec::new();
    for evaluation in &evaluations {
        let place = evaluation.place();
        let own = || evaluation.common.model.clone().unwrap_or_else(|| last_part(place));
        let (kind, names) = match &evaluation.task {
            Task::Ifeval(_) | Task::Alpaca(_) => (evaluation.common.task.as_str(), vec![own()]),
            Task::MtBench(found) => match &found.by_model {
                ByModel::Single(models) => ("mt-bench", models.keys().cloned().collect()),
                ByModel::Pair(models) => ("mt-bench pairs", models.keys().cloned().collect()),
            },
            Task::Compare(found) => ("", vec![found.models.a.clone(), found.models.b.clone()]),
        };
        named.push((kind.to_owned(), names, place.to_owned()));
    }
    let flat: Vec<_> = named
        .iter()
        .filter(|(kind, ..)| !kind.is_empty())
        .flat_map(|(kind, names, place)| names.iter().map(move |name| (kind.clone(), name.clone(), place.clone())))
        .collect();
    let mut labelled = labels(&flat).into_iter();
    let mut label = |kind: &str, name: &str| match kind {
        "" => answers_of(name),
        _ => labelled.next().expect("there is a label for every name"),
    };
    let subject = |(evaluation, (kind, names, _)): (Evaluation, (String, Vec<String>, PathBuf))| {
        let models = names
            .into_iter()
            .map(|name| {
                let shown = label(&kind, &name);
                (name, shown)
            })
            .collect();
        Subject { evaluation, models }
    };
    evaluations.into_iter().zip(named).map(subject).collect()
}

/// What the sides of a comparison are called: files of answers by the directory that they lie in.
fn answers_of(name: &str) -> String {
    let path = Path::new(name);
    let is_file = path.extension().is_some_and(|extension| extension == "jsonl" || extension == "json");
    match path.parent().filter(|parent| is_file && parent.file_name().is_some()) {
        Some(parent) => last_part(Evaluation::without_task(parent)),
        None => name.to_owned(),
    }
}

/// Names that can be told apart: what of one kind has the same name gets its place behind it, as briefly as possible.
fn labels(named: &[(String, String, PathBuf)]) -> Vec<String> {
    let mut places: BTreeMap<(&str, &str), Vec<&PathBuf>> = BTreeMap::new();
    for (kind, name, place) in named {
        places.entry((kind, name)).or_default().push(place);
    }
    // A name that is ambiguous in one kind has its place in all, so that the kinds still meet.
    let ambiguous: BTreeSet<&str> =
        places.iter().filter(|(_, places)| places.len() > 1).map(|((_, name), _)| *name).collect();
    let are_short = |name: &str| {
        let full: BTreeSet<&PathBuf> = named.iter().filter(|(_, other, _)| other == name).map(|(.., p)| p).collect();
        full.iter().map(|place| last_part(place)).collect::<BTreeSet<_>>().len() == full.len()
    };
    let label = |(_, name, place): &(String, String, PathBuf)| match name.as_str() {
        name if !ambiguous.contains(name) => name.to_owned(),
        name if are_short(name) && last_part(place) == name => name.to_owned(),
        name if are_short(name) => format!("{name} ({})", last_part(place)),
        name => format!("{name} ({})", place.display()),
    };
    named.iter().map(label).collect()
}

/// The last part of a path that has a name; of `.`, that of the directory it stands for.
fn last_part(path: &Path) -> String {
    let real = if path.file_name().is_some() { None } else { path.canonicalize().ok() };
    let path = real.as_deref().unwrap_or(path);
    path.file_name().map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
}

/// A run keeps its model in `model`; other models are called after their directory.
fn name_of_model(manifest: &Path) -> String {
    let directory = manifest.parent().unwrap_or(manifest);
    let run = directory.parent().filter(|_| directory.file_name().is_some_and(|name| name == "model"));
    last_part(run.unwrap_or(directory))
}

/// Finds the scores on pairs in a summary, whatever is around them: an object with `pairs` is a model, and its name is
/// what it says itself, or the key that it stands under.
fn pair_scores(key: &str, json: &Value, scores: &mut Vec<PairScores>) {
    let of_a_model = |model: &Value| {
        let pairs = model.get("pairs")?;
        let number = |name: &str| pairs.get(name)?.as_f64();
        let n = number("n")? as usize;
        let right = (number("preference_accuracy")? * n as f64).round() as usize;
        let name = model.get("name").and_then(Value::as_str).unwrap_or(key).to_owned();
        Some(PairScores { name, accuracy: Metric::proportion(right.min(n), n), log_odds: number("mean_log_odds")? })
    };
    match json {
        Value::Object(fields) => {
            scores.extend(of_a_model(json));
            fields.iter().for_each(|(key, value)| pair_scores(key, value, scores));
        }
        Value::Array(items) => items.iter().for_each(|item| pair_scores(key, item, scores)),
        _ => {}
    }
}

/// A stage's command may be one text or a list of arguments.
fn stage(path: &Path, json: &Value) -> Option<Stage> {
    let command = match json.get("command")? {
        Value::String(command) => command.clone(),
        Value::Array(arguments) => arguments.iter().filter_map(Value::as_str).map(quoted).collect::<Vec<_>>().join(" "),
        _ => return None,
    };
    let started_at = json.get("started_at").and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Stage { path: path.to_owned(), command, started_at, seconds: json.get("seconds").and_then(Value::as_f64) })
}

/// An argument as a shell takes it.
fn quoted(argument: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%".contains(c);
    if !argument.is_empty() && argument.chars().all(is_plain) {
        return argument.to_owned();
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

/// All models, the one called `base` first: everything is compared with it.
fn names(collected: &Collected) -> Vec<String> {
    let of_evaluations = collected.evaluations.iter().flat_map(|subject| subject.models.iter().map(|(_, name)| name));
    let of_pairs = collected.pairs.iter().map(|scores| &scores.name);
    let mut names: Vec<String> = Vec::new();
    for name in of_evaluations.chain(of_pairs) {
        if !names.contains(name) {
            names.push(name.clone());
        }
    }
    names.sort_by_key(|name| name != "base");
    names
}

fn read_json(path: &Path) -> Result<Value, InputError> {
    serde_json::from_str(&jsonl::read_json(path)?)
        .map_err(|error| InputError::File { path: path.to_owned(), problem: format!("invalid JSON: {error}") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels_of(named: &[(&str, &str, &str)]) -> Vec<String> {
        let named: Vec<_> =
            named.iter().map(|(k, n, p)| ((*k).to_owned(), (*n).to_owned(), PathBuf::from(p))).collect();
        labels(&named)
    }

    #[test]
    fn names_stay_short_until_they_are_ambiguous() {
        assert_eq!(labels_of(&[("ifeval", "m", "a"), ("alpaca", "m", "b")]), ["m", "m"]);
        let both = [("ifeval", "m", "x/a"), ("ifeval", "m", "x/b"), ("alpaca", "m", "x/b"), ("ifeval", "n", "x/c")];
        assert_eq!(labels_of(&both), ["m (a)", "m (b)", "m (b)", "n"]);
        assert_eq!(labels_of(&[("", "m", "x/m"), ("", "m", "y/m")]), ["m (x/m)", "m (y/m)"]);
    }

    #[test]
    fn answers_are_called_after_their_directory() {
        assert_eq!(answers_of("out/eval/orpo/ifeval/samples.jsonl"), "orpo");
        assert_eq!(answers_of("judge-5.1"), "judge-5.1");
        assert_eq!(answers_of("orpo.jsonl"), "orpo.jsonl");
    }

    #[test]
    fn scores_on_pairs_are_found_by_their_shape() {
        let pairs = json!({"preference_accuracy": 0.75, "mean_log_odds": 1.5, "n": 4});
        for summary in [
            json!({"orpo": {"model": "/m", "pairs": pairs}, "out": "x"}),
            json!({"models": [{"name": "orpo", "pairs": pairs}, {"name": "base", "pairs": null}]}),
        ] {
            let mut scores = Vec::new();
            pair_scores("", &summary, &mut scores);
            assert_eq!(scores.len(), 1, "{summary}");
            assert_eq!((scores[0].name.as_str(), scores[0].log_odds), ("orpo", 1.5));
            assert_eq!((scores[0].accuracy.value, scores[0].accuracy.n), (Some(0.75), 4));
        }
    }

    #[test]
    fn a_stages_command_can_be_pasted_into_a_shell() {
        let json = json!({"command": ["orpo", "eval", "it's", "a b"], "started_at": "2026", "seconds": 1.5});
        assert_eq!(stage(Path::new("s"), &json).unwrap().command, r"orpo eval 'it'\''s' 'a b'");
        assert_eq!(stage(Path::new("s"), &json!({"command": "orpo x"})).unwrap().command, "orpo x");
        assert!(stage(Path::new("s"), &json!({"state": "done"})).is_none());
    }
}
