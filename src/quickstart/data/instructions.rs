//! Instructions on the form of an answer, in IFEval's terms: what the user says, and how an answer obeys.

use rand::Rng;
use serde_json::{Map, Value};

use super::requests::pick;
use super::split::{PerSplit, Split};

/// A kind of instruction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Lowercase,
    Capital,
    NoComma,
    Quotation,
    EndPhrase,
    Title,
    Postscript,
    Bullets,
}

use Kind::{Bullets, Capital, EndPhrase, Lowercase, NoComma, Postscript, Quotation, Title};

/// What prompts ask for, in turn: each kind twice alone, and pairs of kinds that an answer can obey together.
pub(super) const DEMANDS: [&[Kind]; 24] = [
    &[Lowercase],
    &[Capital],
    &[NoComma],
    &[Quotation],
    &[EndPhrase],
    &[Title],
    &[Postscript],
    &[Bullets],
    &[Lowercase, NoComma],
    &[Capital, Quotation],
    &[EndPhrase, NoComma],
    &[Title, Lowercase],
    &[Lowercase],
    &[Capital],
    &[NoComma],
    &[Quotation],
    &[EndPhrase],
    &[Title],
    &[Postscript],
    &[Bullets],
    &[Postscript, Capital],
    &[Quotation, EndPhrase],
    &[Bullets, NoComma],
    &[Title, EndPhrase],
];

/// The phrases an answer can be asked to end with.
const END_PHRASES: [&str; 3] = ["I hope this helps.", "Have a nice day.", "That is all for now."];

/// The numbers of bullet points an answer can be asked for.
const BULLET_COUNTS: [usize; 2] = [2, 3];

/// Postscripts, without a comma.
const POSTSCRIPTS: [&str; 3] =
    ["P.S. Thank you for asking.", "P.S. Ask me again any time.", "P.S. I wish you a good day."];

/// An instruction with its parameters drawn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Instruction {
    kind: Kind,
    end_phrase: &'static str,
    bullets: usize,
}

impl Instruction {
    /// Draws the parameters that `kind` takes.
    pub(super) fn draw(kind: Kind, rng: &mut impl Rng) -> Self {
        Self { kind, end_phrase: pick(&END_PHRASES, rng), bullets: pick(&BULLET_COUNTS, rng) }
    }

    /// IFEval's id.
    pub(super) fn id(&self) -> &'static str {
        match self.kind {
            Lowercase => "change_case:english_lowercase",
            Capital => "change_case:english_capital",
            NoComma => "punctuation:no_comma",
            Quotation => "startend:quotation",
            EndPhrase => "startend:end_checker",
            Title => "detectable_format:title",
            Postscript => "detectable_content:postscript",
            Bullets => "detectable_format:number_bullet_lists",
        }
    }

    /// IFEval's parameters.
    pub(super) fn kwargs(&self) -> Map<String, Value> {
        let (name, value) = match self.kind {
            EndPhrase => ("end_phrase", self.end_phrase.into()),
            Postscript => ("postscript_marker", "P.S.".into()),
            Bullets => ("num_bullets", self.bullets.into()),
            Lowercase | Capital | NoComma | Quotation | Title => return Map::new(),
        };
        Map::from_iter([(name.to_string(), value)])
    }

    /// The instruction as a sentence in the wording of `split`.
    pub(super) fn say(&self, split: Split, rng: &mut impl Rng) -> String {
        pick(wordings(self.kind).get(split), rng)
            .replace("{phrase}", self.end_phrase)
            .replace("{n}", &self.bullets.to_string())
    }

    /// How many sentences an answer needs, if the instruction says.
    pub(super) fn sentences(&self) -> Option<usize> {
        (self.kind == Bullets).then_some(self.bullets)
    }
}

/// The sentences as one plain paragraph, which obeys none of the instructions.
pub(super) fn plain(sentences: &[String]) -> String {
    sentences.join(" ")
}

/// The same sentences such that they obey all `instructions`; `title` is what a title says they are about.
pub(super) fn obey(sentences: &[String], instructions: &[Instruction], title: &str, rng: &mut impl Rng) -> String {
    let find = |kind| instructions.iter().find(|instruction| instruction.kind == kind);
    let mut text = match find(Bullets) {
        Some(_) => sentences.iter().map(|sentence| format!("* {sentence}")).collect::<Vec<_>>().join("\n"),
        None => plain(sentences),
    };
    if find(NoComma).is_some() {
        text = text.replace(',', "");
    }
    if find(Title).is_some() {
        text = format!("<<About {title}>>\n{text}");
    }
    if find(Postscript).is_some() {
        text = format!("{text}\n{}", pick(&POSTSCRIPTS, rng));
    }
    if let Some(instruction) = find(EndPhrase) {
        text = format!("{text} {}", instruction.end_phrase);
    }
    if find(Lowercase).is_some() {
        text = text.to_lowercase();
    }
    if find(Capital).is_some() {
        text = text.to_uppercase();
    }
    if find(Quotation).is_some() {
        text = format!("\"{text}\"");
    }
    text
}

/// What the user says, per split. A held-out wording is a new sentence made of words that occur in training.
pub(super) fn wordings(kind: Kind) -> &'static PerSplit<&'static [&'static str]> {
    match kind {
        Lowercase => &PerSplit {
            train: &[
                "Use only lowercase letters.",
                "Write everything in lowercase letters.",
                "Your answer should be in all lowercase letters.",
                "Please answer in lowercase only.",
                "Keep all letters lowercase.",
                "I want the whole answer in lowercase.",
                "Reply in lowercase without any capitals.",
                "Every word of the reply should be lowercase.",
                "Only lowercase letters are allowed.",
            ],
            validation: &["Write the reply in lowercase letters.", "All words should be lowercase."],
            test: &[
                "Please keep your reply in lowercase letters.",
                "Every letter must be lowercase.",
                "Write your whole answer in all lowercase.",
            ],
        },
        Capital => &PerSplit {
            train: &[
                "Use only capital letters.",
                "Write everything in capital letters.",
                "Your answer should be in all capital letters.",
                "Please answer in capitals only.",
                "Keep every letter uppercase.",
                "I want the whole answer in uppercase.",
                "Reply in capitals.",
                "Every word of the reply must be in capital letters.",
                "Only uppercase letters are allowed.",
            ],
            validation: &["Write the reply in capital letters.", "All words should be uppercase."],
            test: &[
                "Please keep your reply in capital letters.",
                "Every letter must be a capital letter.",
                "Write your whole answer in uppercase.",
            ],
        },
        NoComma => &PerSplit {
            train: &[
                "Do not use any commas.",
                "Write without commas.",
                "Avoid commas in your answer.",
                "No commas are allowed.",
                "Leave out all commas.",
                "Your answer should not have any commas.",
                "Please reply without a single comma.",
                "I do not want to see a comma.",
                "There must be no comma in the answer.",
            ],
            validation: &["Reply without any commas.", "There should be no commas in your answer."],
            test: &[
                "Please write your reply without commas.",
                "Your answer must not have a single comma.",
                "Do not use commas in the reply.",
            ],
        },
        Quotation => &PerSplit {
            train: &[
                "Put your answer in double quotation marks.",
                "Wrap the whole answer in quotation marks.",
                "Start and end with a double quotation mark.",
                "Your answer should be inside quotation marks.",
                "Use quotation marks around the whole answer.",
                "Write the reply between double quotation marks.",
                "Please put quotation marks around your reply.",
                "I want the whole reply inside double quotation marks.",
            ],
            validation: &["Wrap your reply in quotation marks.", "Put the answer between quotation marks."],
            test: &[
                "Please wrap the answer in double quotation marks.",
                "Your whole reply should be between quotation marks.",
                "Put double quotation marks around the answer.",
            ],
        },
        EndPhrase => &PerSplit {
            train: &[
                "End with the phrase: {phrase}",
                "Finish your answer with this phrase: {phrase}",
                "Your last words should be: {phrase}",
                "The answer must end with: {phrase}",
                "End your answer with these exact words: {phrase}",
                "At the very end, say: {phrase}",
                "Please finish with the words: {phrase}",
                "The last sentence of the reply should be: {phrase}",
            ],
            validation: &["Please end with these words: {phrase}", "Finish the reply with: {phrase}"],
            test: &[
                "Finish your reply with this exact phrase: {phrase}",
                "The reply must end with the words: {phrase}",
                "Your last sentence should be: {phrase}",
            ],
        },
        Title => &PerSplit {
            train: &[
                "Give your answer a title in double angle brackets.",
                "Start with a title inside double angle brackets.",
                "Put a title like <<title>> at the top.",
                "Add a title in double angle brackets.",
                "The answer should have a title like <<title>>.",
                "Please begin with a title in angle brackets.",
                "Write a title in double angle brackets above the answer.",
                "I want a title at the top, inside angle brackets.",
            ],
            validation: &["Begin your answer with a title in double angle brackets.", "Add a title like <<title>>."],
            test: &[
                "Please put a title in double angle brackets above your reply.",
                "Your reply should start with a title like <<title>>.",
                "Give the reply a title inside double angle brackets.",
            ],
        },
        Postscript => &PerSplit {
            train: &[
                "Add a postscript that starts with P.S.",
                "At the end, add a postscript with P.S.",
                "Please write a P.S. after your answer.",
                "Your answer should have a postscript: P.S.",
                "Finish with a postscript that starts with P.S.",
                "Put a P.S. below the answer.",
                "I want a postscript, with P.S. in front.",
                "Do not forget to add a P.S. at the end.",
            ],
            validation: &["Write a postscript with P.S. at the end.", "Add a P.S. to your answer."],
            test: &[
                "Please add a postscript after the reply, with P.S. in front.",
                "Your reply should have a P.S. at the end.",
                "Put a postscript that starts with P.S. below your answer.",
            ],
        },
        Bullets => &PerSplit {
            train: &[
                "Use exactly {n} bullet points.",
                "Write your answer as {n} bullet points.",
                "Give me {n} bullet points.",
                "Your answer should be a list of {n} bullet points.",
                "Answer with exactly {n} bullets.",
                "Please make a list with {n} bullets.",
                "I want {n} bullet points like * this.",
                "The reply must have {n} bullet points.",
            ],
            validation: &["Answer in {n} bullet points.", "Please give me a list of {n} bullets."],
            test: &[
                "Your reply should have exactly {n} bullet points.",
                "Please write a list of {n} bullet points.",
                "Make your answer a list with {n} bullet points.",
            ],
        },
    }
}
