//! The pipeline file: what is to be made of which model and data, and how it is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use orpo_eval::jsonl;
use orpo_train::hub;
use orpo_train::recipe::Recipe;
use serde::Deserialize;
use serde_json::Value;
use toml::Table;

use super::options::{ALPACA, COMPARE, IFEVAL, JUDGE, MT_BENCH, SERVE};
use crate::shell;

/// The name of the model that training starts from.
pub const BASE: &str = "base";
/// The name of the only variant where the file names none.
pub const ORPO: &str = "orpo";
/// The variant that `orpo` is compared with, too.
const SFT: &str = "sft";
/// Names in a pipeline's directory, or in its summary, that no variant can have.
const RESERVED: [&str; 11] =
    [BASE, "eval", "compare", "logs", "stages", "data", "tokenizer", "pipeline", "report", "out", "seconds"];

/// The keys that are no flags of another program: section, name, meaning, default.
pub const OWN_KEYS: [(&str, &str, &str, &str); 14] = [
    ("", "out", "Directory where everything is written", "required"),
    ("", "seed", "Seed of the data order, in every variant", "42"),
    ("base", "model", "Model to start from: a Hugging Face directory, or `hub:owner/name[@revision]`", "required"),
    ("base", "chat_template", "File with a chat template (jinja) that replaces the model's, or that it lacks", ""),
    ("data", "train", "Training pairs, and any other key of `[data]` in a recipe but `chat_template`", "required"),
    ("data", "test", "Held-out pairs: preference accuracy and log odds of every model", "not scored"),
    ("training", "KEY", "Any key of `[training]` in a recipe, for every variant", ""),
    (
        "lora",
        "KEY",
        "Any key of `[lora]` in a recipe, for every variant; its adapters are merged",
        "all weights are trained",
    ),
    ("variants", "NAME.training, NAME.lora", "Keys in which the variant NAME differs", "one variant, `orpo`"),
    ("ifeval", "max_tokens", "Most tokens of a response", "256"),
    (
        "compare",
        "judge",
        "Who decides: `checklist` (the prompts' verifiable instructions) or `model` (the judge)",
        "checklist",
    ),
    (
        "compare",
        "pairs",
        "Which models are compared, as in `[[\"orpo\", \"base\"]]`",
        "each variant with the base, orpo with sft",
    ),
    ("report", "enabled", "Whether report.html is written", "true"),
    ("report", "title", "Heading of the report", ""),
];

/// A pipeline. All paths are absolute; in the file they are relative to its directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// The file.
    pub path: PathBuf,
    /// What it says, for the manifest.
    pub source: Value,
    /// Where everything is written.
    pub out: PathBuf,
    /// The model to start from: a directory, or an id of the hub.
    pub base_model: PathBuf,
    /// A chat template that replaces the model's, or that it lacks.
    pub chat_template: Option<PathBuf>,
    /// Held-out pairs, scored before and after.
    pub test: Option<PathBuf>,
    /// The recipe of every variant, by its name.
    pub recipes: BTreeMap<String, Recipe>,
    /// `[serve]`.
    pub serve: Table,
    /// `[ifeval]`.
    pub ifeval: Option<Table>,
    /// `[judge]`.
    pub judge: Option<Table>,
    /// `[alpaca]`.
    pub alpaca: Option<Table>,
    /// `[mt_bench]`.
    pub mt_bench: Option<Table>,
    /// `[compare]`.
    pub compare: Option<Compare>,
    /// The title of the report; none where there is to be no report.
    pub report: Option<Report>,
}

/// `[compare]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Compare {
    /// Who decides.
    pub judge: Decider,
    /// Which models are compared: the first with the second.
    pub pairs: Vec<[String; 2]>,
    /// The other keys.
    pub options: Table,
}

/// Who decides which of two answers is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decider {
    /// The verifiable instructions of the prompts.
    #[default]
    Checklist,
    /// The judge.
    Model,
}

/// `[report]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its title.
    pub title: Option<String>,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    /// Where everything is written.
    out: PathBuf,
    /// Seed of the data order. Default 42.
    #[serde(default = "default_seed")]
    seed: i64,
    base: Base,
    /// As `[data]` of a recipe, and `test`.
    data: Table,
    /// As `[training]` of a recipe, for every variant.
    #[serde(default)]
    training: Table,
    /// As `[lora]` of a recipe, for every variant.
    lora: Option<Table>,
    /// What a variant has different.
    #[serde(default)]
    variants: BTreeMap<String, Variant>,
    #[serde(default)]
    serve: Table,
    ifeval: Option<Table>,
    judge: Option<Table>,
    alpaca: Option<Table>,
    mt_bench: Option<Table>,
    compare: Option<Table>,
    #[serde(default)]
    report: WrittenReport,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    /// A Hugging Face checkpoint directory, or `hub:owner/name`.
    model: PathBuf,
    /// A chat template that replaces the model's, or that it lacks.
    chat_template: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Variant {
    #[serde(default)]
    training: Table,
    lora: Option<Table>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct WrittenReport {
    enabled: bool,
    title: Option<String>,
}

impl Default for WrittenReport {
    fn default() -> Self {
        Self { enabled: true, title: None }
    }
}

fn default_seed() -> i64 {
    42
}

/// Checks that a directory can be where everything is written.
///
/// # Errors
/// When it, or what it is said to lie in, is a file.
pub fn check_out(out: &Path) -> Result<()> {
    match out.ancestors().find(|path| path.is_file()) {
        Some(file) => bail!("`{}` is a file, and results need a directory", file.display()),
        None => Ok(()),
    }
}

impl Pipeline {
    /// Reads a pipeline file, resolves its paths and checks all its values.
    ///
    /// # Errors
    /// With file and key: unreadable, not TOML, an unknown or missing key, a value out of range.
    pub fn load(path: &Path) -> Result<Self> {
        let text = jsonl::read_text(path)?;
        let absolute = std::path::absolute(path).with_context(|| format!("`{}`", path.display()))?;
        Self::parse(&absolute, &text).with_context(|| format!("`{}`", path.display()))
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let wrong = |error: toml::de::Error| anyhow!("{}", error.to_string().trim_end());
        let source: Value = toml::from_str(text).map_err(wrong)?;
        ensure!(
            source.get("base").is_some() || source.get("output_dir").is_none(),
            "this is a recipe for one training run, not a pipeline: run it with `{} train run {}`",
            shell::program(),
            orpo_files::quoted(&shell::shown(path, &shell::here()))
        );
        let written: Written = toml::from_str(text).map_err(wrong)?;
        let dir = path.parent().unwrap_or(Path::new("/"));
        let Written { out, base, mut data, variants, mut serve, .. } = written;
        ensure!(!out.starts_with("~"), "out: `~` stands for nothing here; write the whole path");
        // Without the dots that it may be written with.
        let out: PathBuf = dir.join(out).components().collect();
        check_out(&out)?;
        let test = data.remove("test").map(|test| test.as_str().map(|test| dir.join(test)));
        let test = test.map(|test| test.context("[data] test: a path is needed")).transpose()?;
        ensure!(!data.contains_key("chat_template"), "the chat template is a key of [base], not of [data]");
        let base_model = if hub::is_id(&base.model) { base.model } else { dir.join(base.model) };
        let chat_template = base.chat_template.map(|template| dir.join(template));
        if let Some(template) = &chat_template {
            data.insert("chat_template".into(), text_of(template)?);
        }
        let variants = if variants.is_empty() { BTreeMap::from([(ORPO.into(), Variant::default())]) } else { variants };
        let mut recipes = BTreeMap::new();
        for (name, variant) in variants {
            check_name(&name)?;
            let mut recipe = Table::new();
            recipe.insert("output_dir".into(), text_of(&out.join(&name))?);
            recipe.insert("seed".into(), written.seed.into());
            recipe.insert("model".into(), Table::from_iter([("path".to_owned(), text_of(&base_model)?)]).into());
            recipe.insert("data".into(), data.clone().into());
            recipe.insert("training".into(), merged(written.training.clone(), variant.training).into());
            if written.lora.is_some() || variant.lora.is_some() {
                let lora = merged(written.lora.clone().unwrap_or_default(), variant.lora.unwrap_or_default());
                recipe.insert("lora".into(), lora.into());
                // What is served and measured is a whole model.
                recipe.insert("export".into(), Table::from_iter([("merge".to_owned(), true.into())]).into());
            }
            let recipe = Recipe::from_table(path, recipe).with_context(|| format!("variant `{name}`"))?;
            recipes.insert(name, recipe);
        }
        SERVE.resolve(&mut serve, dir)?;
        let mut pipeline = Self {
            path: path.to_path_buf(),
            source,
            out,
            base_model,
            chat_template,
            test,
            recipes,
            serve,
            ifeval: written.ifeval,
            judge: written.judge,
            alpaca: written.alpaca,
            mt_bench: written.mt_bench,
            compare: None,
            report: written.report.enabled.then_some(Report { title: written.report.title }),
        };
        let sections = [
            (&IFEVAL, &mut pipeline.ifeval),
            (&JUDGE, &mut pipeline.judge),
            (&ALPACA, &mut pipeline.alpaca),
            (&MT_BENCH, &mut pipeline.mt_bench),
        ];
        for (section, table) in sections {
            table.as_mut().map_or(Ok(()), |table| section.resolve(table, dir))?;
        }
        if let Some(ifeval) = &mut pipeline.ifeval {
            ifeval.entry("max_tokens").or_insert(256.into());
        }
        pipeline.compare = written.compare.map(|table| pipeline.read_compare(table, dir)).transpose()?;
        pipeline.check_judge()?;
        Ok(pipeline)
    }

    /// The models that are measured: the base, then the variants.
    pub fn models(&self) -> Vec<&str> {
        std::iter::once(BASE).chain(self.recipes.keys().map(String::as_str)).collect()
    }

    fn read_compare(&self, mut options: Table, dir: &Path) -> Result<Compare> {
        let judge = match options.remove("judge") {
            Some(value) => {
                value.try_into().map_err(|_| anyhow!("[compare] judge: \"checklist\" or \"model\" is needed"))?
            }
            None => Decider::default(),
        };
        let models = self.models();
        let pairs: Vec<[String; 2]> = match options.remove("pairs") {
            Some(value) => value
                .try_into()
                .map_err(|_| anyhow!("[compare] pairs: a list like [[\"orpo\", \"base\"]] is needed"))?,
            None => {
                let mut pairs: Vec<[String; 2]> = self.recipes.keys().map(|name| [name.clone(), BASE.into()]).collect();
                if [ORPO, SFT].iter().all(|name| self.recipes.contains_key(*name)) {
                    pairs.push([ORPO.into(), SFT.into()]);
                }
                pairs
            }
        };
        for [a, b] in &pairs {
            for name in [a, b] {
                ensure!(models.contains(&name.as_str()), "[compare] pairs: there is no model `{name}`");
            }
            ensure!(a != b, "[compare] pairs: `{a}` cannot be compared with itself");
        }
        COMPARE.resolve(&mut options, dir)?;
        match judge {
            Decider::Checklist => {
                ensure!(self.ifeval.is_some(), "[compare] by checklist needs [ifeval], whose answers it compares");
                for key in ["annotator_config", "judge_prompts", "judge_repeats"] {
                    ensure!(!options.contains_key(key), "[compare] {key} is for judge = \"model\"");
                }
                if let Some(data) = self.ifeval.as_ref().and_then(|ifeval| ifeval.get("data")) {
                    options.entry("data").or_insert(data.clone());
                }
            }
            Decider::Model => {
                let answers = self.alpaca.is_some() || self.ifeval.is_some();
                ensure!(answers, "[compare] needs [alpaca] or [ifeval], whose answers it compares");
                ensure!(!options.contains_key("data"), "[compare] data is for judge = \"checklist\"");
            }
        }
        Ok(Compare { judge, pairs, options })
    }

    fn check_judge(&self) -> Result<()> {
        let compared = self.compare.as_ref().filter(|compare| compare.judge == Decider::Model);
        let needing = [
            ("alpaca", self.alpaca.as_ref().map(|alpaca| alpaca.contains_key("annotator_config"))),
            ("mt_bench", self.mt_bench.as_ref().map(|_| false)),
            ("compare", compared.map(|compare| compare.options.contains_key("annotator_config"))),
        ];
        for (name, names_model) in needing {
            let Some(names_model) = names_model else { continue };
            let Some(judge) = &self.judge else { bail!("[{name}] needs a [judge] with an endpoint and a model") };
            ensure!(judge.contains_key("endpoint"), "[judge] needs an `endpoint`");
            ensure!(names_model || judge.contains_key("model"), "[judge] needs a `model`: [{name}] names none");
        }
        if let Some(judge) = &self.judge {
            ensure!(
                !judge.contains_key("price_in") || judge.contains_key("max_cost"),
                "[judge] has prices but no `max_cost`: say in it how many US dollars a stage may cost at most"
            );
        }
        Ok(())
    }
}

fn check_name(name: &str) -> Result<()> {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) && !name.starts_with(['.', '-']);
    ensure!(plain && !name.is_empty(), "a variant's name has letters, digits, `-`, `_` and `.`; `{name}` has others");
    ensure!(!RESERVED.contains(&name), "a variant cannot be called `{name}`: that name means something else here");
    Ok(())
}

/// A path as a TOML value.
fn text_of(path: &Path) -> Result<toml::Value> {
    let text = path.to_str().with_context(|| format!("`{}` is not UTF-8", path.display()))?;
    Ok(text.into())
}

/// `table` with the keys of `over` in the place of its own, table by table.
fn merged(mut table: Table, over: Table) -> Table {
    for (key, value) in over {
        let value = match (table.remove(&key), value) {
            (Some(toml::Value::Table(under)), toml::Value::Table(over)) => merged(under, over).into(),
            (_, value) => value,
        };
        table.insert(key, value);
    }
    table
}

/// What the parser of every section takes, as it tells when it meets a key that it does not know.
#[cfg(test)]
pub fn known_keys() -> Vec<(&'static str, Vec<String>)> {
    fn of<T: serde::de::DeserializeOwned>(section: &'static str) -> (&'static str, Vec<String>) {
        let Err(error) = toml::from_str::<T>("unknown = 1") else { panic!("[{section}] takes any key") };
        let message = error.message().to_owned();
        (section, message.split('`').skip(3).step_by(2).map(str::to_owned).collect())
    }
    vec![of::<Written>(""), of::<Base>("base"), of::<Variant>("variants"), of::<WrittenReport>("report")]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const MINIMAL: &str = "out = \"run\"\n[base]\nmodel = \"m\"\n[data]\ntrain = \"t.jsonl\"\n";

    fn parse(more: &str) -> Result<Pipeline, String> {
        Pipeline::parse(Path::new("/dir/p.toml"), &format!("{MINIMAL}{more}")).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let pipeline = parse("test = \"/x.jsonl\"\n[ifeval]\ndata = \"p.jsonl\"\n").unwrap();
        assert_eq!(pipeline.out, Path::new("/dir/run"));
        assert_eq!(pipeline.base_model, Path::new("/dir/m"));
        assert_eq!(pipeline.test.as_deref(), Some(Path::new("/x.jsonl")));
        let recipe = &pipeline.recipes["orpo"];
        assert_eq!(recipe.data.train, Path::new("/dir/t.jsonl").into());
        assert_eq!(recipe.output_dir, Path::new("/dir/run/orpo"));
        let ifeval = pipeline.ifeval.unwrap();
        assert_eq!(ifeval["data"].as_str(), Some("/dir/p.jsonl"));
        assert_eq!(ifeval["max_tokens"].as_integer(), Some(256));
        let hub = parse("").unwrap().base_model;
        assert_eq!(hub, Path::new("/dir/m"));
    }

    #[test]
    fn variants_override_what_they_share() {
        let pipeline = parse(
            "[training]\nbeta = 0.5\nepochs = 2\nlr_scheduler_type = \"cosine_with_min_lr\"\n\
             [training.lr_scheduler_kwargs]\nmin_lr_rate = 0.1\n[variants.sft.training]\nbeta = 0.0\n\
             [variants.orpo.lora]\nr = 4\n",
        )
        .unwrap();
        assert_eq!(pipeline.models(), ["base", "orpo", "sft"]);
        let of = |name: &str| (&pipeline.recipes[name].training, pipeline.recipes[name].lora.as_ref());
        assert_eq!((of("sft").0.beta, of("sft").0.epochs, of("sft").1), (0.0, 2, None));
        assert_eq!((of("orpo").0.beta, of("orpo").1.map(|lora| lora.r)), (0.5, Some(4)));
        assert!(pipeline.recipes["orpo"].export.merge && !pipeline.recipes["sft"].export.merge);
        let nested = merged(toml::from_str("[a]\nx = 1\ny = 1").unwrap(), toml::from_str("b = 3\n[a]\ny = 2").unwrap());
        assert_eq!(nested, toml::from_str("b = 3\n[a]\nx = 1\ny = 2").unwrap());
    }

    #[test]
    fn pairs_are_every_variant_against_the_base_and_orpo_against_sft() {
        let both = "[variants.orpo]\n[variants.sft.training]\nbeta = 0.0\n[ifeval]\ndata = \"p\"\n[compare]\n";
        let compare = parse(both).unwrap().compare.unwrap();
        let pairs: Vec<[&str; 2]> = compare.pairs.iter().map(|pair| pair.each_ref().map(String::as_str)).collect();
        assert_eq!(pairs, [["orpo", "base"], ["sft", "base"], ["orpo", "sft"]]);
        // The checklist is that of the prompts that were asked.
        assert_eq!(compare.options["data"].as_str(), Some("/dir/p"));
        let named = parse(&format!("{both}pairs = [[\"sft\", \"orpo\"]]\n")).unwrap().compare.unwrap();
        assert_eq!(named.pairs, [["sft".to_owned(), "orpo".to_owned()]]);
    }

    #[test]
    fn the_report_is_on_unless_it_is_switched_off() {
        assert_eq!(parse("").unwrap().report, Some(Report { title: None }));
        assert_eq!(parse("[report]\ntitle = \"T\"\n").unwrap().report, Some(Report { title: Some("T".into()) }));
        assert_eq!(parse("[report]\nenabled = false\n").unwrap().report, None);
    }

    #[test]
    fn a_recipe_is_told_from_a_pipeline() {
        let recipe = "output_dir = \"o\"\n[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n";
        let error = Pipeline::parse(Path::new("/dir/my r.toml"), recipe).unwrap_err().to_string();
        assert!(error.contains("train run '/dir/my r.toml'"), "{error}");
    }

    #[test]
    fn a_file_of_another_encoding_and_an_impossible_directory_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p.toml");
        let message = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            format!("{:#}", Pipeline::load(&path).unwrap_err())
        };
        let utf16: Vec<u8> = MINIMAL.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let message_of_utf16 = message(&utf16);
        assert!(message_of_utf16.contains("UTF-16") && message_of_utf16.contains("iconv"), "{message_of_utf16}");
        assert!(
            message(b"# \xfcber\n").ends_with("p.toml:1: invalid UTF-8 at byte 3 of the line; save the file as UTF-8")
        );
        let with = |out: &str| MINIMAL.replace("\"run\"", out);
        assert!(message(with("\"p.toml/x\"").as_bytes()).ends_with("p.toml` is a file, and results need a directory"));
        assert!(
            message(with("\"~/x\"").as_bytes()).ends_with("out: `~` stands for nothing here; write the whole path")
        );
    }

    #[test]
    fn a_byte_order_mark_and_windows_line_ends_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p.toml");
        fs::write(&path, format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"))).unwrap();
        assert_eq!(Pipeline::load(&path).unwrap().out, dir.path().join("run"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (more, words) in [
            ("[ifeval]\nlimitt = 3\n", &["[ifeval]", "`limitt`"][..]),
            ("[judgee]\n", &["judgee"]),
            ("[training]\nlearning_rat = 1.0\n", &["learning_rat", "did you mean"]),
            ("[variants.sft.training]\nbeta = -1\n", &["`sft`", "training.beta"]),
            ("[variants.eval.training]\n", &["`eval`"]),
            ("[variants.\"a/b\".training]\n", &["`a/b`"]),
            ("[variants.a.data]\n", &["data"]),
            ("[alpaca]\nreference = \"r\"\n", &["[alpaca]", "[judge]"]),
            ("[mt_bench]\n[judge]\nendpoint = \"http://h\"\n", &["[judge]", "`model`"]),
            ("[judge]\nendpoint = \"http://h\"\nprice_in = 1\nprice_out = 1\n", &["max_cost"]),
            ("[compare]\n", &["[ifeval]"]),
            ("[ifeval]\n[compare]\npairs = [[\"orpo\", \"dpo\"]]\n", &["`dpo`"]),
            ("[ifeval]\n[compare]\njudge = \"coin\"\n", &["checklist", "model"]),
            ("chat_template = \"c\"\n", &["[base]"]),
        ] {
            let error = parse(more).unwrap_err();
            for word in words {
                assert!(error.contains(word), "{more:?} does not say {word}: {error}");
            }
        }
    }
}
