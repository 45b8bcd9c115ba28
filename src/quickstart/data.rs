//! A small-vocabulary English preference set for instruction following, composed from a seed.
//!
//! A prompt is a request about a topic with one or two IFEval-style instructions on the form of the answer. The
//! chosen answer obeys them all; the rejected answer says the same sentences and obeys none. The three splits share
//! no topic, no wording of a request and no wording of an instruction, so that a score on the test prompts measures
//! instruction following and not memory. The base corpus has read statements about every topic, as a base model has,
//! but its conversations are those of the training split alone.

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
    let mut composer = Composer::new(split);
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

/// Goes round a list of subjects, so that each is used equally often; the order is drawn anew in each round.
struct Subjects {
    all: Vec<Subject>,
    used: usize,
}

impl Subjects {
    fn new(all: Vec<Subject>) -> Self {
        Self { used: all.len(), all }
    }

    fn next(&mut self, rng: &mut impl Rng) -> Subject {
        if self.used == self.all.len() {
            self.all.shuffle(rng);
            self.used = 0;
        }
        self.used += 1;
        self.all[self.used - 1]
    }
}

/// Composes pairs of one split.
struct Composer {
    split: Split,
    subjects: Subjects,
}

impl Composer {
    fn new(split: Split) -> Self {
        Self { split, subjects: Subjects::new(Subject::all(split)) }
    }

    /// A pair with the demanded kinds of instruction.
    fn pair(&mut self, demand: &[Kind], rng: &mut impl Rng) -> Pair {
        let subject = self.subjects.next(rng);
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

#[cfg(test)]
mod tests {
    use super::split::PerSplit;
    use super::topics::CATEGORIES;
    use super::*;

    const HELD_OUT: [Split; 2] = [Split::Validation, Split::Test];

    fn prompts(pairs: &[Pair]) -> BTreeSet<&str> {
        pairs.iter().map(|pair| pair.prompt[0].content.as_str()).collect()
    }

    fn words(text: &str) -> BTreeSet<String> {
        text.split(|c: char| !c.is_alphanumeric()).map(str::to_lowercase).collect()
    }

    /// The topics of a split without their articles.
    fn topic_words(split: Split) -> BTreeSet<&'static str> {
        let topics = CATEGORIES.iter().flat_map(|category| category.topics.get(split));
        topics.map(|topic| topic.name.rsplit(' ').next().unwrap()).collect()
    }

    fn requests(split: Split) -> Vec<&'static str> {
        let general: [&PerSplit<&[&str]>; 3] = [&requests::DESCRIBE, &requests::OPINION, &requests::REASON];
        let special = CATEGORIES.iter().flat_map(|category| category.advice_requests.get(split));
        general.into_iter().flat_map(|requests| requests.get(split)).chain(special).copied().collect()
    }

    fn wordings(split: Split) -> Vec<&'static str> {
        let kinds: BTreeSet<_> = DEMANDS.iter().flat_map(|demand| demand.iter().copied()).collect();
        kinds.into_iter().flat_map(|kind| instructions::wordings(kind).get(split)).copied().collect()
    }

    #[test]
    fn chosen_obeys_and_rejected_does_not() {
        let dataset = generate(1);
        for pair in dataset.train.iter().chain(&dataset.validation).chain(&dataset.test) {
            assert!(is_confirmed(pair), "{pair:?}");
            assert_ne!(pair.chosen, pair.rejected);
        }
    }

    #[test]
    fn nearly_every_composed_pair_is_confirmed() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut composer = Composer::new(Split::Train);
        let refused = (0..960).filter(|index| !is_confirmed(&composer.pair(DEMANDS[index % DEMANDS.len()], &mut rng)));
        assert!(refused.count() <= 20);
    }

    #[test]
    fn every_split_has_its_size_and_every_kind_of_instruction() {
        let dataset = generate(2);
        assert_eq!(dataset.base_corpus.len(), corpus::DOCUMENTS);
        for (pairs, count) in
            [(&dataset.train, TRAIN_PAIRS), (&dataset.validation, VALIDATION_PAIRS), (&dataset.test, TEST_PAIRS)]
        {
            assert_eq!(pairs.len(), count);
            assert_eq!(prompts(pairs).len(), count, "no prompt occurs twice");
            let ids: BTreeSet<_> = pairs.iter().flat_map(|pair| &pair.instruction_id_list).collect();
            assert_eq!(ids.len(), 8);
            assert!(pairs.iter().any(|pair| pair.instruction_id_list.len() == 2));
        }
    }

    #[test]
    fn splits_share_no_topic_and_no_wording() {
        let tables: [fn(Split) -> Vec<&'static str>; 3] =
            [|split| topic_words(split).into_iter().collect(), requests, wordings];
        for table in tables {
            let all: Vec<_> = Split::ALL.into_iter().flat_map(table).collect();
            let different: BTreeSet<_> = all.iter().map(|text| text.to_lowercase()).collect();
            assert_eq!(different.len(), all.len());
        }
    }

    #[test]
    fn held_out_wordings_are_made_of_words_known_from_training() {
        let known: BTreeSet<_> =
            wordings(Split::Train).into_iter().chain(requests(Split::Train)).flat_map(words).collect();
        for split in HELD_OUT {
            for wording in wordings(split) {
                assert!(words(wording).is_subset(&known), "{wording}");
            }
        }
    }

    #[test]
    fn nothing_held_out_is_asked_in_training() {
        let dataset = generate(3);
        let held_out_topics: BTreeSet<_> = HELD_OUT.into_iter().flat_map(topic_words).collect();
        let conversations = dataset.base_corpus.iter().filter_map(|document| match document {
            CorpusDocument::Messages(messages) => Some(messages.clone()),
            CorpusDocument::Text(_) => None,
        });
        let pairs = dataset.train.iter().map(|pair| [&pair.prompt[..], &pair.chosen].concat());
        for message in conversations.chain(pairs).flatten() {
            let words = words(&message.content);
            assert!(held_out_topics.iter().all(|topic| !words.contains(*topic)), "{message:?}");
        }

        let held_out = &prompts(&dataset.validation) | &prompts(&dataset.test);
        assert!(held_out.is_disjoint(&prompts(&dataset.train)));
        assert!(prompts(&dataset.validation).is_disjoint(&prompts(&dataset.test)));
        for text in dataset.training_texts() {
            assert!(held_out.iter().all(|prompt| !text.contains(prompt)), "{text}");
        }
    }

    #[test]
    fn the_base_corpus_ignores_instructions() {
        let dataset = generate(4);
        for document in &dataset.base_corpus {
            let CorpusDocument::Messages(messages) = document else { continue };
            let [user, assistant] = &messages[..] else { panic!("{messages:?}") };
            assert_eq!((user.role.as_str(), assistant.role.as_str()), ("user", "assistant"));
            let answer = &assistant.content;
            assert!(
                answer.starts_with(char::is_uppercase) && answer.contains(',') && answer.ends_with('.'),
                "{answer}"
            );
            assert!(!answer.contains(['"', '<', '*', '\n']), "{answer}");
        }
    }

    #[test]
    fn a_seed_determines_the_dataset() {
        let dataset = generate(5);
        assert_eq!(dataset, generate(5));
        let other = generate(6);
        assert_ne!(dataset.base_corpus, other.base_corpus);
        assert_ne!(dataset.train, other.train);
        assert_ne!(prompts(&dataset.test), prompts(&other.test));
    }

    #[test]
    fn written_files_read_back() {
        fn read<T: serde::de::DeserializeOwned>(path: &Path) -> Vec<T> {
            std::fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
        let dir = tempfile::tempdir().unwrap();
        let dataset = generate(7);
        dataset.write(&dir.path().join("data")).unwrap();
        let file = |name: &str| dir.path().join("data").join(name);
        assert_eq!(read::<CorpusDocument>(&file("base_corpus.jsonl")), dataset.base_corpus);
        assert_eq!(read::<Pair>(&file("train.jsonl")), dataset.train);
        assert_eq!(read::<Pair>(&file("validation.jsonl")), dataset.validation);
        assert_eq!(read::<Pair>(&file("test.jsonl")), dataset.test);
        let examples = read::<Example>(&file("ifeval_prompts.jsonl"));
        assert_eq!(examples.len(), dataset.test.len());
        for (example, pair) in examples.iter().zip(&dataset.test) {
            assert_eq!(example.prompt, pair.prompt[0].content);
            assert!(example.score(&pair.chosen[0].content).unwrap().strict.iter().all(|followed| *followed));
        }
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("train.jsonl")).unwrap();
        let error = generate(8).write(dir.path()).unwrap_err().to_string();
        assert!(error.contains("train.jsonl"), "{error}");
    }
}
