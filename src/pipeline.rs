//! `orpo run`: base model → ORPO → served → evaluated, before and after.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use orpo_train::data::Sources;
use orpo_train::recipe::{DataSection, ModelSection, Recipe, TrainingSection};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::children::{Children, describe};
use crate::summary::{ModelScores, PairScores, Summary};

/// A pipeline file. Relative paths are relative to its directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pipeline {
    /// Where everything is written.
    pub out: PathBuf,
    /// Seed of the data order. Default 42.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// The model to start from.
    pub base: Base,
    /// Preference pairs.
    pub data: Data,
    /// As `[training]` of an `orpo-train` recipe.
    #[serde(default)]
    pub training: TrainingSection,
    /// IFEval-style checks, before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifeval: Option<Ifeval>,
}

/// `[base]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// A Hugging Face checkpoint directory.
    pub model: PathBuf,
    /// A chat template that replaces the model's, or that it lacks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<PathBuf>,
}

/// `[data]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Pairs to train on, as `data.train` of an `orpo-train` recipe: a path, a glob, a hub id, or tables with weights.
    pub train: Sources,
    /// Pairs to watch while training.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Sources>,
    /// Held-out pairs, scored before and after.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<PathBuf>,
    /// Longest sequence in tokens. Default 1024.
    #[serde(default = "default_max_length")]
    pub max_length: usize,
}

/// `[ifeval]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ifeval {
    /// Prompts in IFEval's layout; the embedded set where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// Longest reply in tokens. Default 256.
    #[serde(default = "default_max_tokens")]
    pub max_tokens: usize,
    /// Only the first so many prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

fn default_seed() -> u64 {
    42
}
fn default_max_length() -> usize {
    1024
}
fn default_max_tokens() -> usize {
    256
}

impl Pipeline {
    /// Reads a pipeline file and resolves its paths.
    ///
    /// # Errors
    /// With file and key: unreadable, not TOML, an unknown or missing key.
    pub fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let mut pipeline: Self =
            toml::from_str(&text).map_err(|e| anyhow::anyhow!("`{}`: {}", path.display(), e.to_string().trim_end()))?;
        let dir = path.parent().unwrap_or(Path::new(""));
        let resolve = |path: &mut PathBuf| *path = dir.join(&*path);
        resolve(&mut pipeline.out);
        resolve(&mut pipeline.base.model);
        for sources in [Some(&mut pipeline.data.train), pipeline.data.validation.as_mut()].into_iter().flatten() {
            sources.resolve(dir);
        }
        let ifeval_data = pipeline.ifeval.as_mut().and_then(|ifeval| ifeval.data.as_mut());
        for path in [&mut pipeline.base.chat_template, &mut pipeline.data.test] {
            path.as_mut().map(resolve);
        }
        ifeval_data.map(resolve);
        Ok(pipeline)
    }

    /// The recipe of the training stage.
    fn recipe(&self) -> Result<Recipe> {
        let absolute = |path: &Path| std::path::absolute(path).with_context(|| format!("`{}`", path.display()));
        let working_dir = std::env::current_dir().context("the working directory cannot be found")?;
        let mut data = DataSection::new(self.data.train.clone());
        data.validation = self.data.validation.clone();
        for sources in [Some(&mut data.train), data.validation.as_mut()].into_iter().flatten() {
            sources.resolve(&working_dir);
        }
        data.chat_template = self.base.chat_template.as_deref().map(absolute).transpose()?;
        data.max_length = self.data.max_length;
        Ok(Recipe {
            output_dir: absolute(&self.out.join("orpo"))?,
            seed: self.seed,
            model: ModelSection { path: Some(absolute(&self.base.model)?), tokenizer: None, init: None },
            data,
            lora: None,
            training: self.training.clone(),
            export: Default::default(),
        })
    }
}

/// Runs the pipeline of a file.
///
/// # Errors
/// When the file or anything it names is wrong, a stage fails, or a signal came.
pub fn run_file(children: &Children, path: &Path, resume: bool) -> Result<Summary> {
    let pipeline = Pipeline::load(path)?;
    let trained = pipeline.out.join("orpo");
    ensure!(
        resume || !trained.exists(),
        "`{}` holds a run already; go on with it by --resume, or name another `out`",
        pipeline.out.display()
    );
    run(children, &pipeline, Instant::now())
}

/// Runs a pipeline, going on with what is in its directory.
///
/// # Errors
/// When a stage fails (with the command that repeats it) or a signal came.
pub fn run(children: &Children, pipeline: &Pipeline, started: Instant) -> Result<Summary> {
    // Whatever can be known to be wrong is said before anything takes time.
    for path in [&pipeline.data.test, &pipeline.base.chat_template].into_iter().flatten() {
        ensure!(path.is_file(), "`{}` is not a file; the pipeline names it", path.display());
    }
    if let Some(data) = pipeline.ifeval.as_ref().and_then(|ifeval| ifeval.data.as_ref()) {
        ensure!(data.is_file(), "`{}` is not a file; [ifeval] data names it", data.display());
    }
    fs::create_dir_all(&pipeline.out).with_context(|| format!("cannot create `{}`", pipeline.out.display()))?;

    train(children, "ORPO", &pipeline.recipe()?, &pipeline.out.join("orpo.toml"))?;

    let orpo_model = pipeline.out.join("orpo").join(orpo_train::run::MODEL_DIR);
    let template = pipeline.base.chat_template.as_deref();
    let base = evaluate(children, pipeline, "base", &pipeline.base.model, template)?;
    // The trained directory has the template in it.
    let orpo = evaluate(children, pipeline, "orpo", &orpo_model, None)?;
    let summary = Summary { base, orpo, out: pipeline.out.clone(), seconds: started.elapsed().as_secs_f64() };
    let path = pipeline.out.join("summary.json");
    let mut json = serde_json::to_vec_pretty(&summary)?;
    json.push(b'\n');
    orpo_train::checkpoint::write_file(&path, &json)?;
    Ok(summary)
}

/// Writes a recipe and runs it, going on with what its directory holds.
///
/// # Errors
/// When the trainer fails or a signal came.
pub fn train(children: &Children, what: &str, recipe: &Recipe, path: &Path) -> Result<()> {
    announce(&format!("train: {what}"));
    let header = format!("# orpo train run {} --resume\n", path.display());
    let text = header + &toml::to_string(recipe).context("a recipe is plain data")?;
    orpo_train::checkpoint::write_file(path, text.as_bytes())?;
    stage(children, &["train".into(), "run".into(), path.into(), "--resume".into()]).map(drop)
}

/// Scores a model on held-out pairs and, over HTTP, on prompts.
fn evaluate(
    children: &Children,
    pipeline: &Pipeline,
    name: &str,
    model: &Path,
    template: Option<&Path>,
) -> Result<ModelScores> {
    let template_args = |args: &mut Vec<OsString>| {
        if let Some(template) = template {
            args.extend(["--chat-template".into(), template.into()]);
        }
    };
    let pairs = pipeline.data.test.as_ref().map(|test| {
        announce(&format!("score: {name} on held-out pairs"));
        let mut args: Vec<OsString> =
            vec!["train".into(), "score".into(), "--model".into(), model.into(), "--data".into(), test.into()];
        args.extend(["--max-length".into(), pipeline.data.max_length.to_string().into()]);
        template_args(&mut args);
        let scores: Value = serde_json::from_str(&stage(children, &args)?).context("the trainer's scores are JSON")?;
        let number = |key: &str| scores[key].as_f64().with_context(|| format!("no `{key}` in the trainer's scores"));
        anyhow::Ok(PairScores {
            preference_accuracy: number("rewards/accuracies")?,
            mean_log_odds: number("log_odds_chosen")?,
            n: number("n")? as usize,
        })
    });
    let pairs = pairs.transpose()?;

    let ifeval = pipeline.ifeval.as_ref().map(|ifeval| {
        announce(&format!("serve and evaluate: {name}"));
        let mut args: Vec<OsString> = vec!["serve".into(), "--model".into(), model.into(), "--port".into(), "0".into()];
        args.extend(["--served-model-name".into(), name.into(), "--exit-with-stdin".into()]);
        template_args(&mut args);
        let server = children.serve(&args, &pipeline.out.join(format!("serve-{name}.log")))?;
        let out = pipeline.out.join("eval").join(name);
        let mut args: Vec<OsString> = vec!["eval".into(), "ifeval".into(), "--endpoint".into(), (&server.url).into()];
        args.extend(["--out".into(), out.clone().into()]);
        args.extend(["--max-tokens".into(), ifeval.max_tokens.to_string().into()]);
        if let Some(data) = &ifeval.data {
            args.extend(["--data".into(), data.into()]);
        }
        if let Some(limit) = ifeval.limit {
            args.extend(["--limit".into(), limit.to_string().into()]);
        }
        let (status, _table) = children.run(&args)?;
        // 1 says that not everything could be scored; the results say what.
        if !matches!(status.code(), Some(0 | 1)) {
            bail!("a stage failed; repeat it with: {}", describe(&args));
        }
        let path = out.join("results.json");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))
    });
    Ok(ModelScores { model: model.to_path_buf(), ifeval: ifeval.transpose()?, pairs })
}

/// Runs a stage to its end and returns what it printed.
fn stage(children: &Children, args: &[OsString]) -> Result<String> {
    let (status, stdout) = children.run(args)?;
    if !status.success() {
        bail!("a stage failed; repeat it with: {}", describe(args));
    }
    Ok(stdout)
}

/// Says on stderr what begins.
pub fn announce(what: &str) {
    eprintln!("==> {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_relative_to_the_file_and_unknown_keys_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        let text = "out = \"run\"\n[base]\nmodel = \"m\"\n[data]\ntrain = \"/t.jsonl\"\n[ifeval]\ndata = \"p.jsonl\"\n";
        fs::write(&path, text).unwrap();
        let pipeline = Pipeline::load(&path).unwrap();
        assert_eq!(pipeline.out, dir.path().join("run"));
        assert_eq!(pipeline.data.train, Path::new("/t.jsonl").into());
        assert_eq!(pipeline.ifeval.unwrap().data.unwrap(), dir.path().join("p.jsonl"));
        fs::write(&path, format!("{text}limitt = 3\n")).unwrap();
        let error = Pipeline::load(&path).unwrap_err().to_string();
        assert!(error.contains("limitt") && error.contains("pipeline.toml"), "{error}");
    }

    #[test]
    fn the_written_recipe_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.toml");
        fs::write(&path, "out = \"run\"\n[base]\nmodel = \"m\"\n[data]\ntrain = \"t.jsonl\"\n[training]\nbeta = 0.5\n")
            .unwrap();
        let recipe = Pipeline::load(&path).unwrap().recipe().unwrap();
        let written = dir.path().join("orpo.toml");
        fs::write(&written, toml::to_string(&recipe).unwrap()).unwrap();
        assert_eq!(Recipe::load(&written, &[]).unwrap(), recipe);
    }
}
