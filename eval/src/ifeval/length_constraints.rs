//! `length_constraints`: numbers of words, sentences and paragraphs.

use std::sync::LazyLock;

use regex::Regex;

use super::instruction::{ArgumentError, Arguments, Check, Instruction, Limit, Verdict, ensure, shown};
use super::{sentences, text};

pub(super) const INSTRUCTIONS: &[Instruction] = &[
    Instruction {
        id: "length_constraints:nth_paragraph_first_word",
        arguments: &["num_paragraphs", "nth_paragraph", "first_word"],
        build: nth_paragraph_first_word,
    },
    Instruction {
        id: "length_constraints:number_paragraphs",
        arguments: &["num_paragraphs"],
        build: number_paragraphs,
    },
    Instruction {
        id: "length_constraints:number_sentences",
        arguments: &["relation", "num_sentences"],
        build: number_sentences,
    },
    Instruction { id: "length_constraints:number_words", arguments: &["relation", "num_words"], build: number_words },
];

/// Three asterisks with at most one white space on either side, wherever they stand.
static DIVIDER: LazyLock<Regex> = LazyLock::new(|| {
    let space = text::SPACE;
    Regex::new(&format!(r"[{space}]?\*\*\*[{space}]?")).expect("a valid pattern")
});

fn number_sentences(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = arguments.limit("relation", "num_sentences")?;
    Ok(Check::new(move |response| limit.verdict(sentences::count(response), "sentence")))
}

fn number_words(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = arguments.limit("relation", "num_words")?;
    Ok(Check::new(move |response| limit.verdict(text::count_words(response), "word")))
}

/// Paragraphs between dividers. A blank one counts for nothing at either end and fails the check anywhere else.
fn number_paragraphs(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let limit = Limit::Exactly(arguments.count("num_paragraphs")?);
    Ok(Check::new(move |response| {
        let blank: Vec<bool> = DIVIDER.split(response).map(text::is_blank).collect();
        let last = blank.len() - 1;
        if (1..last).any(|index| blank[index]) {
            return Err("nothing between two `***` dividers".into());
        }
        let blank_ends = usize::from(blank[0]) + usize::from(last > 0 && blank[last]);
        limit.verdict(blank.len() - blank_ends, "paragraph")
    }))
}

/// The first word of one paragraph, paragraphs being what two newlines divide. The count leaves out blank pieces while
/// the index does not, which is how the official checker does it.
fn nth_paragraph_first_word(arguments: &Arguments<'_>) -> Result<Check, ArgumentError> {
    let paragraphs = arguments.count("num_paragraphs")?;
    let nth = arguments.count("nth_paragraph")?;
    if !(1..=paragraphs).contains(&nth) {
        return Err(
            arguments.invalid("nth_paragraph", format!("between 1 and `num_paragraphs`, which is {paragraphs}"))
        );
    }
    let first_word = text::lower(arguments.text("first_word")?);
    Ok(Check::new(move |response| first_word_verdict(response, paragraphs, nth, &first_word)))
}

fn first_word_verdict(response: &str, paragraphs: usize, nth: usize, first_word: &str) -> Verdict {
    let pieces: Vec<&str> = response.split("\n\n").collect();
    let found = pieces.iter().filter(|piece| !text::is_blank(piece)).count();
    Limit::Exactly(paragraphs).verdict(found, "paragraph")?;
    let Some(token) = text::strip(pieces[nth - 1]).split(text::is_space).next().filter(|token| !token.is_empty())
    else {
        return Err(format!("piece {nth} of the response is blank"));
    };
    let word = token.trim_start_matches('\'').trim_start_matches('"');
    let word = &word[..word.find(['.', ',', '?', '!', '\'', '"']).unwrap_or(word.len())];
    // Letter by letter, so that a sigma at the end is no final one.
    let lowered: String = word.chars().map(|c| text::lower(c.encode_utf8(&mut [0; 4]))).collect();
    ensure(lowered == first_word, || {
        format!("paragraph {nth} begins with {}, {} required", shown(&lowered), shown(first_word))
    })
}

#[cfg(test)]
mod tests {
    use crate::ifeval::instruction::tests::{assert_verdicts, verdict};
    use serde_json::json;

    #[test]
    fn number_sentences() {
        let id = "length_constraints:number_sentences";
        let kwargs = json!({"relation": "at least", "num_sentences": 2});
        let violated = ["Mr. Smith came.", "one\ntwo", "One... two", "J. Bach", ""];
        assert_verdicts(id, &kwargs, &["He came. He saw.", "What?! No", "(One.) (Two.)"], &violated);
        let kwargs = json!({"relation": "less than", "num_sentences": 2});
        assert_verdicts(id, &kwargs, &["See p. 3 of it.", "一。二。"], &["One. Two."]);
        assert_eq!(verdict(id, &kwargs, "A b. C d! E").unwrap_err(), "found 3 sentences, fewer than 2 required");
    }

    #[test]
    fn number_words() {
        let id = "length_constraints:number_words";
        let kwargs = json!({"relation": "at least", "num_words": 3});
        assert_verdicts(id, &kwargs, &["one two three", "don't go", "x-y-z"], &["one two", ""]);
        let kwargs = json!({"relation": "less than", "num_words": 3});
        assert_verdicts(id, &kwargs, &["one two"], &["one two three"]);
        assert_eq!(verdict(id, &kwargs, "a b c").unwrap_err(), "found 3 words, fewer than 3 required");
    }

    #[test]
    fn number_paragraphs() {
        let id = "length_constraints:number_paragraphs";
        let followed = ["a\n***\nb", "***a***b***", "***bold***x", "a *** b"];
        let violated = ["a", "a******b", "a\n\nb", "a***b***c", "***"];
        assert_verdicts(id, &json!({"num_paragraphs": 2}), &followed, &violated);
        assert_verdicts(id, &json!({"num_paragraphs": 1}), &["a", "a\n\nb"], &["", "a***b"]);
        let reason = verdict(id, &json!({"num_paragraphs": 3}), "a").unwrap_err();
        assert_eq!(reason, "found 1 paragraph, exactly 3 required");
    }

    #[test]
    fn nth_paragraph_first_word() {
        let id = "length_constraints:nth_paragraph_first_word";
        let kwargs = json!({"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Send"});
        let followed = ["a\n\nsend it", "a\n\n'\"SEND, it", "a\n\nsend", "a\n\nsend\n\n"];
        let violated =
            ["a\n\nsending", "a\n\n\n\nsend", "a\r\n\r\nsend", "send\n\na", "a\n\nsend\n\nb", "a\n\n\"'send"];
        assert_verdicts(id, &kwargs, &followed, &violated);
        let reason = verdict(id, &kwargs, "a\n\nTake it").unwrap_err();
        assert_eq!(reason, "paragraph 2 begins with `take`, `send` required");
        let out_of_range = json!({"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "a"});
        let error = crate::ifeval::registry::build(id, out_of_range.as_object().unwrap()).unwrap_err();
        assert!(error.to_string().contains("between 1 and `num_paragraphs`, which is 2, not `3`"), "{error}");
    }
}
