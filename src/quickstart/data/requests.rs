//! What a user asks about a topic, and what there is to answer.

use rand::Rng;
use rand::seq::{IndexedRandom, SliceRandom};

use super::split::{PerSplit, Split};
use super::topics::{CATEGORIES, Category, Topic};

/// What a request is after.
#[derive(Debug, Clone, Copy)]
enum Aim {
    Describe,
    Opinion,
    Reason,
    Advice,
}

const AIMS: [Aim; 4] = [Aim::Describe, Aim::Opinion, Aim::Reason, Aim::Advice];

/// Requests for a description.
pub(super) const DESCRIBE: PerSplit<&[&str]> = PerSplit {
    train: &[
        "Tell me about {topic}.",
        "Tell me something about {topic}.",
        "Can you describe {topic}?",
        "What can you tell me about {topic}?",
        "Write a few words about {topic}.",
        "What do I need to know about {topic}?",
    ],
    validation: &["What should I know about {topic}?", "Can you write something about {topic}?"],
    test: &["Please describe {topic} for me.", "Give me a few words about {topic}.", "What do you know about {topic}?"],
};

/// Requests for an opinion.
pub(super) const OPINION: PerSplit<&[&str]> = PerSplit {
    train: &[
        "Do you like {topic}?",
        "What do you think of {topic}?",
        "How do you feel about {topic}?",
        "Are you fond of {topic}?",
        "Please tell me if you like {topic}.",
    ],
    validation: &["What are your feelings about {topic}?", "Do you like to think about {topic}?"],
    test: &[
        "Tell me what you think about {topic}.",
        "Can you say what you think of {topic}?",
        "How much do you like {topic}?",
    ],
};

/// Requests for a reason.
pub(super) const REASON: PerSplit<&[&str]> = PerSplit {
    train: &[
        "Why do people like {topic}?",
        "What is so good about {topic}?",
        "Why are so many people fond of {topic}?",
        "Give me a reason to like {topic}.",
        "What do people find in {topic}?",
    ],
    validation: &["What do people like about {topic}?", "Why is everyone so fond of {topic}?"],
    test: &["Why should I like {topic}?", "What makes people like {topic}?", "Tell me why people are fond of {topic}."],
};

/// First sentences of an answer that gives an opinion.
const OPINIONS: [&str; 5] = [
    "To be honest, I like {topic} very much.",
    "For me, {topic} {is} always {a} and {b}.",
    "I am fond of {topic}, because {it} {is} {a} and {b}.",
    "In my view, {topic} {is} {a} and {b}.",
    "I like {topic} a lot, and most of my friends do too.",
];

/// First sentences of an answer that gives a reason.
const REASONS: [&str; 5] = [
    "Most people like {topic}, because {it} {is} {a} and {b}.",
    "Since {it} {is} {a} and {b}, {topic} make{s} many people happy.",
    "Every year, more people find out that {topic} {is} {a} and {b}.",
    "If you ask around, most people say that {it} {is} {a} and {b}.",
    "To many people, {topic} seem{s} {a} and {b}.",
];

/// A topic to talk about, with the category that knows the words for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Subject {
    /// Where the sentences come from.
    pub(super) category: &'static Category,
    /// What they are about.
    pub(super) topic: &'static Topic,
}

impl Subject {
    /// All subjects of one split.
    pub(super) fn all(split: Split) -> Vec<Self> {
        CATEGORIES
            .iter()
            .flat_map(|category| category.topics.get(split).iter().map(move |topic| Self { category, topic }))
            .collect()
    }
}

/// A request and a plain answer to it: a capital first letter, no quotation marks, a comma in the first sentence.
#[derive(Debug)]
pub(super) struct Exchange {
    /// What the user asks, without any instruction on the form of the answer.
    pub(super) request: String,
    /// The sentences of the answer.
    pub(super) sentences: Vec<String>,
}

impl Exchange {
    /// Draws a request in the wording of `split` about `subject`, and an answer of two or three `sentences`.
    pub(super) fn draw(subject: Subject, split: Split, sentences: usize, rng: &mut impl Rng) -> Self {
        let Subject { category, topic } = subject;
        let aim = pick(&AIMS, rng);
        let (requests, first): (_, &[&str]) = match aim {
            Aim::Describe => (DESCRIBE.get(split), &category.describe),
            Aim::Opinion => (OPINION.get(split), &OPINIONS),
            Aim::Reason => (REASON.get(split), &REASONS),
            Aim::Advice => (category.advice_requests.get(split), &category.advice),
        };
        let request = category.fill(pick(requests, rng), topic);
        let mut more = [pick(&category.details, rng), pick(&category.remarks, rng)];
        more.shuffle(rng);
        let sentences = std::iter::once(pick(first, rng))
            .chain(more)
            .take(sentences)
            .map(|sentence| category.fill(sentence, topic))
            .collect();
        Self { request, sentences }
    }
}

/// Three statements about `subject` outside any conversation; the first two name it.
pub(super) fn statements(subject: Subject, rng: &mut impl Rng) -> Vec<String> {
    let Subject { category, topic } = subject;
    let mut naming: Vec<_> = [&category.describe[..], &OPINIONS, &REASONS].map(|sentences| pick(sentences, rng)).into();
    naming.shuffle(rng);
    [naming[0], naming[1], pick(&category.details, rng)].map(|sentence| category.fill(sentence, topic)).into()
}

/// A random element of a list that is not empty.
pub(super) fn pick<T: Copy>(items: &[T], rng: &mut impl Rng) -> T {
    *items.choose(rng).expect("the list is a constant with elements")
}
