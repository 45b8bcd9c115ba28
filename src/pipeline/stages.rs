//! The stages of a pipeline: what each is made of, what it makes, and the command that does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use orpo_train::hub;
use orpo_train::recipe::Recipe;
use orpo_train::run::MODEL_DIR;
use serde_json::{Map, Value, json};

use super::file::{BASE, Compare, Decider, Pipeline};
use super::options::{ALPACA, COMPARE, IFEVAL, JUDGE, MT_BENCH, SERVE, Section};

/// The kinds of stages, in the order in which they are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Kind {
    /// Training of a variant
    Train,
    /// Preference accuracy and log odds on held-out pairs
    Score,
    /// IFEval
    Ifeval,
    /// AlpacaEval 2.0
    Alpaca,
    /// MT-Bench
    MtBench,
    /// Answers of two models against each other
    Compare,
    /// The report
    Report,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Train => "train",
            Self::Score => "score",
            Self::Ifeval => "ifeval",
            Self::Alpaca => "alpaca",
            Self::MtBench => "mt-bench",
            Self::Compare => "compare",
            Self::Report => "report",
        })
    }
}

/// What a stage takes from an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The earlier stage.
    pub stage: String,
    /// Which of its outputs: those below this path in the pipeline's directory.
    pub under: PathBuf,
}

/// One step of a pipeline.
#[derive(Debug, Clone, PartialEq)]
pub struct Stage {
    /// `KIND:SUBJECT`, or the kind alone.
    pub name: String,
    /// What it does.
    pub kind: Kind,
    /// What of the pipeline file decides on its result.
    pub settings: Value,
    /// The files and directories whose content does, by the key that names them.
    pub files: BTreeMap<String, Vec<PathBuf>>,
    /// What it takes from earlier stages.
    pub uses: Vec<Use>,
    /// The model that it asks over HTTP.
    pub asks: Option<String>,
    /// Whether it asks the judge.
    pub is_judged: bool,
    /// All that it writes lies here, in the pipeline's directory.
    pub place: PathBuf,
    /// Files and directories that it makes, in the pipeline's directory.
    pub outputs: Vec<PathBuf>,
    /// The file that its stdout is, in the pipeline's directory.
    pub stdout: Option<PathBuf>,
    /// Its command line, without `orpo` and, if it asks a model, without the address.
    pub args: Vec<OsString>,
}

/// A model that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
    /// A chat template in the place of its own.
    pub template: Option<PathBuf>,
}

impl Model {
    /// The model of a pipeline with this name.
    ///
    /// # Errors
    /// When the hub does not give the base model.
    pub fn of(pipeline: &Pipeline, name: &str) -> Result<Self> {
        Ok(if name == BASE {
            let template = pipeline.chat_template.clone();
            Self { name: name.into(), dir: hub::model_dir(&pipeline.base_model)?, template }
        } else {
            // The trained directory has the template in it.
            Self { name: name.into(), dir: pipeline.out.join(name).join(MODEL_DIR), template: None }
        })
    }

    /// Flags of every program that loads it.
    fn flags(&self) -> Vec<OsString> {
        let mut flags: Vec<OsString> = vec!["--model".into(), self.dir.clone().into()];
        if let Some(template) = &self.template {
            flags.extend(["--chat-template".into(), template.into()]);
        }
        flags
    }

    /// The command line of its server.
    pub fn serve_args(&self, pipeline: &Pipeline, port: u16) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["serve".into()];
        args.extend(self.flags());
        args.extend(["--served-model-name".into(), (&self.name).into()]);
        args.extend(["--port".into(), port.to_string().into()]);
        args.extend(SERVE.flags(&pipeline.serve));
        args
    }
}

/// All stages of a pipeline, each behind those that it needs.
///
/// # Errors
/// When two stages have the same name, or the hub does not give a model or data.
pub fn stages(pipeline: &Pipeline) -> Result<Vec<Stage>> {
    let mut stages = Vec::new();
    for (name, recipe) in &pipeline.recipes {
        stages.push(train(pipeline, name, recipe)?);
    }
    for name in pipeline.models() {
        let model = Model::of(pipeline, name)?;
        if let Some(test) = &pipeline.test {
            stages.push(score(pipeline, &model, test));
        }
        if let Some(table) = &pipeline.ifeval {
            let mut stage = Task::new(Kind::Ifeval, &IFEVAL, table).stage(pipeline, &model);
            stage.outputs = within(&stage.place, &["results.json", "samples.jsonl"]);
            stages.push(stage);
        }
        if let Some(table) = &pipeline.alpaca {
            let mut stage = Task::new(Kind::Alpaca, &ALPACA, table).stage(pipeline, &model);
            ask_judge(pipeline, &mut stage);
            let files = ["results.json", "samples.jsonl", "annotations.json", "model_outputs.json"];
            stage.outputs = within(&stage.place, &files);
            stages.push(stage);
        }
        if let Some(table) = &pipeline.mt_bench {
            let mut stage = Task::new(Kind::MtBench, &MT_BENCH, table).stage(pipeline, &model);
            ask_judge(pipeline, &mut stage);
            let files = ["results.json", "samples.jsonl", "judgments.jsonl", "model_answer"];
            stage.outputs = within(&stage.place, &files);
            stages.push(stage);
        }
    }
    if let Some(compare) = &pipeline.compare {
        stages.extend(compare.pairs.iter().map(|pair| comparison(pipeline, compare, pair)));
    }
    if let Some(report) = &pipeline.report {
        let uses = stages.iter().filter(|stage| stage.kind != Kind::Score);
        let uses = uses.map(|stage| Use { stage: stage.name.clone(), under: PathBuf::new() }).collect();
        let file = pipeline.out.join(REPORT);
        let mut args: Vec<OsString> = vec!["eval".into(), "report".into(), (&pipeline.out).into()];
        args.extend(["--out".into(), file.into()]);
        if let Some(title) = &report.title {
            args.push(format!("--title={title}").into());
        }
        stages.push(Stage {
            settings: json!({"report": {"title": report.title}}),
            uses,
            outputs: vec![REPORT.into()],
            args,
            ..Stage::new(Kind::Report, "", REPORT.into())
        });
    }
    for (index, stage) in stages.iter().enumerate() {
        let is_twin = |other: &Stage| other.name == stage.name || other.place == stage.place;
        let twin = stages[..index].iter().any(is_twin);
        ensure!(!twin, "two stages would be called `{}`; rename a variant, or leave a pair out", stage.name);
    }
    Ok(stages)
}

const REPORT: &str = "report.html";

impl Stage {
    fn new(kind: Kind, subject: &str, place: PathBuf) -> Self {
        Self {
            name: if subject.is_empty() { kind.to_string() } else { format!("{kind}:{subject}") },
            kind,
            settings: Value::Null,
            files: BTreeMap::new(),
            uses: Vec::new(),
            asks: None,
            is_judged: false,
            place,
            outputs: Vec::new(),
            stdout: None,
            args: Vec::new(),
        }
    }

    /// Adds what the model itself is to what decides: files of the base, the outputs of a variant's training.
    fn depend_on(&mut self, model: &Model) {
        if model.name == BASE {
            self.files.insert("base.model".into(), vec![model.dir.clone()]);
            self.files.extend(model.template.clone().map(|template| ("base.chat_template".into(), vec![template])));
        } else {
            let under = Path::new(&model.name).join(MODEL_DIR);
            self.uses.push(Use { stage: format!("{}:{}", Kind::Train, model.name), under });
        }
    }

    fn add_files(&mut self, files: Vec<(String, PathBuf)>) {
        for (key, path) in files {
            self.files.entry(key).or_default().push(path);
        }
    }
}

/// Where the recipe of a variant is written.
pub fn recipe_path(pipeline: &Pipeline, variant: &str) -> PathBuf {
    pipeline.out.join(format!("{variant}.toml"))
}

/// Keys of a recipe that do not change what comes out.
const HOW: [&str; 3] = ["save_steps", "save_total_limit", "tensorboard"];

fn train(pipeline: &Pipeline, variant: &str, recipe: &Recipe) -> Result<Stage> {
    let mut stage = Stage::new(Kind::Train, variant, variant.into());
    let Value::Object(mut settings) = serde_json::to_value(recipe)? else { unreachable!("a recipe is a table") };
    // Where things lie is not what they are: files count by their content.
    settings.retain(|key, _| !["output_dir", "model"].contains(&key.as_str()));
    if let Some(Value::Object(training)) = settings.get_mut("training") {
        training.retain(|key, _| !HOW.contains(&key.as_str()));
    }
    if let Some(Value::Object(data)) = settings.get_mut("data") {
        data.remove("chat_template");
        for (key, sources) in [("train", Some(&recipe.data.train)), ("validation", recipe.data.validation.as_ref())] {
            let Some(sources) = sources else { continue };
            let how = |source| {
                let Ok(Value::Object(mut source)) = serde_json::to_value(source) else { unreachable!("a table") };
                source.remove("source");
                Value::Object(source)
            };
            data.insert(key.into(), sources.0.iter().map(how).collect());
            let mut files = Vec::new();
            for source in &sources.0 {
                files.extend(source.files()?);
            }
            stage.files.insert(format!("data.{key}"), files);
        }
    }
    if let Some(lora) = settings.get_mut("lora").and_then(Value::as_object_mut) {
        lora.remove("adapter");
    }
    if let Some(adapter) = recipe.lora.as_ref().and_then(|lora| lora.adapter.clone()) {
        stage.files.insert("lora.adapter".into(), vec![adapter]);
    }
    stage.depend_on(&Model::of(pipeline, BASE)?);
    stage.settings = settings.into();
    stage.outputs = within(Path::new(variant), &[MODEL_DIR, "metrics.jsonl"]);
    stage.args = vec!["train".into(), "run".into(), recipe_path(pipeline, variant).into(), "--resume".into()];
    Ok(stage)
}

fn score(pipeline: &Pipeline, model: &Model, test: &Path) -> Stage {
    let place = Path::new("eval").join(&model.name).join("score.json");
    let mut stage = Stage::new(Kind::Score, &model.name, place.clone());
    stage.depend_on(model);
    stage.files.insert("data.test".into(), vec![test.to_path_buf()]);
    stage.args = vec!["train".into(), "score".into()];
    stage.args.extend(model.flags());
    stage.args.extend(["--data".into(), test.into()]);
    // The base is read as the first variant reads its data. Whatever loss a variant has, all are compared by ORPO's.
    let own = pipeline.recipes.get_key_value(&model.name);
    let (variant, recipe) = own.or(pipeline.recipes.first_key_value()).expect("the file was checked to have a variant");
    let path = recipe_path(pipeline, variant);
    stage.args.extend(["--recipe".into(), path.into(), "--objective".into(), "orpo".into()]);
    let beta = own.map_or(BASE_BETA, |(_, recipe)| recipe.training.beta);
    stage.args.extend(["--beta".into(), beta.to_string().into()]);
    stage.settings = reading(recipe);
    stage.settings["training"]["beta"] = beta.into();
    stage.outputs = vec![place.clone()];
    stage.stdout = Some(place);
    stage
}

/// The weight of the odds-ratio term in the loss of the base model, which is trained with none.
const BASE_BETA: f64 = 0.1;

/// What of a recipe decides how pairs are read and scored.
fn reading(recipe: &Recipe) -> Value {
    let mut settings = json!(recipe);
    if let Some(data) = settings["data"].as_object_mut() {
        data.retain(|key, _| !["train", "validation", "chat_template"].contains(&key.as_str()));
    }
    let sources: Vec<Value> = recipe.data.train.0.iter().map(|source| json!([source.format, source.columns])).collect();
    let training = ["nll", "batch_size", "max_tokens_per_batch"].map(|key| (key, settings["training"][key].clone()));
    json!({"data": settings["data"], "sources": sources, "training": Map::from_iter(training.map(|(k, v)| (k.into(), v)))})
}

/// An evaluation of a model over HTTP.
struct Task<'a> {
    kind: Kind,
    section: &'a Section,
    table: &'a toml::Table,
}

impl<'a> Task<'a> {
    fn new(kind: Kind, section: &'a Section, table: &'a toml::Table) -> Self {
        Self { kind, section, table }
    }

    fn stage(&self, pipeline: &Pipeline, model: &Model) -> Stage {
        let Self { kind, section, table } = self;
        let place = Path::new("eval").join(&model.name).join(kind.to_string());
        let mut stage = Stage::new(*kind, &model.name, place);
        stage.depend_on(model);
        stage.add_files(section.files(table));
        let mut settings = Map::new();
        settings.insert(section.name.into(), section.settings(table).into());
        settings.insert(SERVE.name.into(), SERVE.settings(&pipeline.serve).into());
        stage.settings = settings.into();
        stage.args = vec!["eval".into(), kind.to_string().into(), "--model".into(), (&model.name).into()];
        stage.args.extend(["--out".into(), pipeline.out.join(&stage.place).into()]);
        stage.args.extend(section.flags(table));
        stage.asks = Some(model.name.clone());
        stage
    }
}

/// Lets a stage ask the judge of the pipeline.
fn ask_judge(pipeline: &Pipeline, stage: &mut Stage) {
    let Some(judge) = &pipeline.judge else { unreachable!("the file was checked to have one") };
    stage.is_judged = true;
    stage.settings[JUDGE.name] = JUDGE.settings(judge).into();
    stage.args.extend(JUDGE.flags(judge));
    // The file names prices only with the most that may be spent: that is the agreement.
    stage.args.push("--yes".into());
}

fn comparison(pipeline: &Pipeline, compare: &Compare, [a, b]: &[String; 2]) -> Stage {
    let place = Path::new("compare").join(format!("{a}-vs-{b}"));
    let mut stage = Stage::new(Kind::Compare, &format!("{a}-{b}"), place.clone());
    let by_model = compare.judge == Decider::Model;
    let (kind, file) = match &pipeline.alpaca {
        Some(_) if by_model => (Kind::Alpaca, "model_outputs.json"),
        _ => (Kind::Ifeval, "samples.jsonl"),
    };
    stage.args = vec!["eval".into(), "compare".into()];
    for name in [a, b] {
        let answers = Path::new("eval").join(name).join(kind.to_string()).join(file);
        stage.args.push(pipeline.out.join(&answers).into());
        stage.uses.push(Use { stage: format!("{kind}:{name}"), under: answers });
    }
    stage.args.extend(["--out".into(), pipeline.out.join(&place).into()]);
    let mut settings = COMPARE.settings(&compare.options);
    settings.insert("judge".into(), if by_model { "model" } else { "checklist" }.into());
    stage.settings = json!({ (COMPARE.name): settings });
    stage.add_files(COMPARE.files(&compare.options));
    stage.args.extend(COMPARE.flags(&compare.options));
    if by_model {
        ask_judge(pipeline, &mut stage);
    } else {
        stage.args.extend(["--judge".into(), "checklist".into()]);
    }
    stage.outputs = within(&place, &["results.json", "samples.jsonl"]);
    stage
}

fn within(place: &Path, names: &[&str]) -> Vec<PathBuf> {
    names.iter().map(|name| place.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stages_of(text: &str) -> Vec<Stage> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let text = format!("out = \"/run\"\n[base]\nmodel = \"/m\"\n[data]\ntrain = \"t.jsonl\"\n{text}");
        std::fs::write(&path, text).unwrap();
        std::fs::write(dir.path().join("t.jsonl"), "").unwrap();
        stages(&Pipeline::load(&path).unwrap()).unwrap()
    }

    fn by_name<'a>(stages: &'a [Stage], name: &str) -> &'a Stage {
        stages.iter().find(|stage| stage.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    const ALL: &str = "test = \"/test.jsonl\"\n[training]\nbeta = 0.5\nsave_steps = 3\n[variants.orpo]\n\
                       [variants.sft.training]\nbeta = 0.0\n[serve]\nquantize = \"q8_0\"\nmax_queue = 3\n\
                       [ifeval]\ndata = \"/p.jsonl\"\n[judge]\nendpoint = \"http://h\"\nmodel = \"j\"\nrpm = 5\n\
                       [alpaca]\nreference = \"/r.json\"\n[mt_bench]\nquestions = \"official\"\n[compare]\n";

    #[test]
    fn the_order_is_that_of_need_with_neighbours_by_model() {
        let stages = stages_of(ALL);
        let names: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
        let mut expected = vec!["train:orpo".to_owned(), "train:sft".into()];
        for model in ["base", "orpo", "sft"] {
            expected.extend(["score", "ifeval", "alpaca", "mt-bench"].map(|kind| format!("{kind}:{model}")));
        }
        expected.extend(["compare:orpo-base", "compare:sft-base", "compare:orpo-sft", "report"].map(String::from));
        assert_eq!(names, expected);
        for (index, stage) in stages.iter().enumerate() {
            for used in &stage.uses {
                assert!(names[..index].contains(&used.stage.as_str()), "{} before {}", used.stage, stage.name);
            }
        }
    }

    #[test]
    fn without_sections_there_is_training_and_the_report() {
        let names: Vec<String> = stages_of("").into_iter().map(|stage| stage.name).collect();
        assert_eq!(names, ["train:orpo", "report"]);
    }

    #[test]
    fn what_decides_is_told_from_what_does_not() {
        let stages = stages_of(ALL);
        let train = by_name(&stages, "train:sft");
        assert_eq!((&train.settings["training"]["beta"], &train.settings["seed"]), (&json!(0.0), &json!(42)));
        assert!(train.files["data.train"].len() == 1 && train.files["data.train"][0].ends_with("t.jsonl"));
        assert_eq!(train.files["base.model"], [Path::new("/m")]);

        let alpaca = by_name(&stages, "alpaca:orpo");
        assert_eq!(alpaca.settings["serve"], json!({"quantize": "q8_0"}));
        assert_eq!(alpaca.settings["judge"], json!({"model": "j"}));
        assert_eq!(alpaca.files.keys().collect::<Vec<_>>(), ["alpaca.reference"]);
        assert_eq!(alpaca.uses, [Use { stage: "train:orpo".into(), under: "orpo/model".into() }]);
        assert!(alpaca.is_judged && alpaca.args.contains(&"--rpm=5".into()) && alpaca.args.contains(&"--yes".into()));

        let base = by_name(&stages, "ifeval:base");
        assert!(base.uses.is_empty() && base.files.contains_key("base.model") && !base.is_judged);
        let compare = by_name(&stages, "compare:orpo-sft");
        let samples = |name: &str| Use {
            stage: format!("ifeval:{name}"),
            under: format!("eval/{name}/ifeval/samples.jsonl").into(),
        };
        assert_eq!((compare.uses.as_slice(), compare.asks.as_ref()), (&[samples("orpo"), samples("sft")][..], None));
        assert!(compare.args.contains(&"checklist".into()) && compare.args.contains(&"--data=/p.jsonl".into()));
    }

    #[test]
    fn a_judge_compares_the_answers_to_alpaca_where_there_are_any() {
        let stages = stages_of(&ALL.replace("[compare]", "[compare]\njudge = \"model\""));
        let compare = by_name(&stages, "compare:orpo-base");
        assert_eq!(compare.uses[0].under, Path::new("eval/orpo/alpaca/model_outputs.json"));
        assert!(compare.is_judged && !compare.args.contains(&"checklist".into()));
    }

    #[test]
    fn a_server_is_told_what_to_serve_and_how() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        let text = "out = \"/run\"\n[base]\nmodel = \"/m\"\nchat_template = \"/c\"\n[data]\ntrain = \"/t\"\n[serve]\nengine = \"native\"\n";
        std::fs::write(&path, text).unwrap();
        let pipeline = Pipeline::load(&path).unwrap();
        let line = |name: &str| {
            let args = Model::of(&pipeline, name).unwrap().serve_args(&pipeline, 0);
            args.iter().map(|arg| arg.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(
            line("base"),
            "serve --model /m --chat-template /c --served-model-name base --port 0 --engine=native"
        );
        assert_eq!(line("orpo"), "serve --model /run/orpo/model --served-model-name orpo --port 0 --engine=native");
    }
}
