//! Reasoning that a model wrote into its response, taken out before the response is judged.
//!
//! ```
//! use orpo_eval::reasoning::Reasoning;
//!
//! let reasoning = Reasoning::new(["think".parse()?]);
//! let stripped = reasoning.strip("<think>Two and two...</think>\n\nFour.").expect("there is reasoning");
//! assert_eq!(stripped.answer.as_deref(), Some("Four."));
//! # Ok::<(), String>(())
//! ```
//!
//! Reasoning that never ends leaves no answer at all: what a cut-off model was still thinking is not what it said. A
//! server that returns reasoning beside the content (`reasoning_content`, `reasoning`) has separated it already.

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use regex::Regex;

/// How reasoning is marked. As text: `auto`, `think`, `harmony` or `START...END`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Format {
    /// Any of the marks that are known, where the reasoning comes before the answer: everything up to the last end
    /// mark is reasoning. A start mark in the middle of an answer is a mention of it.
    Auto,
    /// `<think>...</think>` in any case.
    Think,
    /// The channels of gpt-oss: `<|channel|>analysis<|message|>...<|end|>`; the channel `final` holds the answer.
    Harmony,
    /// Anything between two literal delimiters.
    Delimiters {
        /// Where reasoning begins.
        start: String,
        /// Where it ends.
        end: String,
    },
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.split_once("...")) {
            ("auto", _) => Ok(Self::Auto),
            ("think", _) => Ok(Self::Think),
            ("harmony", _) => Ok(Self::Harmony),
            (_, Some((start, end))) if !start.is_empty() && !end.is_empty() => {
                Ok(Self::Delimiters { start: start.into(), end: end.into() })
            }
            _ => Err("use `auto`, `think`, `harmony` or two delimiters written START...END".into()),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Think => f.write_str("think"),
            Self::Harmony => f.write_str("harmony"),
            Self::Delimiters { start, end } => write!(f, "{start}...{end}"),
        }
    }
}

/// What is left of a response in which reasoning was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stripped {
    /// The rest, without white space in front; none if the reasoning does not end.
    pub answer: Option<String>,
}

/// Takes out reasoning in some formats.
#[derive(Debug, Clone, Default)]
pub struct Reasoning {
    formats: Vec<(Format, Finder)>,
}

/// Finds the reasoning of one format.
#[derive(Debug, Clone)]
enum Finder {
    Leading,
    Blocks(Blocks),
    Harmony,
}

impl Reasoning {
    /// Takes out reasoning in these formats, one after the other. Without formats nothing is taken out.
    pub fn new(formats: impl IntoIterator<Item = Format>) -> Self {
        let with_finder = |format: Format| {
            let finder = match &format {
                Format::Auto => Finder::Leading,
                Format::Think => Finder::Blocks(Blocks::new("(?i)", "<think>", "</think>")),
                Format::Harmony => Finder::Harmony,
                Format::Delimiters { start, end } => Finder::Blocks(Blocks::new("", start, end)),
            };
            (format, finder)
        };
        Self { formats: formats.into_iter().map(with_finder).collect() }
    }

    /// The formats.
    pub fn formats(&self) -> impl Iterator<Item = &Format> {
        self.formats.iter().map(|(format, _)| format)
    }

    /// What is left of a text; none if there is no reasoning in it.
    pub fn strip(&self, text: &str) -> Option<Stripped> {
        let mut left: Option<String> = None;
        for (_, finder) in &self.formats {
            let text = left.as_deref().unwrap_or(text);
            let found = match finder {
                Finder::Leading => strip_leading(text),
                Finder::Blocks(blocks) => blocks.strip(text),
                Finder::Harmony => strip_harmony(text),
            };
            match found {
                Some(Stripped { answer: Some(answer) }) => left = Some(answer),
                Some(Stripped { answer: None }) => return found,
                None => {}
            }
        }
        left.map(|answer| Stripped { answer: Some(answer) })
    }
}

/// Whether a response begins with reasoning in any of the known formats.
pub fn begins_with_reasoning(response: &str) -> bool {
    strip_leading(response).is_some()
}

/// The marks around reasoning of DeepSeek, Qwen and most others; of models that were told to write such tags; of Seed,
/// Magistral, Kimi, Command A, OpenThoughts, Gemma and MedGemma.
const MARKS: [(&str, &str); 11] = [
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("\u{25c1}think\u{25b7}", "\u{25c1}/think\u{25b7}"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel>thought", "<channel|>"),
    ("<unused94>", "<unused95>"),
];

/// Takes out what comes before the last end mark. Templates often put the start mark into the prompt, so that it may be
/// missing here.
fn strip_leading(text: &str) -> Option<Stripped> {
    static START: LazyLock<Regex> = LazyLock::new(|| any_of("^\\s*", MARKS.map(|(start, _)| start)));
    static END: LazyLock<Regex> = LazyLock::new(|| any_of("", MARKS.map(|(_, end)| end)));
    if ["<|start|>", "<|channel|>", "assistant<|channel|>"].iter().any(|header| text.trim_start().starts_with(header)) {
        return strip_harmony(text);
    }
    match END.find_iter(text).last() {
        Some(end) => Some(Stripped { answer: Some(text[end.end()..].trim_start().to_owned()) }),
        None => START.is_match(text).then_some(Stripped { answer: None }),
    }
}

/// A pattern for any of some literal texts, in any case, behind a pattern.
fn any_of(before: &str, texts: [&str; MARKS.len()]) -> Regex {
    let texts = texts.map(regex::escape).join("|");
    Regex::new(&format!("(?i){before}(?:{texts})")).expect("escaped text is a valid pattern")
}

/// Blocks between two delimiters.
#[derive(Debug, Clone)]
struct Blocks {
    /// Either delimiter.
    marks: Regex,
    /// Whether both are the same.
    same: bool,
}

impl Blocks {
    fn new(flags: &str, start: &str, end: &str) -> Self {
        let mut marks = [format!("(?<start>{})", regex::escape(start)), format!("(?<end>{})", regex::escape(end))];
        if end.len() > start.len() {
            // The longer one first, in case it begins with the other.
            marks.reverse();
        }
        let marks = Regex::new(&format!("{flags}{}", marks.join("|"))).expect("escaped text is a valid pattern");
        Self { marks, same: start == end }
    }

    /// Takes out every block. An end that nothing began closes reasoning that began in front of the text, which is
    /// where chat templates put the opening tag.
    fn strip(&self, text: &str) -> Option<Stripped> {
        let mut kept = String::new();
        let mut from = 0;
        let (mut found, mut inside) = (false, false);
        for mark in self.marks.captures_iter(text) {
            let whole = mark.get(0).expect("a match has a whole");
            match (inside, mark.name("start").is_some() && !(inside && self.same)) {
                (true, false) => inside = false,
                // The opening tag is mentioned within the reasoning.
                (true, true) => continue,
                (false, true) => {
                    kept.push_str(&text[from..whole.start()]);
                    inside = true;
                }
                (false, false) => kept.clear(),
            }
            (found, from) = (true, whole.end());
        }
        if inside {
            return Some(Stripped { answer: None });
        }
        kept.push_str(&text[from..]);
        found.then(|| Stripped { answer: Some(kept.trim_start().to_owned()) })
    }
}

static HARMONY: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"<\|(start|channel|message|end|return|call)\|>").expect("a valid pattern"));

/// The text of the final channel, or of messages without a channel (openai/harmony, "Harmony response format"). A text
/// begins inside a header, because `<|start|>assistant` stands in the prompt; its last message may lack its end,
/// because servers leave out the token that stopped them.
fn strip_harmony(text: &str) -> Option<Stripped> {
    /// Where in a message the text between two marks stands.
    enum Part {
        Role,
        Channel,
        Content,
    }
    let mut part = Part::Role;
    let mut is_final = true;
    let mut finals: Vec<&str> = Vec::new();
    let mut from = None;
    for mark in HARMONY.captures_iter(text) {
        let whole = mark.get(0).expect("a match has a whole");
        let before = &text[from.unwrap_or(0)..whole.start()];
        match part {
            Part::Content if is_final => finals.push(before),
            Part::Channel => is_final = before.split_whitespace().next() == Some("final"),
            // No header at all: the prompt held it.
            Part::Role if from.is_none() && matches!(&mark[1], "end" | "return" | "call") => finals.push(before),
            _ => {}
        }
        part = match &mark[1] {
            "channel" => Part::Channel,
            "message" => Part::Content,
            _ => {
                is_final = true;
                Part::Role
            }
        };
        from = Some(whole.end());
    }
    let rest = &text[from?..];
    if matches!(part, Part::Content) && is_final {
        finals.push(rest);
    }
    let answer = (!finals.is_empty()).then(|| finals.join("\n").trim_start().to_owned());
    Some(Stripped { answer })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The answer in a text; `None` if there is no reasoning in it, `Some(None)` if it does not end.
    fn strip(formats: &[&str], text: &str) -> Option<Option<String>> {
        let formats = formats.iter().map(|format| format.parse().unwrap());
        Reasoning::new(formats).strip(text).map(|stripped| stripped.answer)
    }

    fn assert_answers(formats: &[&str], cases: &[(&str, Option<&str>)]) {
        for (text, answer) in cases {
            assert_eq!(strip(formats, text), Some(answer.map(str::to_owned)), "{formats:?} on {text:?}");
        }
    }

    #[test]
    fn think() {
        let cases = [
            ("<think>a</think>\n\nb ", Some("b ")),
            ("<THINK>a</Think>b", Some("b")),
            ("a\n</think>\n\nb", Some("b")),
            ("<think></think>", Some("")),
            ("x <think>a</think> y <think>b</think> z", Some("x  y  z")),
            ("<think>the tag <think> is mine</think>b", Some("b")),
            ("<think>a</think> b </think> c", Some("c")),
            ("<think>a", None),
            ("b <think>a", None),
            ("<think>a</think> b <think> c", None),
        ];
        assert_answers(&["think"], &cases);
        for text in ["", "a", "think> a", "</ think>", "<thinking>a</thinking>"] {
            assert_eq!(strip(&["think"], text), None, "{text:?}");
        }
    }

    #[test]
    fn harmony() {
        let cases = [
            (
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b<|return|>",
                Some("b"),
            ),
            (
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|> b\n\nc",
                Some("b\n\nc"),
            ),
            ("<|start|>assistant<|channel|>final <|constrain|>json<|message|>{}<|end|>", Some("{}")),
            ("assistant<|channel|>final<|message|>b<|return|>", Some("b")),
            ("<|start|>assistant<|message|>b<|end|>", Some("b")),
            ("b<|return|>", Some("b")),
            ("<|channel|>final<|message|>b<|end|><|start|>assistant<|channel|>final<|message|>c", Some("b\nc")),
            ("<|channel|>final<|message|>", Some("")),
            ("<|channel|>analysis<|message|>a", None),
            ("<|channel|>analysis<|message|>a<|end|>", None),
            ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final", None),
            (
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary to=f<|message|>{}<|call|>",
                None,
            ),
        ];
        assert_answers(&["harmony"], &cases);
        assert_eq!(strip(&["harmony"], "analysis, final"), None);
    }

    #[test]
    fn leading_reasoning_is_known_by_any_mark() {
        for (start, end) in MARKS {
            let text = |before: &str| format!("{before}{start}a [[3]]{end}\n\nb ");
            assert_answers(
                &["auto"],
                &[(&text(""), Some("b ")), (&text(" \n"), Some("b ")), (&format!("{start}a"), None)],
            );
            assert_answers(&["auto"], &[(&format!("a{end}b"), Some("b"))]);
            assert_eq!(strip(&["auto"], &format!("b mentions {start} only")), None, "{start}");
        }
        let cases = [
            ("<THINK>a</Think>b", Some("b")),
            ("<think>an answer with </think> in it</think>b", Some("b")),
            ("<think>a</think>the mark <think> is mentioned", Some("the mark <think> is mentioned")),
            ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", Some("b")),
            ("<|channel|>analysis<|message|>a", None),
        ];
        assert_answers(&["auto"], &cases);
        for text in ["", "a", "think> a", "</ think>", "It leaks <|channel|> marks."] {
            assert_eq!(strip(&["auto"], text), None, "{text:?}");
            assert!(!begins_with_reasoning(text));
        }
        assert!(begins_with_reasoning("<think>a</think>b") && begins_with_reasoning("<think>a"));
    }

    #[test]
    fn delimiters_are_literal() {
        let cases = [("[THINK]a.*[/THINK]b", Some("b")), ("a[/THINK]b", Some("b")), ("[THINK]b", None)];
        assert_answers(&["[THINK]...[/THINK]"], &cases);
        assert_eq!(strip(&["[THINK]...[/THINK]"], "[think]a[/think]b"), None);
        assert_answers(&["%%...%%"], &[("%%a%%b", Some("b")), ("x%%a%%b%%", None)]);
        assert_answers(&["<...</"], &[("<a</b", Some("b"))]);
        for wrong in ["", "thoughts", "...", "a...", "...b", "Think"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn formats_apply_one_after_the_other() {
        let text = "<|channel|>final<|message|><think>a</think>b";
        assert_answers(&["harmony", "think"], &[(text, Some("b")), ("<think>a</think>b", Some("b"))]);
        assert_eq!(strip(&["harmony", "think"], "b"), None);
        assert_eq!(strip(&[], "<think>a"), None);
        for format in ["auto", "think", "harmony", "<a>...</a>"] {
            assert_eq!(format.parse::<Format>().unwrap().to_string(), format);
        }
    }

    /// The definition read off literally: take blocks out until none is left, beginning with the first delimiter.
    fn slow(text: &str) -> Option<Option<String>> {
        let (start, end) = ("<", ">");
        let (mut kept, mut rest, mut found) = (String::new(), text, false);
        while let Some(at) = rest.find([start, end].map(|mark| mark.chars().next().unwrap())) {
            found = true;
            if rest[at..].starts_with(end) {
                kept.clear();
                rest = &rest[at + 1..];
                continue;
            }
            kept += &rest[..at];
            match rest[at..].find(end) {
                Some(length) => rest = &rest[at + length + 1..],
                None => return Some(None),
            }
        }
        found.then(|| Some((kept + rest).trim_start().to_owned()))
    }

    proptest! {
        #[test]
        fn blocks_agree_with_the_definition(text in "[<> ab]{0,20}") {
            prop_assert_eq!(strip(&["<...>"], &text), slow(&text));
        }

        #[test]
        fn what_is_left_has_no_reasoning(text in "(<think>|</think>|a| |\n){0,12}") {
            if let Some(Some(answer)) = strip(&["think"], &text) {
                prop_assert_eq!(strip(&["think"], &answer), None);
            }
        }
    }
}
