//! All sources of a data set as token ids, with an account of every row.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use orpo_chat::ChatError;
use orpo_files::sha256_file;
use rayon::prelude::*;
use serde_json::json;

use super::read::{FileRows, Noticed, Selection, read_documents, read_preferences};
use super::{Dropped, Example, Mixture, Sources, Tokeniser};
use crate::error::TrainError;
use crate::terminal::counted;

/// The examples of one or several sources.
#[derive(Debug)]
pub struct Dataset {
    /// What can be used, file by file.
    pub examples: Vec<Example>,
    /// Where it came from.
    pub files: Vec<DataFile>,
    /// Which examples make an epoch.
    pub mixture: Mixture,
}

/// One file of a [`Dataset`] and what became of its rows.
#[derive(Debug, Clone, PartialEq)]
pub struct DataFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// How its rows were understood.
    pub layout: &'static str,
    /// What a row's number counts: `line` or `row`.
    pub unit: &'static str,
    /// How often each row is used per epoch.
    pub weight: f64,
    /// Its rows among the examples.
    pub examples: Range<usize>,
    /// The numbers of the rows that cannot be used, by reason.
    pub dropped: BTreeMap<Dropped, Vec<usize>>,
    /// True if rows of it are turns, which the chat template renders.
    pub is_templated: bool,
    /// What a user should know about its rows, one sentence each.
    pub notes: Vec<String>,
    /// What the template said to the first row that it refused.
    pub refusal: Option<String>,
}

impl Dataset {
    /// Reads and tokenises `sources`: documents for `objective = "sft"`, pairs otherwise. `defaults` is used where a source
    /// does not say otherwise.
    ///
    /// # Errors
    /// When a file cannot be read, a row is not what it should be, of a file no row can be used, or the weights leave an
    /// epoch without a row.
    pub fn load(
        sources: &Sources,
        defaults: &Selection,
        tokeniser: &Tokeniser<'_>,
        documents: bool,
    ) -> Result<Self, TrainError> {
        let mut dataset = Self { examples: Vec::new(), files: Vec::new(), mixture: Mixture::new(Vec::new()) };
        if documents && defaults.apply_chat_template {
            let reason =
                "`data.apply_chat_template` makes turns of pairs that are strings; a document is `messages` or `text`";
            return Err(TrainError::Refused(reason.into()));
        }
        let mut parts = Vec::new();
        for source in &sources.0 {
            let first = dataset.examples.len();
            let columns = if source.columns.is_empty() { &defaults.columns } else { &source.columns };
            let selection = Selection {
                format: source.format.or(defaults.format),
                columns: columns.clone(),
                field: source.field.clone(),
                ..defaults.clone()
            };
            for path in source.files()? {
                if documents {
                    let rows = read_documents(&path, &selection)?;
                    let notes = notes(&rows.noticed, tokeniser);
                    dataset.add(path, source.weight, rows, notes, |row, text| tokeniser.document(row, text))?;
                } else {
                    let rows = read_preferences(&path, &selection)?;
                    let notes = notes(&rows.noticed, tokeniser);
                    dataset.add(path, source.weight, rows, notes, |row, pair| tokeniser.pair(row, pair))?;
                }
            }
            parts.push((first..dataset.examples.len(), source.weight));
        }
        dataset.mixture = Mixture::new(parts);
        if dataset.mixture.epoch_len() == 0 {
            return Err(TrainError::Refused("the weights of the data leave an epoch without a row; raise one".into()));
        }
        Ok(dataset)
    }

    fn add<T: Sync>(
        &mut self,
        path: PathBuf,
        weight: f64,
        rows: FileRows<T>,
        notes: Vec<String>,
        tokenise: impl Fn(usize, &T) -> Result<Result<Example, Dropped>, TrainError> + Sync,
    ) -> Result<(), TrainError> {
        let mut dropped = rows.dropped();
        let mut refusal = None;
        let used: Vec<(usize, &T)> = rows.used().collect();
        let tokenised: Vec<_> = used.into_par_iter().map(|(row, content)| (row, tokenise(row, content))).collect();
        let first = self.examples.len();
        for (row, result) in tokenised {
            let reason = match result {
                Ok(Ok(example)) => {
                    self.examples.push(example);
                    continue;
                }
                Ok(Err(reason)) => reason,
                Err(TrainError::Chat(ChatError::Template(message))) => {
                    refusal.get_or_insert(message);
                    Dropped::TemplateRefused
                }
                Err(error @ TrainError::Refused(_)) => return Err(TrainError::row(&path, rows.unit, row, error)),
                Err(error) => return Err(error),
            };
            dropped.entry(reason).or_default().push(row);
        }
        let file = DataFile {
            sha256: sha256_file(&path)?,
            layout: rows.layout,
            unit: rows.unit,
            weight,
            examples: first..self.examples.len(),
            dropped,
            is_templated: rows.noticed.turns > 0,
            notes,
            refusal,
            path,
        };
        if file.examples.is_empty() {
            return Err(TrainError::invalid(&file.path, format!("no row can be used: {}", file.reasons())));
        }
        self.files.push(file);
        Ok(())
    }

    /// The examples as often as their weights say, in the order of the files: what an evaluation looks at.
    pub fn weighted(&self, seed: u64) -> Vec<usize> {
        let mut order = self.mixture.epoch(seed, 0);
        order.sort_unstable();
        order
    }

    /// Where an example came from: `train.jsonl line 7`.
    pub fn place(&self, example: usize) -> String {
        let file = self.files.iter().find(|file| file.examples.contains(&example)).expect("every example has a file");
        format!("`{}` {} {}", file.path.display(), file.unit, self.examples[example].line)
    }

    /// What was read, file by file, and what was left out.
    pub fn describe(&self) -> String {
        let lines: Vec<String> = self.files.iter().flat_map(DataFile::describe).collect();
        lines.join("\n")
    }

    /// Every row that is not used as a line of JSON: `{"source", "row", "reason"}`.
    pub fn dropped_lines(&self) -> String {
        let mut lines = String::new();
        for file in &self.files {
            let mut rows: Vec<(usize, Dropped)> = Vec::new();
            for (reason, numbers) in &file.dropped {
                rows.extend(numbers.iter().map(|number| (*number, *reason)));
            }
            rows.sort_unstable();
            for (row, reason) in rows {
                let line = json!({"source": file.path, "row": row, "reason": reason.to_string()});
                lines.push_str(&format!("{line}\n"));
            }
        }
        lines
    }
}

/// Places that are named on the terminal for each reason; all of them are in `dropped.jsonl`.
const LISTED: usize = 20;

impl DataFile {
    fn describe(&self) -> Vec<String> {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        let dropped: usize = self.dropped.values().map(Vec::len).sum();
        let rows = self.examples.len() + dropped;
        let weight = if self.weight == 1.0 { String::new() } else { format!(", weight {}", self.weight) };
        let mut lines = vec![format!("{name}: {}, layout {}{weight}", counted(rows, "row"), self.layout)];
        for (reason, numbers) in &self.dropped {
            let mut places: Vec<String> = numbers.iter().take(LISTED).map(usize::to_string).collect();
            if numbers.len() > LISTED {
                places.push(format!("and {} more", numbers.len() - LISTED));
            }
            let said = match (&self.refusal, reason) {
                (Some(message), Dropped::TemplateRefused) => format!(" (`{message}`)"),
                _ => String::new(),
            };
            let (count, unit) = (numbers.len(), self.unit);
            lines.push(format!("{name}: {count} dropped, {reason}{said}: {unit} {}", places.join(", ")));
        }
        lines.extend(self.notes.iter().map(|note| format!("{name}: {note}")));
        lines
    }

    fn reasons(&self) -> String {
        let counts: Vec<String> =
            self.dropped.iter().map(|(reason, numbers)| format!("{} x {reason}", numbers.len())).collect();
        match &self.refusal {
            Some(message) => format!("{} (`{message}`)", counts.join(", ")),
            None => counts.join(", "),
        }
    }
}

/// What a user should know about the rows of a file that `tokeniser` makes tokens of.
fn notes(noticed: &Noticed, tokeniser: &Tokeniser<'_>) -> Vec<String> {
    let Noticed { with_tools, with_system, strings, repeated_prompts, one_thinks, reasoning, unused, .. } = noticed;
    let mut notes = Vec::new();
    if !unused.is_empty() {
        let names: Vec<String> = unused.iter().map(|name| format!("`{name}`")).collect();
        notes.push(format!("columns that are not used: {}", names.join(", ")));
    }
    if *with_system > 0 && tokeniser.drops_system() {
        notes.push(format!(
            "the system messages of {} are left out, because the chat template does not show them",
            counted(*with_system, "row")
        ));
    }
    if *with_tools > 0 && !tokeniser.knows_tools() {
        notes.push(format!(
            "the tools of {} are left out, because the chat template does not present tools",
            counted(*with_tools, "row")
        ));
    }
    for (key, rows) in reasoning.iter().filter(|(key, _)| tokeniser.drops_reasoning(key)) {
        notes.push(format!(
            "the `{key}` of turns in {} is left out, because the chat template does not show it",
            counted(*rows, "row")
        ));
    }
    if *strings > 0 && tokeniser.has_template() {
        notes.push(format!(
            "the strings of {} are trained as they are, without the chat template; to apply it, set \
             data.apply_chat_template = true",
            counted(*strings, "pair")
        ));
    }
    if *repeated_prompts > 0 {
        notes.push(format!(
            "both responses of {} begin with the prompt, which is then trained as a part of them; to cut it off, set \
             data.cut_repeated_prompt = true",
            counted(*repeated_prompts, "pair")
        ));
    }
    if *one_thinks > 0 {
        notes.push(format!(
            "only one of the two responses of {} has reasoning (`<think>`), so that the loss rewards or punishes reasoning \
             itself",
            counted(*one_thinks, "pair")
        ));
    }
    notes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use orpo_chat::ChatTokenizer;

    use super::*;
    use crate::data::{Sequence, Source, TokeniseOptions};

    /// One token per word: q, a, b, c, their unknown and the end; BOS comes first.
    fn tokenizer(dir: &Path, template: &str) -> ChatTokenizer {
        let vocab = json!({"q": 0, "a": 1, "b": 2, "c": 3, "<unk>": 4, "</s>": 5, "<s>": 6});
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
            "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"}
        });
        let config = json!({"bos_token": "<s>", "eos_token": "</s>", "chat_template": template});
        std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        std::fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
        ChatTokenizer::from_dir(dir).unwrap()
    }

    const TEMPLATE: &str = "{% for m in messages %}{% if m.content == 'c' %}{{ raise_exception('no c') }}{% endif %}\
                            {{ m.content }} {% endfor %}";

    fn load(files: &[(&str, f64)]) -> Result<Dataset, String> {
        load_with(TEMPLATE, files)
    }

    fn load_with(template: &str, files: &[(&str, f64)]) -> Result<Dataset, String> {
        let dir = tempfile::tempdir().unwrap();
        let chat = tokenizer(dir.path(), template);
        let source = |(index, (content, weight)): (usize, &(&str, f64))| {
            let path = dir.path().join(format!("{index}.jsonl"));
            std::fs::write(&path, content).unwrap();
            let source = path.to_string_lossy().into_owned();
            Source { weight: *weight, ..Source::new(source) }
        };
        let sources = Sources(files.iter().enumerate().map(source).collect());
        let tokeniser = Tokeniser::new(&chat, TokeniseOptions { max_length: 8, ..Default::default() });
        Dataset::load(&sources, &Selection::default(), &tokeniser, false).map_err(|error| error.to_string())
    }

    const PLAIN: &str = "{\"prompt\": \"q\", \"chosen\": \" a\", \"rejected\": \" b\"}\n";
    const EQUAL: &str = "{\"prompt\": \"q\", \"chosen\": \" a\", \"rejected\": \" a\"}\n";

    #[test]
    fn every_row_of_every_source_is_accounted_for() {
        let dataset = load(&[(&[PLAIN, EQUAL, PLAIN].concat(), 2.0), (&[EQUAL, "\n", PLAIN].concat(), 1.0)]).unwrap();
        assert_eq!(dataset.files.iter().map(|file| file.examples.clone()).collect::<Vec<_>>(), [0..2, 2..3]);
        assert!(dataset.place(1).ends_with("0.jsonl` line 3"), "{}", dataset.place(1));
        assert!(dataset.place(2).ends_with("1.jsonl` line 3"), "{}", dataset.place(2));
        assert_eq!(
            dataset.describe(),
            "0.jsonl: 3 rows, layout trl_standard_explicit, weight 2\n\
             0.jsonl: 1 dropped, chosen equals rejected: line 2\n\
             0.jsonl: the strings of 2 pairs are trained as they are, without the chat template; to apply it, set \
             data.apply_chat_template = true\n\
             1.jsonl: 2 rows, layout trl_standard_explicit\n\
             1.jsonl: 1 dropped, chosen equals rejected: line 1\n\
             1.jsonl: the strings of 1 pair are trained as they are, without the chat template; to apply it, set \
             data.apply_chat_template = true"
        );
        let rows: Vec<serde_json::Value> =
            dataset.dropped_lines().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&rows[0]["row"], &rows[1]["row"]), (&json!(2), &json!(1)));
        assert!(rows[1]["source"].as_str().unwrap().ends_with("1.jsonl"));
        assert_eq!(rows[1]["reason"], "chosen equals rejected");
        assert_eq!(dataset.mixture.epoch_len(), 5);
        let lines: Vec<usize> = dataset.weighted(1).iter().map(|i| dataset.examples[*i].line).collect();
        assert_eq!(lines, [1, 1, 3, 3, 3]);
    }

    #[test]
    fn weights_must_leave_something() {
        assert!(load(&[(PLAIN, 0.4)]).unwrap_err().contains("weights"));
    }

    #[test]
    fn only_the_first_places_are_listed() {
        let dataset = load(&[(&(PLAIN.to_string() + &EQUAL.repeat(25)), 1.0)]).unwrap();
        assert!(dataset.describe().contains("20, 21, and 5 more\n"), "{}", dataset.describe());
        assert_eq!(dataset.dropped_lines().lines().count(), 25);
    }

    #[test]
    fn what_the_template_refuses_is_dropped_with_its_words() {
        let turns = |answer: &str| {
            format!(
                "{{\"prompt\": [{{\"role\": \"user\", \"content\": \"q\"}}], \
                 \"chosen\": [{{\"role\": \"assistant\", \"content\": \"{answer}\"}}], \
                 \"rejected\": [{{\"role\": \"assistant\", \"content\": \"b\"}}]}}\n"
            )
        };
        let dataset = load(&[(&[turns("a"), turns("c")].concat(), 1.0)]).unwrap();
        assert_eq!(dataset.files[0].dropped[&Dropped::TemplateRefused], [2]);
        assert!(dataset.describe().contains("no c"), "{}", dataset.describe());
        let error = load(&[(&turns("c"), 1.0)]).unwrap_err();
        assert!(error.contains("no row can be used") && error.contains("no c"), "{error}");
    }

    #[test]
    fn what_should_be_known_is_said() {
        let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
        let row = json!({"prompt": turns("user", "a question"), "chosen": turns("assistant", "a question a"),
                         "rejected": turns("assistant", "a question <think> b"), "tools": [{"name": "f"}],
                         "score": 3, "source": "web", "empty": ""});
        let dataset = load(&[(&format!("{row}\n"), 1.0)]).unwrap();
        let described = dataset.describe();
        for expected in [
            "0.jsonl: 1 row, layout trl_conversational_explicit\n",
            "0.jsonl: columns that are not used: `score`, `source`\n",
            "0.jsonl: the tools of 1 row are left out",
            "0.jsonl: both responses of 1 pair begin with the prompt",
            "0.jsonl: only one of the two responses of 1 pair has reasoning",
        ] {
            assert!(described.contains(expected), "{expected}: {described}");
        }
    }

    #[test]
    fn reasoning_that_the_template_drops_is_said() {
        let turn = |content: &str, key: &str| json!([{"role": "assistant", "content": content, key: "b"}]);
        let row = |key: &str| {
            let row = json!({"prompt": [{"role": "user", "content": "q"}], "chosen": turn("a", key),
                             "rejected": turn("b", key)});
            format!("{row}\n")
        };
        let rows = [row("reasoning_content"), row("reasoning_content"), row("thinking"), row("name")].concat();
        let words = "is left out, because the chat template does not show it";
        let described = load(&[(&rows, 1.0)]).unwrap().describe();
        assert!(
            described.contains(&format!("0.jsonl: the `reasoning_content` of turns in 2 rows {words}")),
            "{described}"
        );
        assert!(described.contains(&format!("the `thinking` of turns in 1 row {words}")), "{described}");
        assert_eq!(described.matches(words).count(), 2, "{described}");

        let shown = TEMPLATE.replace("{{ m.content }}", "{{ m.reasoning_content }} {{ m.content }}");
        let described = load_with(&shown, &[(&row("reasoning_content"), 1.0)]).unwrap().describe();
        assert!(!described.contains(words), "{described}");
    }

    #[test]
    fn sides_that_the_template_makes_equal_are_dropped_and_listed() {
        let row = |prompt: &str, chosen: &str| {
            let turns = |role: &str, text: &str| json!([{"role": role, "content": text}]);
            let row = json!({"prompt": turns("user", prompt), "chosen": turns("assistant", chosen),
                             "rejected": turns("assistant", " a ")});
            format!("{row}\n")
        };
        let dataset = load(&[(&[row("q", "a"), row("q", "b"), row("q", "a b")].concat(), 1.0)]).unwrap();
        assert_eq!(dataset.files[0].dropped[&Dropped::EqualTokens], [1]);
        assert!(dataset.describe().contains("1 dropped, chosen equals rejected after the chat template"));
        let error = load(&[(&row("q", "a"), 1.0)]).unwrap_err();
        assert!(error.contains("1 x chosen equals rejected after"), "{error}");
    }

    #[test]
    fn ids_are_used_as_they_are_and_end_once() {
        let ids = |chosen: &str| {
            format!(
                "{{\"prompt_input_ids\": [0, 3], \"chosen_input_ids\": {chosen}, \"rejected_input_ids\": [2, 5]}}\n"
            )
        };
        let dataset = load(&[(&ids("[1]"), 1.0)]).unwrap();
        assert_eq!(dataset.examples[0].chosen, Sequence { ids: vec![0, 3, 1, 5], prompt_len: 2 });
        assert_eq!(dataset.examples[0].rejected, Some(Sequence { ids: vec![0, 3, 2, 5], prompt_len: 2 }));
        let error = load(&[(&[ids("[1]"), ids("[7]")].concat(), 1.0)]).unwrap_err();
        assert!(error.contains("line 2: token id 7 is outside the vocabulary of 7"), "{error}");
    }
}
