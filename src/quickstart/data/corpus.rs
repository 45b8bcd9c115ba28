//! The text on which the base model learns the language, and not to follow instructions.

use orpo_chat::Message;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::Composer;
use super::instructions::{self, DEMANDS, Instruction};
use super::requests::Exchange;
use super::split::Split;

/// One document of the base corpus; as JSON `{"messages": [...]}` or `{"text": "..."}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorpusDocument {
    /// A conversation, to be rendered with the chat template. The assistant answers the question and takes no notice of
    /// instructions on the form.
    Messages(Vec<Message>),
    /// Running text outside any conversation, in all the forms that instructions ask for: the model gets to know
    /// capitals, lists and quotations, but not that anybody can ask for them.
    Text(String),
}

/// How many documents of each sort there are.
const DIALOGUES_WITH_INSTRUCTION: usize = 2000;
const DIALOGUES_WITHOUT_INSTRUCTION: usize = 800;
const TEXTS: usize = 1200;

/// Composes the base corpus from the topics and wordings of the training split alone.
pub(super) fn compose(rng: &mut impl Rng) -> Vec<CorpusDocument> {
    let mut composer = Composer::new(Split::Train, rng);
    let mut documents = Vec::new();
    for index in 0..DIALOGUES_WITH_INSTRUCTION {
        let pair = composer.pair(DEMANDS[index % DEMANDS.len()], rng);
        documents.push(CorpusDocument::Messages([pair.prompt, pair.rejected].concat()));
    }
    for _ in 0..DIALOGUES_WITHOUT_INSTRUCTION {
        let Exchange { request, sentences } = Exchange::draw(composer.subject(rng), Split::Train, 2, rng);
        let answer = instructions::plain(&sentences);
        documents.push(CorpusDocument::Messages(vec![Message::user(request), Message::assistant(answer)]));
    }
    for index in 0..TEXTS {
        let subject = composer.subject(rng);
        let form: Vec<_> = DEMANDS[index % DEMANDS.len()].iter().map(|kind| Instruction::draw(*kind, rng)).collect();
        let sentences = form.iter().find_map(Instruction::sentences).unwrap_or(2);
        let Exchange { sentences, .. } = Exchange::draw(subject, Split::Train, sentences, rng);
        documents.push(CorpusDocument::Text(instructions::obey(&sentences, &form, subject.category.title, rng)));
    }
    documents.shuffle(rng);
    documents
}
