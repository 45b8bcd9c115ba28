//! The prompts that ask a judge, in the official `judge_prompts.jsonl` format.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::Turn;
use super::template::Template;
use super::verdict::Format;
use crate::jsonl::{self, InputError};
use crate::results::DataSource;

/// Prompts in words of our own, with the official fields and verdict formats.
const EMBEDDED: &str = include_str!("../../data/mt_bench_judge_prompts.jsonl");

/// What our own prompts have in front of the official names, so that a judgment tells which one it comes from.
const OWN: &str = "orpo-";

/// Whether an answer is judged alone or against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A score for one answer.
    Single,
    /// The better one of two.
    Pair,
}

/// Which prompt is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Role {
    /// Alone or against another.
    pub kind: Kind,
    /// Whether there is a reference answer.
    pub reference: bool,
    /// Which answer is judged.
    pub turn: Turn,
}

impl Role {
    /// The official name of the prompt.
    pub fn name(self) -> &'static str {
        match (self.kind, self.reference, self.turn) {
            (Kind::Single, false, Turn::First) => "single-v1",
            (Kind::Single, true, Turn::First) => "single-math-v1",
            (Kind::Single, false, Turn::Second) => "single-v1-multi-turn",
            (Kind::Single, true, Turn::Second) => "single-math-v1-multi-turn",
            (Kind::Pair, false, Turn::First) => "pair-v2",
            (Kind::Pair, true, Turn::First) => "pair-math-v1",
            (Kind::Pair, false, Turn::Second) => "pair-v2-multi-turn",
            (Kind::Pair, true, Turn::Second) => "pair-math-v1-multi-turn",
        }
    }

    /// The fields that a prompt of this role can use.
    fn fields(self) -> Vec<&'static str> {
        let mut fields = match (self.kind, self.turn) {
            (Kind::Single, Turn::First) => vec!["question", "answer"],
            (Kind::Single, Turn::Second) => vec!["question_1", "question_2", "answer_1", "answer_2"],
            (Kind::Pair, Turn::First) => vec!["question", "answer_a", "answer_b"],
            (Kind::Pair, Turn::Second) => {
                vec!["question_1", "question_2", "answer_a_1", "answer_a_2", "answer_b_1", "answer_b_2"]
            }
        };
        if self.reference {
            fields.push("ref_answer_1");
        }
        if self.reference && self.turn == Turn::Second {
            fields.push("ref_answer_2");
        }
        fields
    }

    fn all() -> impl Iterator<Item = Self> {
        [Kind::Single, Kind::Pair].into_iter().flat_map(|kind| {
            [false, true].into_iter().flat_map(move |reference| Turn::BOTH.map(|turn| Self { kind, reference, turn }))
        })
    }
}

/// A line of the file, as far as it is used.
#[derive(Debug, Deserialize)]
struct Row {
    name: String,
    system_prompt: String,
    prompt_template: String,
    output_format: String,
}

/// A prompt, ready to be filled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JudgePrompt {
    /// Its name in the file.
    pub name: String,
    /// The system message; without one where it is empty.
    pub system_prompt: String,
    /// The user message.
    pub template: Template,
    /// The verdict that it asks for.
    pub format: Format,
}

/// The prompts of a file.
#[derive(Debug, Clone, PartialEq)]
pub struct JudgePrompts {
    by_role: HashMap<Role, JudgePrompt>,
    /// The file.
    pub source: DataSource,
}

impl JudgePrompts {
    /// The embedded prompts.
    ///
    /// # Panics
    /// Never: the embedded prompts are tested.
    pub fn embedded() -> Self {
        Self::parse(Path::new("embedded"), EMBEDDED.as_bytes()).expect("the embedded prompts are valid")
    }

    /// A file in the official format. The prompts have their official names, or `orpo-` in front of them.
    ///
    /// # Errors
    /// When a prompt is malformed, occurs twice or is missing, or uses fields or a verdict format that its role has
    /// not.
    pub fn read(path: &Path) -> Result<Self, InputError> {
        Self::parse(path, &jsonl::read(path)?)
    }

    fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let mut by_role = HashMap::new();
        for (line, row) in jsonl::rows::<Row>(path, bytes)? {
            let failed = |problem| InputError::Line { path: path.to_owned(), line, problem };
            let name = row.name.strip_prefix(OWN).unwrap_or(&row.name);
            // A file may hold prompts for other purposes.
            let Some(role) = Role::all().find(|role| role.name() == name) else { continue };
            let prompt = prompt(role, row).map_err(failed)?;
            if let Some(other) = by_role.insert(role, prompt) {
                return Err(failed(format!("there is already a prompt `{}`", other.name)));
            }
        }
        if let Some(missing) = Role::all().find(|role| !by_role.contains_key(role)) {
            let problem = format!("it holds no prompt `{}`", missing.name());
            return Err(InputError::File { path: path.to_owned(), problem });
        }
        let source = DataSource { source: path.display().to_string(), sha256: orpo_files::sha256(bytes) };
        Ok(Self { by_role, source })
    }

    /// The prompt of a role.
    ///
    /// # Panics
    /// Never: a file without it is refused.
    pub fn get(&self, role: Role) -> &JudgePrompt {
        self.by_role.get(&role).expect("a file without all prompts is refused")
    }
}

fn prompt(role: Role, row: Row) -> Result<JudgePrompt, String> {
    let template = Template::parse(&row.prompt_template)
        .map_err(|problem| format!("the `prompt_template` of `{}` cannot be used: {problem}", row.name))?;
    let fields = role.fields();
    if let Some(unknown) = template.fields().find(|field| !fields.contains(field)) {
        return Err(format!("`{}` has the field `{{{unknown}}}`; it can have {}", row.name, fields.join(", ")));
    }
    let format = match (role.kind, row.output_format.as_str()) {
        (Kind::Single, "[[rating]]") => Format::Rating,
        (Kind::Pair, "[[A]]") => Format::Letter,
        (Kind::Pair, "[[rating_a,rating_b]]") => Format::TwoRatings,
        (_, other) => return Err(format!("the `output_format` of `{}` cannot be `{other}`", row.name)),
    };
    Ok(JudgePrompt { name: row.name, system_prompt: row.system_prompt, template, format })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        JudgePrompts::parse(Path::new("p.jsonl"), text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn the_embedded_prompts_use_all_their_fields() {
        let prompts = JudgePrompts::embedded();
        for role in Role::all() {
            let prompt = prompts.get(role);
            assert_eq!(prompt.name, format!("{OWN}{}", role.name()));
            for field in role.fields() {
                assert!(prompt.template.fields().any(|used| used == field), "{} lacks {field}", prompt.name);
            }
            let filled = prompt.template.fill(|_| Some("")).unwrap();
            let all = format!("{}\n{filled}", prompt.system_prompt);
            for form in if role.kind == Kind::Single { &["[[6]]"][..] } else { &["[[A]]", "[[B]]", "[[C]]"] } {
                assert!(all.contains(form), "{} does not ask for {form}", prompt.name);
            }
        }
    }

    #[test]
    fn bad_prompts_are_named() {
        let row = EMBEDDED.lines().next().unwrap();
        assert!(problem(row).contains("holds no prompt `single-v1-multi-turn`"), "{}", problem(row));
        assert!(problem(&format!("{row}\n{row}")).contains("p.jsonl:2: there is already a prompt `orpo-single-v1`"));
        let message = problem(&row.replace("{answer}", "{answer_b}"));
        assert!(
            message.contains("`orpo-single-v1` has the field `{answer_b}`; it can have question, answer"),
            "{message}"
        );
        assert!(problem(&row.replace("{answer}", "{answer")).contains("p.jsonl:1: the `prompt_template`"));
        assert!(problem(&row.replace("\"[[rating]]\"", "\"[[A]]\"")).contains("cannot be `[[A]]`"));
    }
}
