//! The sections of a pipeline file that are options of `orpo eval` and `orpo serve`: every key is a flag of theirs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use serde_json::{Map, Value};
use toml::Table;

/// What a key means for the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It decides on what comes out.
    What,
    /// It decides on how long it takes, where it happens or what it may cost.
    How,
    /// A file or directory whose content decides, a list of such, or the word `official`.
    File,
    /// A file that does not decide.
    HowFile,
}

use Role::{File, How, HowFile, What};

/// A key, the flag that it stands for, and what it means.
type Key = (&'static str, &'static str, Role);

/// A section: its name, and its keys.
#[derive(Debug)]
pub struct Section {
    /// As in the file.
    pub name: &'static str,
    keys: &'static [&'static [Key]],
}

/// Published data that a program fetches by itself.
const OFFICIAL: &str = "official";

/// How a model's answers are got, in every task that asks for some.
const ANSWERS: [Key; 11] = [
    ("max_tokens", "--max-tokens", What),
    ("temperature", "--temperature", What),
    ("top_p", "--top-p", What),
    ("seed", "--seed", What),
    ("system", "--system", What),
    ("body", "--body", What),
    ("strip_reasoning", "--strip-reasoning", What),
    ("concurrency", "--concurrency", How),
    ("timeout_secs", "--timeout-secs", How),
    ("retries", "--retries", How),
    ("max_wait_secs", "--max-wait-secs", How),
];

/// `[serve]`: flags of `orpo serve`.
pub const SERVE: Section = Section {
    name: "serve",
    keys: &[&[
        ("quantize", "--quantize", What),
        ("engine", "--engine", What),
        ("max_concurrent", "--max-concurrent", What),
        ("kv_cache_bytes", "--kv-cache-bytes", How),
        ("max_queue", "--max-queue", How),
        ("request_timeout_secs", "--request-timeout-secs", How),
        ("max_body_bytes", "--max-body-bytes", How),
    ]],
};

/// `[ifeval]`: flags of `orpo eval ifeval`.
pub const IFEVAL: Section =
    Section { name: "ifeval", keys: &[&[("data", "--data", File), ("limit", "--limit", What)], &ANSWERS] };

/// `[alpaca]`: flags of `orpo eval alpaca`.
pub const ALPACA: Section = Section {
    name: "alpaca",
    keys: &[
        &[
            ("reference", "--reference", File),
            ("annotator_config", "--annotator-config", File),
            ("gamed", "--gamed", File),
            ("instruction_difficulty", "--instruction-difficulty", File),
            ("leaderboard", "--leaderboard", File),
            ("official_templating", "--official-templating", What),
            ("both_orders", "--both-orders", What),
            ("judge_verdict", "--judge-verdict", What),
            ("judge_samples", "--judge-samples", What),
            ("fold_layout", "--fold-layout", What),
            ("limit", "--limit", What),
            ("max_unscored", "--max-unscored", What),
        ],
        &ANSWERS,
    ],
};

/// `[mt_bench]`: flags of `orpo eval mt-bench`.
pub const MT_BENCH: Section = Section {
    name: "mt_bench",
    keys: &[
        &[
            ("questions", "--questions", File),
            ("reference_answers", "--reference-answers", File),
            ("judge_prompts", "--judge-prompts", File),
            ("answers", "--answers", File),
            ("mode", "--mode", What),
            ("baseline", "--baseline", What),
            ("official", "--official", What),
            ("limit", "--limit", What),
            ("max_unscored", "--max-unscored", What),
        ],
        &ANSWERS,
    ],
};

/// `[judge]`: the judge's flags of every task that has one.
pub const JUDGE: Section = Section {
    name: "judge",
    keys: &[&[
        ("endpoint", "--judge-endpoint", How),
        ("model", "--judge-model", What),
        ("body", "--judge-body", What),
        ("strip_reasoning", "--judge-strip-reasoning", What),
        ("retry_unscored", "--retry-unscored", How),
        ("api_key_env", "--judge-api-key-env", How),
        ("api_key_file", "--judge-api-key-file", HowFile),
        ("concurrency", "--judge-concurrency", How),
        ("timeout_secs", "--judge-timeout-secs", How),
        ("retries", "--judge-retries", How),
        ("rpm", "--rpm", How),
        ("tpm", "--tpm", How),
        ("price_in", "--price-in", How),
        ("price_out", "--price-out", How),
        ("max_cost", "--max-cost", How),
    ]],
};

/// `[compare]` without `judge` and `pairs`: flags of `orpo eval compare`.
pub const COMPARE: Section = Section {
    name: "compare",
    keys: &[&[
        ("data", "--data", File),
        ("annotator_config", "--annotator-config", File),
        ("judge_prompts", "--judge-prompts", File),
        ("judge_repeats", "--judge-repeats", What),
        ("judge_verdict", "--judge-verdict", What),
        ("judge_samples", "--judge-samples", What),
        ("bootstrap_seed", "--bootstrap-seed", What),
        ("limit", "--limit", What),
        ("max_unscored", "--max-unscored", What),
        ("strip_reasoning", "--strip-reasoning", What),
    ]],
};

impl Section {
    fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter().copied().flatten()
    }

    /// Every key with the flag that it stands for.
    pub fn flags_of_keys(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.keys().map(|(key, flag, _)| (*key, *flag))
    }

    /// Checks that every key is known and every value can be a flag's, and makes the paths relative to `dir`.
    ///
    /// # Errors
    /// With the key.
    pub fn resolve(&self, table: &mut Table, dir: &Path) -> Result<()> {
        for (key, value) in table.iter_mut() {
            let Some((_, _, role)) = self.keys().find(|(name, _, _)| name == key) else {
                let known: Vec<&str> = self.keys().map(|(name, _, _)| *name).collect();
                bail!("[{}] has no key `{key}`; its keys are {}", self.name, known.join(", "));
            };
            ensure!(
                words(value).is_some(),
                "[{}] {key}: a number, a text, true or a list of these is needed",
                self.name
            );
            if matches!(role, File | HowFile) {
                each_text(value, &mut |text| {
                    if text != OFFICIAL {
                        *text = dir.join(&*text).to_string_lossy().into_owned();
                    }
                });
            }
        }
        Ok(())
    }

    /// The flags that the table stands for, in the order of the section's keys.
    pub fn flags(&self, table: &Table) -> Vec<OsString> {
        let mut flags = Vec::new();
        for (key, flag, _) in self.keys() {
            match table.get(*key) {
                None | Some(toml::Value::Boolean(false)) => {}
                Some(toml::Value::Boolean(true)) => flags.push((*flag).into()),
                Some(value) => {
                    for word in words(value).expect("the table was checked") {
                        // In one piece, so that a value may begin with a dash.
                        flags.push(format!("{flag}={word}").into());
                    }
                }
            }
        }
        flags
    }

    /// What of the table decides on the result, but for the content of files.
    pub fn settings(&self, table: &Table) -> Map<String, Value> {
        let decides = |key: &str, value: &toml::Value| {
            let (_, _, role) = self.keys().find(|(name, _, _)| *name == key)?;
            let is_setting = *role == What || (*role == File && value.as_str() == Some(OFFICIAL));
            is_setting.then(|| serde_json::to_value(value).expect("numbers and texts are JSON"))
        };
        table.iter().filter_map(|(key, value)| Some((key.clone(), decides(key, value)?))).collect()
    }

    /// The files and directories that the table names and whose content decides, by `section.key`.
    pub fn files(&self, table: &Table) -> Vec<(String, PathBuf)> {
        let mut files = Vec::new();
        for (key, _, role) in self.keys() {
            let words = table.get(*key).filter(|_| *role == File).and_then(words).unwrap_or_default();
            let paths = words.into_iter().filter(|word| word != OFFICIAL);
            files.extend(paths.map(|path| (format!("{}.{key}", self.name), PathBuf::from(path))));
        }
        files
    }
}

/// The file that a key names, if it is none of the published ones.
pub fn file<'a>(table: &'a Table, key: &str) -> Option<&'a Path> {
    table.get(key)?.as_str().filter(|text| *text != OFFICIAL).map(Path::new)
}

/// Whether a key asks for the published data.
pub fn is_official(table: &Table, key: &str) -> bool {
    table.get(key).and_then(toml::Value::as_str) == Some(OFFICIAL)
}

/// A number that a section has, if it has it.
pub fn number(table: &Table, key: &str) -> Option<usize> {
    table.get(key)?.as_integer()?.try_into().ok()
}

/// A value as a command line has it: one word, or several; nothing for what cannot stand there.
fn words(value: &toml::Value) -> Option<Vec<String>> {
    Some(match value {
        toml::Value::String(text) => vec![text.clone()],
        toml::Value::Integer(number) => vec![number.to_string()],
        toml::Value::Float(number) => vec![number.to_string()],
        toml::Value::Boolean(value) => vec![value.to_string()],
        toml::Value::Array(list) => list.iter().map(words).collect::<Option<Vec<_>>>()?.concat(),
        toml::Value::Datetime(_) | toml::Value::Table(_) => return None,
    })
}

fn each_text(value: &mut toml::Value, change: &mut impl FnMut(&mut String)) {
    match value {
        toml::Value::String(text) => change(text),
        toml::Value::Array(list) => list.iter_mut().for_each(|value| each_text(value, change)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn table(text: &str) -> Table {
        let mut table: Table = toml::from_str(text).unwrap();
        MT_BENCH.resolve(&mut table, Path::new("/dir")).unwrap();
        table
    }

    #[test]
    fn keys_become_flags_settings_and_files() {
        let table = table(
            "questions = \"official\"\nanswers = [\"a.jsonl\", \"/b\"]\nofficial = true\nconcurrency = 2\n\
             system = \"--be brief\"\ntemperature = 0.5\n",
        );
        assert_eq!(
            MT_BENCH.flags(&table),
            [
                "--questions=official",
                "--answers=/dir/a.jsonl",
                "--answers=/b",
                "--official",
                "--temperature=0.5",
                "--system=--be brief",
                "--concurrency=2"
            ]
        );
        let settings = json!({"questions": "official", "official": true, "system": "--be brief", "temperature": 0.5});
        assert_eq!(Value::Object(MT_BENCH.settings(&table)), settings);
        let file = |path: &str| ("mt_bench.answers".to_owned(), PathBuf::from(path));
        assert_eq!(MT_BENCH.files(&table), [file("/dir/a.jsonl"), file("/b")]);
    }

    #[test]
    fn an_unknown_key_is_named_with_those_there_are() {
        let mut table: Table = toml::from_str("max_token = 3").unwrap();
        let error = IFEVAL.resolve(&mut table, Path::new("")).unwrap_err().to_string();
        assert!(error.contains("[ifeval] has no key `max_token`") && error.contains("max_tokens"), "{error}");
        let mut table: Table = toml::from_str("limit = {}").unwrap();
        assert!(IFEVAL.resolve(&mut table, Path::new("")).unwrap_err().to_string().contains("[ifeval] limit"));
    }
}
