//! What a judge is asked, byte for byte as FastChat's `gen_judgment.py` asks it.

use serde_json::{Map, Value, json};

use super::judge_prompt::{JudgePrompt, JudgePrompts, Kind, Role};
use super::{Question, Turn};

/// The most tokens of a judge's reply.
pub const JUDGE_MAX_TOKENS: u32 = 2048;

/// A filled prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered<'a> {
    /// The prompt.
    pub prompt: &'a JudgePrompt,
    /// The user message.
    pub user: String,
}

impl Rendered<'_> {
    /// The body of the chat request.
    pub fn request(&self, judge_model: &str) -> Value {
        let mut messages = Vec::new();
        if !self.prompt.system_prompt.is_empty() {
            messages.push(json!({"role": "system", "content": self.prompt.system_prompt}));
        }
        messages.push(json!({"role": "user", "content": self.user}));
        let mut body = Map::new();
        body.insert("model".into(), judge_model.into());
        body.insert("messages".into(), messages.into());
        body.extend(parameters());
        body.into()
    }
}

/// The fields of a request to a judge beside model and messages. No seed is sent, as officially.
pub fn parameters() -> Map<String, Value> {
    let mut parameters = Map::new();
    parameters.insert("temperature".into(), 0.into());
    parameters.insert("max_tokens".into(), JUDGE_MAX_TOKENS.into());
    parameters
}

/// The prompt on one answer. `answer` and `reference` hold the turns up to the judged one.
///
/// # Errors
/// When the prompt needs a turn or a reference answer that is not there.
pub fn single<'a>(
    prompts: &'a JudgePrompts,
    question: &Question,
    turn: Turn,
    answer: &[String],
    reference: Option<&[String]>,
) -> Result<Rendered<'a>, String> {
    fill(prompts, Kind::Single, question, turn, reference, |field| match field {
        "answer" | "answer_1" => answer.first(),
        "answer_2" => answer.get(1),
        _ => None,
    })
}

/// The prompt on two answers, `a` in the first position.
///
/// # Errors
/// As [`single`].
pub fn pair<'a>(
    prompts: &'a JudgePrompts,
    question: &Question,
    turn: Turn,
    [a, b]: [&[String]; 2],
    reference: Option<&[String]>,
) -> Result<Rendered<'a>, String> {
    fill(prompts, Kind::Pair, question, turn, reference, |field| match field {
        "answer_a" | "answer_a_1" => a.first(),
        "answer_a_2" => a.get(1),
        "answer_b" | "answer_b_1" => b.first(),
        "answer_b_2" => b.get(1),
        _ => None,
    })
}

fn fill<'a, 'b>(
    prompts: &'a JudgePrompts,
    kind: Kind,
    question: &'b Question,
    turn: Turn,
    reference: Option<&'b [String]>,
    answer: impl Fn(&str) -> Option<&'b String>,
) -> Result<Rendered<'a>, String> {
    let prompt = prompts.get(Role { kind, reference: question.needs_reference(), turn });
    let value = |field: &str| match field {
        "question" | "question_1" => question.turns.first(),
        "question_2" => question.turns.get(1),
        "ref_answer_1" => reference.and_then(|turns| turns.first()),
        "ref_answer_2" => reference.and_then(|turns| turns.get(1)),
        other => answer(other),
    };
    let user = prompt.template.fill(|field| value(field).map(String::as_str));
    let user = user.map_err(|field| format!("question {} has nothing for `{{{field}}}`", question.question_id))?;
    Ok(Rendered { prompt, user })
}
