//! The decision: does a sentence end within a context?
//!
//! A first pass looks at a token alone, a second one at the token after it. The numbers in brackets are sections of the
//! paper.

use crate::ifeval::text;

use super::model::{self, Model};
use super::token;

/// Whether a token of a context, other than its last, ends a sentence (`text_contains_sentbreak`).
pub(super) fn inside(model: &Model<'_>, context: &str) -> bool {
    let mut tokens = token::tokens(context).map(|text| Token { text, kind: kind(model, text) });
    let Some(mut token) = tokens.next() else { return false };
    tokens.any(|next| ends_sentence(model, &std::mem::replace(&mut token, next), &next))
}

#[derive(Clone, Copy)]
struct Token<'a> {
    text: &'a str,
    kind: Kind,
}

/// What a token is, looked at alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Word,
    /// A mark, or a word with a full stop.
    End,
    Ellipsis,
    Abbreviation,
}

/// The first pass (`_first_pass_annotation`).
fn kind(model: &Model<'_>, token: &str) -> Kind {
    if matches!(token, "." | "?" | "!") {
        return Kind::End;
    }
    if token::is_ellipsis(token) {
        return Kind::Ellipsis;
    }
    let Some(stem) = token.strip_suffix('.') else { return Kind::Word };
    let stem = text::lower(stem);
    let last_part = stem.rsplit('-').next().unwrap_or_default();
    let abbreviated = [&stem, last_part].iter().any(|&stem| model.abbreviations.contains(stem));
    if abbreviated { Kind::Abbreviation } else { Kind::End }
}

/// The second pass (`_second_pass_annotation`).
fn ends_sentence(model: &Model<'_>, token: &Token<'_>, next: &Token<'_>) -> bool {
    if !token.text.ends_with('.') {
        return token.kind == Kind::End;
    }
    let token_type = token::token_type(token.text);
    let token_type = token::without_stop(&token_type);
    let next_type = token::token_type(next.text);
    let next_type = if next.kind == Kind::End { token::without_stop(&next_type) } else { &next_type };

    // Collocations (4.1.2).
    if model.collocations.contains(&(token_type, next_type)) {
        return false;
    }
    let contexts = model.contexts(next_type);
    let begins = begins_sentence(next.text, contexts);
    let capitalised = token::is_capitalised(next.text);
    let initial = token::is_initial(token.text);
    // Abbreviations and ellipses at the end of a sentence (4.2), by spelling (4.1.1) or frequent first words (4.1.3).
    let stands_open = matches!(token.kind, Kind::Abbreviation | Kind::Ellipsis) && !initial;
    if stands_open && (begins == Some(true) || capitalised && model.sentence_starters.contains(next_type)) {
        return true;
    }
    // Initials and ordinal numbers within a sentence (4.3). An initial goes with a name that is never written small.
    let never_small = capitalised && contexts & model::SMALL == 0;
    if (initial || token_type == token::NUMBER) && (begins == Some(false) || begins.is_none() && initial && never_small)
    {
        return false;
    }
    token.kind == Kind::End
}

/// Whether the way in which a token is written here and in the training text shows it to begin a sentence
/// (`_ortho_heuristic`); `None` if that shows nothing.
fn begins_sentence(token: &str, contexts: u8) -> Option<bool> {
    if matches!(token, ";" | ":" | "," | "." | "!" | "?") {
        return Some(false);
    }
    if token::is_capitalised(token) && contexts & model::SMALL != 0 && contexts & model::CAPITAL_WITHIN == 0 {
        return Some(true);
    }
    let small_within = contexts & model::CAPITAL != 0 || contexts & model::SMALL_FIRST == 0;
    (token::is_uncapitalised(token) && small_within).then_some(false)
}

#[cfg(test)]
mod tests {
    use super::super::model::ENGLISH;

    /// Whether the English model sees the end of a sentence within a text. The values are NLTK's.
    fn ends(text: &str) -> bool {
        super::inside(&ENGLISH, text)
    }

    #[test]
    fn marks_and_full_stops_end_a_sentence() {
        assert!(ends("Who? him") && ends("fine. ok") && ends("fine! ok") && ends("(fine.)"));
        assert!(!ends("fine."), "nothing follows");
        assert!(!ends("fine, ok"));
    }

    #[test]
    fn abbreviations_end_one_before_what_begins_sentences() {
        assert!(!ends("Mr. Levine") && !ends("Inc. Smith") && !ends("First-class-st. Smith"));
        assert!(ends("Inc. The") && ends("p.m. However"));
        assert!(!ends("inc. ,"));
        assert!(!ends("Inc. House"), "capitals within sentences, too, show nothing");
        assert!(ends("Inc. Since."), "a full stop at the end of a sentence is no part of the type");
        assert!(ends("Inc. Vs.") && !ends("Inc. Wed."), "that of an abbreviation is");
    }

    #[test]
    fn ellipses_end_one_before_what_begins_sentences() {
        assert!(ends("Wait... The") && !ends("Wait... Smith") && !ends("Hm.. the"));
    }

    #[test]
    fn initials_and_numbers_do_not_before_names_and_small_letters() {
        assert!(!ends("J. Smith") && !ends("I. zork") && !ends("J. Zork") && !ends("_. zork"));
        assert!(ends("B. Since"));
        assert!(!ends("N. The"), "an initial that is an abbreviation");
        assert!(!ends("J. of") && !ends("5. of"), "small at the beginning of sentences, but with a capital elsewhere");
        assert!(
            ends("J. administrators") && ends("5. administrators"),
            "only small, also at the beginning of sentences"
        );
        assert!(ends("5. Zork") && !ends("5. zork") && !ends("٥. zork"));
    }

    #[test]
    fn collocations_do_not() {
        assert!(!ends("B. Wigton") && !ends("5. Insider"));
        assert!(!ends("5. Insider."), "a full stop at the end is no part of the type");
        assert!(ends("5. Insiders"));
    }
}
