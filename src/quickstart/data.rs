//! A small-vocabulary English preference set for instruction following, composed from a seed.
//!
//! A prompt is a request about a topic with one or two IFEval-style instructions on the form of the answer. The
//! chosen answer obeys them all; the rejected answer says the same sentences and obeys none. The three splits share
//! no topic, no wording of a request and no wording of an instruction, so that a score on the test prompts measures
//! instruction following and not memory. The base corpus knows only the topics and wordings of the training split.

mod corpus;
mod instructions;
mod requests;
mod split;
mod topics;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Context;
use orpo_chat::Message;
use orpo_eval::ifeval::Example;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use corpus::CorpusDocument;
use instructions::{DEMANDS, Instruction, Kind};
use requests::{Exchange, Subject};
use split::Split;

/// How many preference pairs each split has.
const TRAIN_PAIRS: usize = 2400;
const VALIDATION_PAIRS: usize = 96;
const TEST_PAIRS: usize = 120;

/// A preference pair in the conversational layout of TRL, with the instructions that `chosen` obeys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// The conversation so far: one user turn.
    pub prompt: Vec<Message>,
    /// The answer that obeys every instruction: one assistant turn.
    pub chosen: Vec<Message>,
    /// The same answer without obeying: one assistant turn.
    pub rejected: Vec<Message>,
    /// IFEval's ids of the instructions.
    pub instruction_id_list: Vec<String>,
    /// IFEval's parameters, one map for each id.
    pub kwargs: Vec<Map<String, Value>>,
}

/// A prompt in IFEval's layout.
#[derive(Serialize)]
struct IfevalPrompt<'a> {
    key: usize,
    prompt: &'a str,
    instruction_id_list: &'a [String],
    kwargs: &'a [Map<String, Value>],
}

/// Everything that the quickstart trains on and measures with.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Text to fit the base model on by next-token loss.
    pub base_corpus: Vec<CorpusDocument>,
    /// Pairs to train on.
    pub train: Vec<Pair>,
    /// Pairs to watch while training.
    pub validation: Vec<Pair>,
    /// Pairs whose prompts are the held-out evaluation.
    pub test: Vec<Pair>,
}

/// Composes the dataset; the same seed gives the same dataset.
pub fn generate(seed: u64) -> Dataset {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Dataset {
        base_corpus: corpus::compose(&mut rng),
        train: pairs(Split::Train, TRAIN_PAIRS, &mut rng),
        validation: pairs(Split::Validation, VALIDATION_PAIRS, &mut rng),
        test: pairs(Split::Test, TEST_PAIRS, &mut rng),
    }
}

impl Dataset {
    /// Writes `base_corpus.jsonl`, `train.jsonl`, `validation.jsonl`, `test.jsonl`, and the prompts of the test pairs
    /// in IFEval's layout as `ifeval_prompts.jsonl`, into `dir`, which is created if need be.
    ///
    /// # Errors
    /// When a file cannot be written; the message names it.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create `{}`", dir.display()))?;
        let prompts = self.test.iter().enumerate().map(|(key, pair)| IfevalPrompt {
            key,
            prompt: &pair.prompt[0].content,
            instruction_id_list: &pair.instruction_id_list,
            kwargs: &pair.kwargs,
        });
        write_lines(&dir.join("base_corpus.jsonl"), &self.base_corpus)?;
        write_lines(&dir.join("train.jsonl"), &self.train)?;
        write_lines(&dir.join("validation.jsonl"), &self.validation)?;
        write_lines(&dir.join("test.jsonl"), &self.test)?;
        write_lines(&dir.join("ifeval_prompts.jsonl"), prompts)
    }

    /// All text that may be trained on, for the tokenizer: the base corpus and the training pairs, turn by turn.
    pub fn training_texts(&self) -> impl Iterator<Item = String> + '_ {
        let corpus = self.base_corpus.iter().flat_map(|document| match document {
            CorpusDocument::Messages(messages) => messages.iter().map(|message| message.content.clone()).collect(),
            CorpusDocument::Text(text) => vec![text.clone()],
        });
        let pairs = self.train.iter().flat_map(|pair| [&pair.prompt, &pair.chosen, &pair.rejected]);
        corpus.chain(pairs.flatten().map(|message| message.content.clone()))
    }
}

fn write_lines<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = BufWriter::new(File::create(path)?);
        for row in rows {
            serde_json::to_writer(&mut file, &row)?;
            file.write_all(b"\n")?;
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}

/// `count` pairs with different prompts, evenly over the kinds of instruction, in random order.
fn pairs(split: Split, count: usize, rng: &mut impl Rng) -> Vec<Pair> {
    let mut composer = Composer::new(split, rng);
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::with_capacity(count);
    while pairs.len() < count {
        let pair = composer.pair(DEMANDS[pairs.len() % DEMANDS.len()], rng);
        if !seen.contains(&pair.prompt[0].content) && is_confirmed(&pair) {
            seen.insert(pair.prompt[0].content.clone());
            pairs.push(pair);
        }
    }
    pairs.shuffle(rng);
    pairs
}

/// Whether the checkers agree that `chosen` obeys every instruction and `rejected` none, not even in the loose sense.
/// They tell the language of a text by statistics, and now and then take short English for something else.
fn is_confirmed(pair: &Pair) -> bool {
    let example = Example {
        key: Value::Null,
        prompt: pair.prompt[0].content.clone(),
        instruction_id_list: pair.instruction_id_list.clone(),
        kwargs: pair.kwargs.clone(),
    };
    let scorer = example.scorer().expect("the instructions are IFEval's own");
    let (chosen, rejected) = (scorer.score(&pair.chosen[0].content), scorer.score(&pair.rejected[0].content));
    chosen.strict.iter().all(|followed| *followed) && !rejected.loose.contains(&true)
}

/// Composes pairs of one split, going round its topics so that each is used equally often.
struct Composer {
    split: Split,
    subjects: Vec<Subject>,
    next: usize,
}

impl Composer {
    fn new(split: Split, rng: &mut impl Rng) -> Self {
        let mut subjects = Subject::all(split);
        subjects.shuffle(rng);
        Self { split, subjects, next: 0 }
    }

    /// The next topic; the order is drawn anew in each round.
    fn subject(&mut self, rng: &mut impl Rng) -> Subject {
        if self.next == self.subjects.len() {
            self.subjects.shuffle(rng);
            self.next = 0;
        }
        self.next += 1;
        self.subjects[self.next - 1]
    }

    /// A pair with the demanded kinds of instruction.
    fn pair(&mut self, demand: &[Kind], rng: &mut impl Rng) -> Pair {
        let subject = self.subject(rng);
        let mut instructions: Vec<_> = demand.iter().map(|kind| Instruction::draw(*kind, rng)).collect();
        instructions.shuffle(rng);
        let sentences = instructions.iter().find_map(Instruction::sentences).unwrap_or(2);
        let exchange = Exchange::draw(subject, self.split, sentences, rng);

        // The request comes first more often than not, as people write; an instruction may come before it.
        let mut turns: Vec<_> = instructions.iter().map(|instruction| instruction.say(self.split, rng)).collect();
        turns.insert(if rng.random_bool(0.75) { 0 } else { 1 }, exchange.request);
        let chosen = instructions::obey(&exchange.sentences, &instructions, subject.category.title, rng);
        Pair {
            prompt: vec![Message::user(turns.join(" "))],
            chosen: vec![Message::assistant(chosen)],
            rejected: vec![Message::assistant(instructions::plain(&exchange.sentences))],
            instruction_id_list: instructions.iter().map(|instruction| instruction.id().to_string()).collect(),
            kwargs: instructions.iter().map(Instruction::kwargs).collect(),
        }
    }
}
