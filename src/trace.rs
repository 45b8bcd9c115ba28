//! `orpo trace`: how a number came to be, link by link, with every hash that can be checked.
//!
//! results ← responses ← server ← checkpoint ← recipe ← data and base, and through a base that was trained by this program
//! to what that came from.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use orpo_eval::ifeval::data::Dataset;
use orpo_eval::jsonl;
use orpo_eval::mt_bench::Questions;
use orpo_files::{MANIFEST, differences, sha256, sha256_file};
use orpo_train::checkpoint::Manifest as ModelManifest;
use orpo_train::hub;
use orpo_train::recipe::Recipe;
use serde::Serialize;
use serde_json::{Value, json};

use crate::hash::Stamp;
use crate::pipeline::file::BASE;
use crate::pipeline::manifest::{Manifest, Variant};
use crate::pipeline::record::Record;
use crate::pipeline::stages::Kind;
use crate::shell::{here, shown};

/// How many bases of bases are followed.
const MAX_DEPTH: usize = 8;

/// What was found about a link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum State {
    /// It is what it is said to be.
    Verified {
        /// What was checked.
        what: String,
    },
    /// It is not.
    Differs {
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// It cannot be checked here.
    NotAtHand {
        /// Why.
        reason: String,
    },
}

/// One thing that a result rests on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Link {
    /// 0 for what the result itself rests on, one more for each base of a base.
    pub depth: usize,
    /// Its kind: results, responses, prompts, template, server, checkpoint, recipe, data, base.
    pub link: &'static str,
    /// Which one.
    pub name: String,
    /// What was found.
    #[serde(flatten)]
    pub state: State,
}

/// The links of a result, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Trace {
    /// From the result backwards.
    pub links: Vec<Link>,
}

impl Trace {
    /// Follows a `results.json`, or the `score.json` of a pipeline, back to where it came from.
    ///
    /// # Errors
    /// When the file is neither, or a manifest cannot be read. That something differs is no error.
    pub fn of(path: &Path) -> Result<Self> {
        let mut trace = Self::default();
        trace.results(path, 0)?;
        Ok(trace)
    }

    /// Whether a link is not what it is said to be.
    pub fn differs(&self) -> bool {
        self.links.iter().any(|link| matches!(link.state, State::Differs { .. }))
    }

    fn add(&mut self, depth: usize, link: &'static str, name: impl Into<String>, state: State) {
        self.links.push(Link { depth, link, name: name.into(), state });
    }

    fn results(&mut self, path: &Path, depth: usize) -> Result<()> {
        let failed = || format!("cannot use `{}`", path.display());
        anyhow::ensure!(
            !path.is_dir(),
            "`{}` is a directory; name a results.json or a score.json in it",
            path.display()
        );
        let path = std::path::absolute(path).with_context(failed)?;
        let text = fs::read_to_string(&path).with_context(failed)?;
        let results: Value = serde_json::from_str(&text).with_context(failed)?;
        let is_score = results.get("rewards/accuracies").is_some();
        anyhow::ensure!(
            is_score || (results["task"].is_string() && results["metrics"].is_object()),
            "`{}` is neither a results.json (with `task` and `metrics`) nor a score.json (with `rewards/accuracies`)",
            path.display()
        );
        let pipeline = Pipeline::around(&path)?;
        self.add(
            depth,
            "results",
            display(&path),
            match &pipeline {
                Some(Pipeline { dir, results: Some(stamp), .. }) => file_is(&dir.join(&stamp.path), &stamp.sha256),
                Some(_) => not_at_hand("the manifest of the pipeline does not name it"),
                None => not_at_hand("it belongs to no pipeline, so nothing says what it was"),
            },
        );
        if is_score {
            return pipeline.map_or(Ok(()), |pipeline| self.scored(&pipeline, depth));
        }
        for stamp in pipeline.iter().flat_map(Pipeline::responses) {
            let file = pipeline.as_ref().map_or(stamp.path.clone(), |pipeline| pipeline.dir.join(&stamp.path));
            self.add(depth, "responses", display(&file), file_is(&file, &stamp.sha256));
        }
        if results["sources"].is_object() {
            return self.compared(&results["sources"], depth);
        }
        if pipeline.as_ref().is_none_or(|pipeline| pipeline.responses().next().is_none()) {
            let samples = path.with_file_name("samples.jsonl");
            self.add(depth, "responses", display(&samples), not_at_hand("nothing says what they were"));
        }
        self.prompts(&results, depth);
        if let Some(pipeline) = &pipeline {
            self.template(pipeline, results["model"].as_str().unwrap_or_default(), depth);
        }
        self.server(&results, pipeline.as_ref(), depth)
    }

    /// Preference metrics on held-out pairs, which the trainer computes without a server.
    fn scored(&mut self, pipeline: &Pipeline, depth: usize) -> Result<()> {
        let Some(Record { stage, inputs, .. }) = &pipeline.record else { return Ok(()) };
        for stamp in inputs.files.get("data.test").into_iter().flatten() {
            self.add(depth, "data", format!("test {}", display(&stamp.path)), file_is(&stamp.path, &stamp.sha256));
        }
        let model = stage.split_once(':').map_or("", |(_, model)| model);
        self.template(pipeline, model, depth);
        match pipeline.model_manifest(model) {
            Some((manifest, expected)) => self.checkpoint(&manifest, Some(expected), Some((pipeline, model)), depth),
            None => {
                self.base_of_pipeline(pipeline, depth);
                Ok(())
            }
        }
    }

    /// The chat template that the pipeline file gave the base model, and with it the variants trained from it.
    fn template(&mut self, pipeline: &Pipeline, model: &str, depth: usize) {
        let trained = pipeline.manifest.stages.get(&format!("{}:{model}", Kind::Train));
        let record = if model == BASE { pipeline.record.as_ref() } else { trained };
        for stamp in record.and_then(|record| record.inputs.files.get("base.chat_template")).into_iter().flatten() {
            self.add(depth, "template", display(&stamp.path), file_is(&stamp.path, &stamp.sha256));
        }
    }

    /// The two sides of a comparison, each with what it rests on.
    fn compared(&mut self, sources: &Value, depth: usize) -> Result<()> {
        for side in ["a", "b"] {
            let (source, expected) = (sources[side]["source"].as_str(), sources[side]["sha256"].as_str());
            let (Some(source), Some(expected)) = (source, expected) else { continue };
            let file = Path::new(source);
            self.add(depth, "answers", display(file), input_is(file, expected));
            let results = file.with_file_name("results.json");
            if results.exists() && depth < MAX_DEPTH {
                self.results(&results, depth + 1)?;
            }
        }
        Ok(())
    }

    fn prompts(&mut self, results: &Value, depth: usize) {
        let data = &results["data"];
        let (Some(source), Some(expected)) = (data["source"].as_str(), data["sha256"].as_str()) else { return };
        let embedded = match results["task"].as_str() {
            Some("ifeval") => Some(Dataset::embedded().sha256),
            Some("mt-bench") => Some(Questions::embedded().source.sha256),
            _ => None,
        };
        let state = match embedded.filter(|_| source == "embedded") {
            Some(found) if found == expected => verified("embedded in this program"),
            Some(found) => State::Differs { expected: expected.into(), found },
            None => input_is(Path::new(source), expected),
        };
        self.add(depth, "prompts", display(Path::new(source)), state);
    }

    fn server(&mut self, results: &Value, pipeline: Option<&Pipeline>, depth: usize) -> Result<()> {
        let model = results["model"].as_str().unwrap_or_default();
        let recorded = pipeline.and_then(|pipeline| pipeline.model_manifest(model));
        let lineage = &results["lineage"];
        let Some(said) = lineage["manifest_sha256"].as_str() else {
            let reason = "the server did not say where its model comes from";
            self.add(depth, "server", results["endpoint"].as_str().unwrap_or("unknown"), not_at_hand(reason));
            match (recorded, pipeline) {
                (Some((manifest, expected)), Some(pipeline)) => {
                    self.checkpoint(&manifest, Some(expected), Some((pipeline, model)), depth)?;
                }
                (_, Some(pipeline)) if model == BASE => self.base_of_pipeline(pipeline, depth),
                _ => {}
            }
            return Ok(());
        };
        let server = &lineage["server"];
        let text = |key: &str| server[key].as_str();
        let mut name = format!("orpo-serve {}, {}", text("version").unwrap_or("?"), text("engine").unwrap_or("?"));
        name += &text("quantize").map_or(String::new(), |quantize| format!(", {quantize}"));
        name += &text("adapter").map_or(String::new(), |adapter| format!(", adapter {adapter}"));
        let of_server = lineage["manifest"].as_str().map(PathBuf::from).filter(|manifest| manifest.exists());
        let of_pipeline = recorded.as_ref().map(|(manifest, _)| manifest.clone()).filter(|manifest| manifest.exists());
        let state = match (&recorded, of_pipeline.clone().or(of_server.clone())) {
            (Some((_, expected)), _) if *expected != said => {
                State::Differs { expected: (*expected).clone(), found: format!("a model with the manifest {said}") }
            }
            (_, Some(_)) => verified(&format!("it served the model with the manifest {}", short(said))),
            (_, None) => not_at_hand("the manifest of its model is not on this machine"),
        };
        self.add(depth, "server", name, state);
        // Of a model that is elsewhere by now the pipeline has a copy, or nobody.
        let manifest = of_pipeline.or(of_server);
        let Some(manifest) = manifest else { return Ok(()) };
        self.checkpoint(&manifest, Some(said), pipeline.map(|pipeline| (pipeline, model)), depth)?;
        Ok(())
    }

    /// A model directory, by its manifest, which should have the hash `expected`.
    fn checkpoint(
        &mut self,
        manifest_path: &Path,
        expected: Option<&str>,
        pipeline: Option<(&Pipeline, &str)>,
        depth: usize,
    ) -> Result<()> {
        let dir = manifest_path.parent().unwrap_or(Path::new("."));
        let state = expected.map(|expected| file_is(manifest_path, expected));
        if let Some(state @ (State::Differs { .. } | State::NotAtHand { .. })) = state {
            self.add(depth, "checkpoint", display(manifest_path), state);
            return Ok(());
        }
        let Some(manifest) = ModelManifest::read(dir)? else { return Ok(()) };
        let mut wrong = Vec::new();
        for (name, expected) in &manifest.files {
            let state = file_is(&dir.join(name), expected);
            if !matches!(state, State::Verified { .. }) {
                wrong.push((display(&dir.join(name)), state));
            }
        }
        if wrong.is_empty() {
            let what = format!("{} files as the manifest says", manifest.files.len());
            self.add(depth, "checkpoint", format!("{}, step {}", display(dir), manifest.step), verified(&what));
        }
        for (name, state) in wrong {
            self.add(depth, "checkpoint", name, state);
        }
        self.recipe(&manifest.recipe, pipeline, depth);
        for data in &manifest.data {
            let name = format!("{} {}", data.split, display(&data.path));
            self.add(depth, "data", name, file_is(&data.path, &data.sha256));
        }
        self.base(&manifest, depth)
    }

    fn recipe(&mut self, recipe: &Recipe, pipeline: Option<(&Pipeline, &str)>, depth: usize) {
        let objective = serde_json::to_value(recipe.training.objective).unwrap_or_default();
        let name = format!("{}, beta {}", objective.as_str().unwrap_or_default(), recipe.training.beta);
        let variant = pipeline.and_then(|(pipeline, model)| {
            let variant = pipeline.manifest.variants.get(model)?;
            Some(pipeline.dir.join(&variant.recipe))
        });
        let state = match variant.filter(|path| path.exists()) {
            Some(path) => match Recipe::load(&path, &[]) {
                Ok(written) if written == *recipe => verified(&format!("as in {}", display(&path))),
                Ok(written) => State::Differs { expected: first_difference(recipe, &written), found: display(&path) },
                Err(error) => not_at_hand(&error.to_string()),
            },
            None => verified("as the manifest has it"),
        };
        self.add(depth, "recipe", name, state);
    }

    fn base(&mut self, manifest: &ModelManifest, depth: usize) -> Result<()> {
        let Some(path) = &manifest.recipe.model.path else {
            let name = format!("random weights, seed {}", manifest.recipe.seed);
            self.add(depth, "base", name, verified("the recipe makes them"));
            return Ok(());
        };
        if hub::is_id(path) {
            self.add(depth, "base", path.display().to_string(), not_at_hand("it is on the hub"));
            return Ok(());
        }
        for (name, expected) in &manifest.base {
            let file = path.join(name);
            self.add(depth, "base", display(&file), file_is(&file, expected));
        }
        let own = path.join(MANIFEST);
        if depth < MAX_DEPTH && own.exists() {
            self.checkpoint(&own, None, None, depth + 1)?;
        }
        Ok(())
    }

    /// A base model without a manifest, as the pipeline found it.
    fn base_of_pipeline(&mut self, pipeline: &Pipeline, depth: usize) {
        for stamp in &pipeline.manifest.base {
            self.add(depth, "base", display(&stamp.path), file_is(&stamp.path, &stamp.sha256));
        }
    }
}

/// The pipeline that a file lies in.
struct Pipeline {
    dir: PathBuf,
    manifest: Manifest,
    /// What its manifest says of the file.
    results: Option<Stamp>,
    /// The record of the stage that made it.
    record: Option<Record>,
}

impl Pipeline {
    /// The pipeline around the file `path`, if there is one.
    fn around(path: &Path) -> Result<Option<Self>> {
        for dir in path.ancestors().skip(1) {
            let Some(manifest) = Manifest::read(dir)? else { continue };
            let inside = path.strip_prefix(dir).unwrap_or(path);
            let made = |record: &Record| record.outputs.iter().find(|stamp| stamp.path == inside).cloned();
            let named = manifest.stages.values().find_map(|record| Some((record.clone(), made(record)?)));
            let (record, results) = named.unzip();
            return Ok(Some(Self { dir: dir.to_path_buf(), manifest, results, record }));
        }
        Ok(None)
    }

    /// Where the manifest of a model is, and the hash that it had.
    fn model_manifest(&self, model: &str) -> Option<(PathBuf, &String)> {
        if let Some(Variant { checkpoint, .. }) = self.manifest.variants.get(model) {
            return Some((self.dir.join(&checkpoint.path), &checkpoint.sha256));
        }
        let mut of_base = self.manifest.base.iter().filter(|_| model == BASE);
        let own = of_base.find(|stamp| stamp.path.ends_with(MANIFEST))?;
        Some((own.path.clone(), &own.sha256))
    }

    /// What the stage made beside the results.
    fn responses(&self) -> impl Iterator<Item = &Stamp> {
        let outputs = self.record.iter().flat_map(|record| &record.outputs);
        outputs.filter(|stamp| self.results.as_ref().is_some_and(|results| results.path != stamp.path))
    }
}

fn verified(what: &str) -> State {
    State::Verified { what: what.into() }
}

fn not_at_hand(reason: &str) -> State {
    State::NotAtHand { reason: reason.into() }
}

/// Whether a file has the hash `expected`.
fn file_is(path: &Path, expected: &str) -> State {
    compared(path, expected, sha256_file(path).map_err(|error| error.to_string()))
}

/// The same for an input of an evaluation, whose hash is that of its content when it is unpacked.
fn input_is(path: &Path, expected: &str) -> State {
    let found = jsonl::read(path).map(sha256).map_err(|error| error.to_string());
    compared(path, expected, found)
}

fn compared(path: &Path, expected: &str, found: Result<String, String>) -> State {
    match found {
        Ok(found) if found == expected => verified(&format!("SHA-256 {}", short(expected))),
        Ok(found) => State::Differs { expected: expected.into(), found },
        Err(_) if !path.exists() => not_at_hand("the file no longer exists"),
        Err(error) => not_at_hand(&error),
    }
}

/// Enough of a hash to tell it from others.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The first key of a recipe with another value in the other one.
fn first_difference(recipe: &Recipe, other: &Recipe) -> String {
    let [recipe, other] = [recipe, other].map(|recipe| serde_json::to_value(recipe).unwrap_or_default());
    let found = differences(&recipe, &other);
    found.first().map_or_else(|| "a key less".into(), |found| format!("{} = {}", found.key(), found.before))
}

fn display(path: &Path) -> String {
    shown(path, &here())
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Verified { what } => write!(f, "verified: {what}"),
            Self::Differs { expected, found } => write!(f, "DIFFERS: expected {expected}, found {found}"),
            Self::NotAtHand { reason } => write!(f, "not at hand: {reason}"),
        }
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Link { depth, link, name, state }) in self.links.iter().enumerate() {
            let end = if index + 1 < self.links.len() { "\n" } else { "" };
            write!(f, "{:indent$}{link:<11} {name}: {state}{end}", "", indent = 2 * depth)?;
        }
        Ok(())
    }
}

impl Trace {
    /// The links as one JSON object.
    pub fn to_json(&self) -> Value {
        json!({"links": self.links, "differs": self.differs()})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_it_was_or_not_or_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "abc").unwrap();
        // FIPS 180-2, appendix B.1.
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(matches!(file_is(&path, abc), State::Verified { .. }));
        let State::Differs { expected, found } = file_is(&path, "other") else { panic!("it is another") };
        assert_eq!((expected.as_str(), found.as_str()), ("other", abc));
        assert!(matches!(file_is(&dir.path().join("g"), abc), State::NotAtHand { .. }));
    }

    #[test]
    fn a_result_alone_is_not_at_hand_but_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("results.json");
        fs::write(&path, json!({"task": "ifeval", "metrics": {}, "model": "m"}).to_string()).unwrap();
        let trace = Trace::of(&path).unwrap();
        assert!(!trace.differs());
        let links: Vec<&str> = trace.links.iter().map(|link| link.link).collect();
        assert_eq!(links, ["results", "responses", "server"]);
        assert!(trace.links.iter().all(|link| matches!(link.state, State::NotAtHand { .. })), "{trace}");
        fs::write(&path, "{}").unwrap();
        assert!(Trace::of(&path).unwrap_err().to_string().contains("neither a results.json"));
    }
}
