//! The text on which the base model learns the language, and not to follow instructions.

use orpo_chat::Message;
use rand::Rng;
use rand::seq::SliceRandom;
use serde::{Deserialize, Serialize};

use super::instructions::{self, DEMANDS, Instruction};
use super::requests::{self, Exchange, Subject};
use super::split::Split;
use super::{Composer, Subjects};

/// One document of the base corpus; as JSON `{"messages": [...]}` or `{"text": "..."}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorpusDocument {
    /// A conversation, to be rendered with the chat template. The assistant answers the question and takes no notice of
    /// instructions on the form.
    Messages(Vec<Message>),
    /// Statements outside any conversation, about the topics of all splits and in all the forms that instructions ask
    /// for: the model gets to know the world, capitals, lists and quotations, but not that anybody can ask for them.
    Text(String),
}

/// How many documents of each sort there are.
const DIALOGUES_WITH_INSTRUCTION: usize = 2000;
const DIALOGUES_WITHOUT_INSTRUCTION: usize = 800;
const TEXTS: usize = 1200;
/// The size of the base corpus.
#[cfg(test)]
pub(super) const DOCUMENTS: usize = DIALOGUES_WITH_INSTRUCTION + DIALOGUES_WITHOUT_INSTRUCTION + TEXTS;

/// Composes the base corpus. Its conversations have the topics and wordings of the training split alone.
pub(super) fn compose(rng: &mut impl Rng) -> Vec<CorpusDocument> {
    let mut composer = Composer::new(Split::Train);
    let mut documents = Vec::new();
    for index in 0..DIALOGUES_WITH_INSTRUCTION {
        let pair = composer.pair(DEMANDS[index % DEMANDS.len()], rng);
        documents.push(CorpusDocument::Messages([pair.prompt, pair.rejected].concat()));
    }
    for _ in 0..DIALOGUES_WITHOUT_INSTRUCTION {
        let Exchange { request, sentences } = Exchange::draw(composer.subjects.next(rng), Split::Train, 2, rng);
        let answer = instructions::plain(&sentences);
        documents.push(CorpusDocument::Messages(vec![Message::user(request), Message::assistant(answer)]));
    }
    let mut subjects = Subjects::new(Split::ALL.into_iter().flat_map(Subject::all).collect());
    for index in 0..TEXTS {
        let subject = subjects.next(rng);
        let form: Vec<_> = DEMANDS[index % DEMANDS.len()].iter().map(|kind| Instruction::draw(*kind, rng)).collect();
        let sentences = requests::statements(subject, rng);
        documents.push(CorpusDocument::Text(instructions::obey(&sentences, &form, subject.category.title, rng)));
    }
    documents.shuffle(rng);
    documents
}
