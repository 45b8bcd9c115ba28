//! Template text to tokens, with jinja's whitespace control (`trim_blocks` and `lstrip_blocks` on).

use super::error::{Error, Result};
use super::python::{is_space, trim_end};

/// A token and the line that it begins on.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    pub kind: Kind,
    pub line: usize,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Kind {
    /// Text outside of tags.
    Data(String),
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    /// `{{`
    VariableBegin,
    /// `}}`
    VariableEnd,
    Name(String),
    Str(String),
    Int(i128),
    Float(f64),
    /// An operator or a bracket.
    Op(&'static str),
    /// The end of the template.
    End,
}

/// Longer ones first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// The tokens of `source`, the last of which is [`Kind::End`].
///
/// # Errors
/// A tag or string that does not end, a character that begins no token, an unbalanced bracket.
pub fn tokens(source: &str) -> Result<Vec<Token>> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = source.strip_suffix('\n').unwrap_or(&source);
    let mut lexer = Lexer { source, at: 0, line: 1, line_starting: true, tokens: Vec::new() };
    lexer.run()?;
    Ok(lexer.tokens)
}

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: usize,
    /// Whether the last tag took the newline after it, or the template begins here.
    line_starting: bool,
    tokens: Vec<Token>,
}

/// The kinds of tags.
#[derive(Clone, Copy, PartialEq)]
enum Tag {
    Block,
    Variable,
    Comment,
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { kind, line: self.line });
    }

    fn advance(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.matches('\n').count();
        self.at += bytes;
    }

    fn fail<T>(&self, message: impl Into<String>) -> Result<T> {
        Err(Error::new(message).at(self.line))
    }

    fn run(&mut self) -> Result<()> {
        while let Some((length, tag)) = next_tag(self.rest()) {
            let text = &self.rest()[..length];
            let sign = self.rest()[length + 2..].chars().next().filter(|c| matches!(c, '-' | '+'));
            let text = self.stripped(text, tag, sign).to_string();
            self.data(text, length);
            self.advance(2 + usize::from(sign.is_some()));
            match tag {
                Tag::Comment => self.comment()?,
                Tag::Block => match raw_begin(self.rest()) {
                    Some(begin) => self.raw(begin)?,
                    None => {
                        self.push(Kind::BlockBegin);
                        self.inside(tag)?;
                    }
                },
                Tag::Variable => {
                    self.push(Kind::VariableBegin);
                    self.inside(tag)?;
                }
            }
        }
        let rest = self.rest().to_string();
        let length = rest.len();
        self.data(rest, length);
        self.push(Kind::End);
        Ok(())
    }

    /// Emits `text`, which stood on the next `length` bytes.
    fn data(&mut self, text: String, length: usize) {
        if !text.is_empty() {
            self.push(Kind::Data(text));
        }
        self.advance(length);
    }

    /// The text before a tag: without the whitespace that the tag's sign or its place on the line takes away.
    fn stripped<'t>(&self, text: &'t str, tag: Tag, sign: Option<char>) -> &'t str {
        if sign == Some('-') {
            return trim_end(text);
        }
        let line = text.rfind('\n').map(|newline| newline + 1);
        let begins_line = line.is_some() || self.line_starting;
        let line = line.unwrap_or(0);
        let blank = line < text.len() && text[line..].chars().all(is_space);
        if sign.is_none() && tag != Tag::Variable && begins_line && blank { &text[..line] } else { text }
    }

    /// Passes the end of a tag, which lies before `self.at`, and the whitespace that `sign` and `trim_newline` take.
    fn pass_end(&mut self, sign: Option<char>, trim_newline: bool) {
        let from = self.at;
        match sign {
            Some('-') => {
                let rest = self.rest();
                self.advance(rest.len() - rest.trim_start_matches(is_space).len());
            }
            None if trim_newline && self.rest().starts_with('\n') => self.advance(1),
            _ => {}
        }
        self.line_starting = self.source[from..self.at].ends_with('\n');
    }

    fn comment(&mut self) -> Result<()> {
        let Some(end) = self.rest().find("#}") else { return self.fail("a comment does not end") };
        let sign = self.rest()[..end].chars().next_back().filter(|c| matches!(c, '-' | '+'));
        self.advance(end + 2);
        self.pass_end(sign, true);
        Ok(())
    }

    /// The text between `{% raw %}`, of which `begin` bytes are left, and `{% endraw %}`.
    fn raw(&mut self, begin: usize) -> Result<()> {
        let sign = self.rest()[..begin].ends_with("-%}").then_some('-');
        self.advance(begin);
        self.pass_end(sign, false);
        let mut from = 0;
        loop {
            let Some(found) = self.rest()[from..].find("{%") else { return self.fail("`raw` is not closed") };
            let tag = &self.rest()[from + found + 2..];
            let sign = tag.chars().next().filter(|c| matches!(c, '-' | '+'));
            let signed = usize::from(sign.is_some());
            if let Some(end) = keyword_tag(&tag[signed..], "endraw") {
                let length = from + found;
                let text = self.stripped(&self.rest()[..length], Tag::Block, sign).to_string();
                let closing = tag[signed..signed + end].strip_suffix("%}").and_then(|tag| tag.chars().next_back());
                self.data(text, length);
                self.advance(2 + signed + end);
                self.pass_end(closing.filter(|c| matches!(c, '-' | '+')), true);
                return Ok(());
            }
            from += found + 2;
        }
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, tag: Tag) -> Result<()> {
        let (end, end_kind) = match tag {
            Tag::Variable => ("}}", Kind::VariableEnd),
            _ => ("%}", Kind::BlockEnd),
        };
        let mut brackets = Vec::new();
        loop {
            let rest = self.rest();
            let blank = rest.len() - rest.trim_start_matches(is_space).len();
            self.advance(blank);
            let rest = self.rest();
            if brackets.is_empty() {
                let sign = rest.chars().next().filter(|c| *c == '-' || (*c == '+' && tag == Tag::Block));
                let signed = usize::from(sign.is_some());
                if rest[signed..].starts_with(end) {
                    self.push(end_kind);
                    self.advance(signed + 2);
                    self.pass_end(sign, tag == Tag::Block);
                    return Ok(());
                }
            }
            let Some(first) = rest.chars().next() else { return self.fail("a tag does not end") };
            if first == '\'' || first == '"' {
                self.string(first)?;
            } else if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                self.push(Kind::Name(rest[..length].to_string()));
                self.advance(length);
            } else {
                let Some(op) = OPERATORS.into_iter().find(|op| rest.starts_with(op)) else {
                    return self.fail(format!("unexpected character `{first}`"));
                };
                match op {
                    "(" => brackets.push(")"),
                    "[" => brackets.push("]"),
                    "{" => brackets.push("}"),
                    ")" | "]" | "}" if brackets.pop() != Some(op) => return self.fail(format!("unexpected `{op}`")),
                    _ => {}
                }
                self.push(Kind::Op(op));
                self.advance(op.len());
            }
        }
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let mut escaped = false;
        let end = self.rest().char_indices().skip(1).find(|(_, c)| {
            let ends = *c == quote && !escaped;
            escaped = *c == '\\' && !escaped;
            ends
        });
        let Some((end, _)) = end else { return self.fail("a string does not end") };
        let text = unescaped(&self.rest()[1..end]);
        self.push(Kind::Str(text));
        self.advance(end + 1);
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let digits = |text: &str, radix: u32| {
            let mut length = 0;
            for c in text.chars() {
                if c.is_digit(radix) || (c == '_' && length > 0) {
                    length += 1;
                } else {
                    break;
                }
            }
            text[..length].trim_end_matches('_').len()
        };
        let prefix = rest.get(..2).map(str::to_ascii_lowercase);
        let radix = match prefix.as_deref() {
            Some("0b") => 2,
            Some("0o") => 8,
            Some("0x") => 16,
            _ => 10,
        };
        if radix != 10 && digits(&rest[2..], radix) > 0 {
            let length = 2 + digits(&rest[2..], radix);
            return self.int(length, &rest[2..length].replace('_', ""), radix);
        }
        let whole = digits(rest, 10);
        let mut length = whole;
        // `a.1.5` is an item of an item.
        if !matches!(self.tokens.last(), Some(Token { kind: Kind::Op("."), .. })) {
            if rest[length..].starts_with('.') && digits(&rest[length + 1..], 10) > 0 {
                length += 1 + digits(&rest[length + 1..], 10);
            }
            if rest[length..].starts_with(['e', 'E']) {
                let signed = usize::from(rest[length + 1..].starts_with(['+', '-']));
                let exponent = digits(&rest[length + 1 + signed..], 10);
                length += if exponent > 0 { 1 + signed + exponent } else { 0 };
            }
        }
        let text = rest[..length].replace('_', "");
        if length == whole {
            return self.int(length, &text, 10);
        }
        let number = text.parse().expect("digits, a point and an exponent are a number");
        self.push(Kind::Float(number));
        self.advance(length);
        Ok(())
    }

    fn int(&mut self, length: usize, digits: &str, radix: u32) -> Result<()> {
        let Ok(number) = i128::from_str_radix(digits, radix) else {
            return self.fail(format!("the number {digits} is too large"));
        };
        self.push(Kind::Int(number));
        self.advance(length);
        Ok(())
    }
}

/// Where the next tag begins, and of which kind it is.
fn next_tag(text: &str) -> Option<(usize, Tag)> {
    let mut from = 0;
    loop {
        let at = from + text[from..].find('{')?;
        match text[at + 1..].chars().next() {
            Some('%') => return Some((at, Tag::Block)),
            Some('{') => return Some((at, Tag::Variable)),
            Some('#') => return Some((at, Tag::Comment)),
            _ => from = at + 1,
        }
    }
}

/// The length of `keyword` and the end of its tag, at the beginning of `text`.
fn keyword_tag(text: &str, keyword: &str) -> Option<usize> {
    let rest = text.trim_start_matches(is_space).strip_prefix(keyword)?.trim_start_matches(is_space);
    let rest = ["%}", "-%}", "+%}"].iter().find_map(|end| rest.strip_prefix(*end))?;
    Some(text.len() - rest.len())
}

fn raw_begin(text: &str) -> Option<usize> {
    keyword_tag(text, "raw").filter(|length| !text[..*length].ends_with("+%}"))
}

/// The escape sequences of Python's string literals; others stay as they are.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some(c) = rest.chars().next() else {
            out.push('\\');
            break;
        };
        let after = &rest[c.len_utf8()..];
        let simple = match c {
            'n' => Some("\n"),
            't' => Some("\t"),
            'r' => Some("\r"),
            'a' => Some("\u{7}"),
            'b' => Some("\u{8}"),
            'f' => Some("\u{c}"),
            'v' => Some("\u{b}"),
            '\\' => Some("\\"),
            '\'' => Some("'"),
            '"' => Some("\""),
            '\n' => Some(""),
            _ => None,
        };
        let digits = match c {
            'x' => 2,
            'u' => 4,
            'U' => 8,
            _ => 0,
        };
        if let Some(simple) = simple {
            out.push_str(simple);
            rest = after;
        } else if let Some(code) = after.get(..digits).filter(|_| digits > 0).and_then(hex) {
            // Half of a surrogate pair is no character.
            out.push(char::from_u32(code).unwrap_or('\u{FFFD}'));
            rest = &after[digits..];
        } else if c.is_digit(8) {
            let length = rest.chars().take(3).take_while(|c| c.is_digit(8)).count();
            let code = u32::from_str_radix(&rest[..length], 8).expect("octal digits");
            out.push(char::from_u32(code).unwrap_or('\u{FFFD}'));
            rest = &rest[length..];
        } else {
            out.push('\\');
            out.push(c);
            rest = after;
        }
    }
    out + rest
}

fn hex(digits: &str) -> Option<u32> {
    digits.chars().all(|c| c.is_ascii_hexdigit()).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}
