//! What is taken out of a text before it is cut into n-grams.
//!
//! langdetect's `Detector.append` and `cleaning_text`, in their order: web and e-mail addresses become a space each,
//! Vietnamese letters with a combining tone become one character, 10,000 characters are left, runs of spaces become
//! one, and Latin letters go where the text is mostly in another script.

use std::ops::Range;
use std::str::Chars;

/// The number of characters that are looked at.
const LONGEST: usize = 10_000;

/// Base letters of Vietnamese; their forms with tones stand in the same order in [`WITH_TONE`].
const BASES: &str = "AEIOUYaeiouyÂÊÔâêôĂăƠơƯư";
/// The combining tones and the letters with them.
const WITH_TONE: [(char, &str); 5] = [
    ('\u{300}', "ÀÈÌÒÙỲàèìòùỳẦỀỒầềồẰằỜờỪừ"),
    ('\u{301}', "ÁÉÍÓÚÝáéíóúýẤẾỐấếốẮắỚớỨứ"),
    ('\u{303}', "ÃẼĨÕŨỸãẽĩõũỹẪỄỖẫễỗẴẵỠỡỮữ"),
    ('\u{309}', "ẢẺỈỎỦỶảẻỉỏủỷẨỂỔẩểổẲẳỞởỬử"),
    ('\u{323}', "ẠẸỊỌỤỴạẹịọụỵẬỆỘậệộẶặỢợỰự"),
];

/// The characters of a text that say something about its language.
pub fn clean(text: &str) -> Vec<char> {
    let text = without(text, web_address);
    let text = without(&text, mail_address);
    let mut kept = Vec::new();
    for c in WithTones(text.chars()).take(LONGEST) {
        if c != ' ' || kept.last() != Some(&' ') {
            kept.push(c);
        }
    }
    // The range has `[\]^_` and the backtick, too.
    let is_latin = |c: char| ('A'..='z').contains(&c);
    let latin = kept.iter().filter(|&&c| is_latin(c)).count();
    // Upstream means to leave out Vietnamese letters, too, but compares a block's number with a block's name.
    let others = kept.iter().filter(|&&c| c >= '\u{300}').count();
    if latin * 2 < others {
        kept.retain(|&c| !is_latin(c));
    }
    kept
}

/// A text with a space for each part that a function finds from some place on.
fn without(text: &str, find: fn(&str, usize) -> Option<Range<usize>>) -> String {
    let mut rest = String::with_capacity(text.len());
    let mut from = 0;
    while let Some(found) = find(text, from) {
        rest.push_str(&text[from..found.start]);
        rest.push(' ');
        from = found.end;
    }
    rest.push_str(&text[from..]);
    rest
}

/// The number of bytes of a class at the beginning of some, but at most so many.
fn run<'a>(bytes: impl IntoIterator<Item = &'a u8>, longest: usize, class: fn(u8) -> bool) -> usize {
    bytes.into_iter().take(longest).take_while(|&&byte| class(byte)).count()
}

/// The first match of `https?://[-_.?&~;+=/#0-9A-Za-z]{1,2076}` from some place on.
fn web_address(text: &str, from: usize) -> Option<Range<usize>> {
    let in_address = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.?&~;+=/#".contains(&byte);
    text[from..].match_indices("http").find_map(|(start, scheme)| {
        let start = from + start;
        let rest = &text[start + scheme.len()..];
        let address = rest.strip_prefix('s').unwrap_or(rest).strip_prefix("://")?;
        let length = run(address.as_bytes(), 2076, in_address);
        (length > 0).then(|| start..text.len() - address.len() + length)
    })
}

/// The first match of `[-_.0-9A-Za-z]{1,64}@[-_0-9A-Za-z]{1,255}[-_.0-9A-Za-z]{1,255}` from some place on.
fn mail_address(text: &str, from: usize) -> Option<Range<usize>> {
    let in_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let in_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let bytes = text.as_bytes();
    text[from..].match_indices('@').find_map(|(at, _)| {
        let at = from + at;
        let name = run(bytes[from..at].iter().rev(), 64, in_name);
        let host = run(&bytes[at + 1..], 255, in_host);
        let rest = run(&bytes[at + 1 + host..], 255, in_name);
        // Where nothing is left for the second half of the host, the first half gives one back.
        (name > 0 && host > 0 && host + rest > 1).then(|| at - name..at + 1 + host + rest)
    })
}

/// Characters where each base letter that a combining tone follows is one with it.
struct WithTones<'a>(Chars<'a>);

impl Iterator for WithTones<'_> {
    type Item = char;

    fn next(&mut self) -> Option<char> {
        let c = self.0.next()?;
        let mut after = self.0.clone();
        let with_tone = after.next().and_then(|tone| with_tone(c, tone));
        if with_tone.is_some() {
            self.0 = after;
        }
        Some(with_tone.unwrap_or(c))
    }
}

/// A base letter and a combining tone as one character.
fn with_tone(base: char, tone: char) -> Option<char> {
    let (_, letters) = WITH_TONE.into_iter().find(|&(combining, _)| combining == tone)?;
    let position = BASES.chars().position(|c| c == base)?;
    letters.chars().nth(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        clean(text).into_iter().collect()
    }

    /// With Python's `URL_RE.sub("|", text)` and `MAIL_RE.sub("|", text)` in the place of spaces.
    #[test]
    fn addresses_become_spaces() {
        for (text, expected) in [
            ("a http://x.y/z?q=1&r b", "a b"),
            ("see https://a.b/c#d~e, then", "see , then"),
            ("http:// https:///x", "http:// "),
            ("httpshttp://a:b", "https :b"),
            ("http://é", "http://é"),
            ("(a.b-c_d@e.org)", "( )"),
            ("a@b a@bc a@b. a@.b @bc", "a@b a@.b @bc"),
            ("é@bc aé.x@bc", "é@bc aé "),
            ("a@b@cd", "a@ "),
            ("a@bc@de", " @de"),
        ] {
            assert_eq!(cleaned(text), expected, "{text:?}");
        }
    }

    #[test]
    fn addresses_have_a_greatest_length() {
        let long = |c: &str, count: usize| c.repeat(count);
        assert_eq!(cleaned(&format!("http://{}", long("é", 1) + &long("a", 3))), "http://éaaa");
        assert_eq!(cleaned(&format!("http://{}", long("a", 2080))), " aaaa");
        assert_eq!(cleaned(&format!("{}@bc", long("a", 66))), "aa ");
        assert_eq!(cleaned(&format!("a@{}", long("b", 512))), " bb");
        assert_eq!(cleaned(&format!("a@{}é", long("b", 255))), " é");
        assert_eq!(cleaned(&format!("a@b{}", long(".", 257))), " ..");
    }

    #[test]
    fn tones_join_their_letters() {
        assert_eq!(
            cleaned("tie\u{302}\u{301}ng vie\u{323}\u{302}t a\u{301}\u{301}"),
            "tie\u{302}\u{301}ng viẹ\u{302}t á\u{301}"
        );
        assert_eq!(cleaned("tiê\u{301}ng ư\u{323} A\u{309} n\u{303}"), "tiếng ự Ả n\u{303}");
        for (_, letters) in WITH_TONE {
            assert_eq!(letters.chars().count(), BASES.chars().count());
        }
    }

    #[test]
    fn ten_thousand_characters_are_read_and_only_then_spaces_joined() {
        assert_eq!(clean(&"é".repeat(10_001)).len(), 10_000);
        assert_eq!(cleaned(&(" ".repeat(9_999) + "ab")), " a");
        // A letter with its tone counts once.
        assert_eq!(clean(&"a\u{301}".repeat(10_001)), ['á'; 10_000]);
        assert_eq!(cleaned("a  b\n\n c\t \u{a0}"), "a b\n\n c\t \u{a0}");
    }

    #[test]
    fn latin_letters_go_where_others_are_more_than_twice_as_many() {
        assert_eq!(cleaned("Я_xЯЯЯ1"), "Я_xЯЯЯ1");
        assert_eq!(cleaned("Я_xЯЯЯЯ1"), "ЯЯЯЯЯ1");
        assert_eq!(cleaned("ệxệệ é"), "ệệệ é");
    }
}
