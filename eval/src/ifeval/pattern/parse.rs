//! Source to syntax tree.

use std::collections::HashSet;

use crate::ifeval::text;

/// A syntax tree.
#[derive(Debug, Clone)]
pub(super) enum Node {
    Empty,
    Item(Item),
    Assert(Assertion),
    Concat(Vec<Node>),
    Alternate(Vec<Node>),
    Repeat { node: Box<Node>, min: usize, max: Option<usize>, greedy: bool },
}

/// What matches one character.
#[derive(Debug, Clone)]
pub(super) enum Item {
    /// This character; already folded when case is ignored.
    Literal(char),
    /// Anything but a newline.
    Any,
    Class(Class),
}

/// A bracketed class, or an escape such as `\w`.
#[derive(Debug, Clone, Default)]
pub(super) struct Class {
    negated: bool,
    ranges: Vec<(char, char)>,
    /// Folded members; filled when case is ignored.
    folded: HashSet<char>,
    categories: Vec<Category>,
}

/// `\d`, `\s` or `\w`, or in capitals their negation.
#[derive(Debug, Clone, Copy)]
struct Category {
    predicate: fn(char) -> bool,
    positive: bool,
}

impl Category {
    /// The category with this letter, if there is one.
    fn of(letter: char) -> Option<Self> {
        let predicate = match letter.to_ascii_lowercase() {
            'd' => text::is_digit,
            's' => text::is_space,
            'w' => text::is_word,
            _ => return None,
        };
        Some(Self { predicate, positive: letter.is_ascii_lowercase() })
    }
}

impl Class {
    pub(super) fn contains(&self, c: char) -> bool {
        let member = self.ranges.iter().any(|&(start, end)| (start..=end).contains(&c))
            || self.folded.contains(&text::fold(c))
            || self.categories.iter().any(|category| (category.predicate)(c) == category.positive);
        member != self.negated
    }
}

/// What matches between characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Assertion {
    /// `^`
    LineStart,
    /// `$`
    LineEnd,
    /// `\A`
    TextStart,
    /// `\Z`
    TextEnd,
    /// `\b`
    WordBoundary,
    /// `\B`
    NotWordBoundary,
}

/// Parses a whole source.
pub(super) fn parse(source: &str, ignore_case: bool) -> Result<Node, String> {
    let mut parser = Parser { chars: source.chars().collect(), at: 0, ignore_case };
    let node = parser.alternatives()?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err("unbalanced `)`".into()),
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    ignore_case: bool,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn eat(&mut self, expected: char) -> bool {
        let eaten = self.peek() == Some(expected);
        self.at += usize::from(eaten);
        eaten
    }

    fn alternatives(&mut self) -> Result<Node, String> {
        let mut branches = vec![self.sequence()?];
        while self.eat('|') {
            branches.push(self.sequence()?);
        }
        Ok(if branches.len() == 1 { branches.remove(0) } else { Node::Alternate(branches) })
    }

    fn sequence(&mut self) -> Result<Node, String> {
        let mut nodes = Vec::new();
        while let Some(c) = self.peek() {
            if matches!(c, '|' | ')') {
                break;
            }
            let node = self.atom()?;
            nodes.push(self.repetition(node)?);
        }
        Ok(if nodes.is_empty() { Node::Empty } else { Node::Concat(nodes) })
    }

    fn atom(&mut self) -> Result<Node, String> {
        let c = self.next().expect("the caller saw a character");
        Ok(match c {
            '.' => Node::Item(Item::Any),
            '^' => Node::Assert(Assertion::LineStart),
            '$' => Node::Assert(Assertion::LineEnd),
            '(' => return self.group(),
            '[' => Node::Item(Item::Class(self.class()?)),
            '\\' => return self.escape(),
            '*' | '+' | '?' => return Err(format!("nothing to repeat at `{c}`")),
            '{' if self.bounds(self.at).is_some() => return Err("nothing to repeat at `{`".into()),
            _ => self.literal(c),
        })
    }

    fn literal(&self, c: char) -> Node {
        Node::Item(Item::Literal(if self.ignore_case { text::fold(c) } else { c }))
    }

    fn group(&mut self) -> Result<Node, String> {
        if self.eat('?') && !self.eat(':') {
            let kind: String = self.chars[self.at..].iter().take(1).collect();
            return Err(format!("`(?{kind}` is not supported; only plain groups and `(?:` are"));
        }
        let node = self.alternatives()?;
        if self.eat(')') { Ok(node) } else { Err("missing `)`".into()) }
    }

    /// An escape outside a class.
    fn escape(&mut self) -> Result<Node, String> {
        let Some(c) = self.next() else { return Err("trailing `\\`".into()) };
        let assertion = match c {
            'A' => Assertion::TextStart,
            'Z' => Assertion::TextEnd,
            'b' => Assertion::WordBoundary,
            'B' => Assertion::NotWordBoundary,
            '1'..='9' => return Err(format!("the back-reference `\\{c}` is not supported")),
            _ => {
                return Ok(match Category::of(c) {
                    Some(category) => Node::Item(Item::Class(Class { categories: vec![category], ..Class::default() })),
                    None => {
                        let c = self.escaped_char(c)?;
                        self.literal(c)
                    }
                });
            }
        };
        Ok(Node::Assert(assertion))
    }

    /// The character that an escape stands for, its first letter already read.
    fn escaped_char(&mut self, c: char) -> Result<char, String> {
        let digits = match c {
            'n' => return Ok('\n'),
            't' => return Ok('\t'),
            'r' => return Ok('\r'),
            'f' => return Ok('\x0c'),
            'v' => return Ok('\x0b'),
            'a' => return Ok('\x07'),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            '0' => {
                let octal: String = self.chars[self.at..].iter().take(2).take_while(|c| c.is_digit(8)).collect();
                self.at += octal.len();
                return Ok(char::from(u8::from_str_radix(&octal, 8).unwrap_or(0)));
            }
            c if c.is_ascii_alphanumeric() => return Err(format!("bad escape `\\{c}`")),
            c => return Ok(c),
        };
        let hex: String = self.chars[self.at..].iter().take(digits).take_while(|c| c.is_ascii_hexdigit()).collect();
        self.at += hex.len();
        let code = (hex.len() == digits).then(|| u32::from_str_radix(&hex, 16).ok()).flatten();
        code.and_then(char::from_u32).ok_or_else(|| format!("bad escape `\\{c}{hex}`"))
    }

    /// A class after its `[`.
    fn class(&mut self) -> Result<Class, String> {
        let unterminated = || "unterminated character class".to_owned();
        let mut class = Class { negated: self.eat('^'), ..Class::default() };
        let mut first = true;
        loop {
            let c = self.next().ok_or_else(unterminated)?;
            if c == ']' && !first {
                break;
            }
            first = false;
            let start = match self.class_member(c)? {
                Member::Category(category) => {
                    class.categories.push(category);
                    continue;
                }
                Member::Char(start) => start,
            };
            // A hyphen before the closing bracket is a literal.
            if self.peek() != Some('-') || self.chars.get(self.at + 1).is_none_or(|&after| after == ']') {
                class.ranges.push((start, start));
                continue;
            }
            self.at += 1;
            let c = self.next().ok_or_else(unterminated)?;
            match self.class_member(c)? {
                Member::Char(end) if start <= end => class.ranges.push((start, end)),
                Member::Char(end) => return Err(format!("bad character range `{start}-{end}`")),
                Member::Category(_) => {
                    return Err(format!("bad character range `{start}-\\{}`", self.chars[self.at - 1]));
                }
            }
        }
        if self.ignore_case {
            class.folded = class.ranges.drain(..).flat_map(|(start, end)| start..=end).map(text::fold).collect();
        }
        Ok(class)
    }

    fn class_member(&mut self, c: char) -> Result<Member, String> {
        if c != '\\' {
            return Ok(Member::Char(c));
        }
        let c = self.next().ok_or("trailing `\\`")?;
        Ok(match Category::of(c) {
            Some(category) => Member::Category(category),
            None if c == 'b' => Member::Char('\x08'),
            None => Member::Char(self.escaped_char(c)?),
        })
    }

    /// The node with the repetition that follows it, if one does.
    fn repetition(&mut self, node: Node) -> Result<Node, String> {
        let Some((min, max)) = self.quantifier()? else { return Ok(node) };
        if matches!(node, Node::Assert(_)) {
            return Err("nothing to repeat after an anchor".into());
        }
        let mut greedy = true;
        if self.eat('?') {
            greedy = false;
        } else if self.eat('+') {
            self.check_possessive(&node)?;
        }
        if let (Some(c), true) = (self.peek(), self.at_quantifier()) {
            return Err(format!("multiple repeat at `{c}`"));
        }
        Ok(Node::Repeat { node: Box::new(node), min, max, greedy })
    }

    fn at_quantifier(&self) -> bool {
        match self.peek() {
            Some('*' | '+' | '?') => true,
            Some('{') => self.bounds(self.at + 1).is_some(),
            _ => false,
        }
    }

    fn quantifier(&mut self) -> Result<Option<(usize, Option<usize>)>, String> {
        if !self.at_quantifier() {
            return Ok(None);
        }
        Ok(Some(match self.next() {
            Some('*') => (0, None),
            Some('+') => (1, None),
            Some('?') => (0, Some(1)),
            _ => {
                let (min, max, end) = self.bounds(self.at).expect("seen by at_quantifier");
                self.at = end;
                if max.is_some_and(|max| max < min) {
                    return Err(format!("the minimum of `{{{min},{}}}` is above its maximum", max.unwrap_or(min)));
                }
                (min, max)
            }
        }))
    }

    /// The bounds in `{m}`, `{m,}`, `{,n}` or `{m,n}`, read from after the brace, and where they end. Anything else after
    /// a brace makes the brace a literal.
    fn bounds(&self, mut at: usize) -> Option<(usize, Option<usize>, usize)> {
        let number = |at: &mut usize| {
            let digits: String = self.chars[*at..].iter().take_while(|c| c.is_ascii_digit()).collect();
            *at += digits.len();
            // Beyond what fits, the program is too large anyway.
            if digits.is_empty() { None } else { Some(digits.parse().unwrap_or(usize::MAX)) }
        };
        let min = number(&mut at);
        let bounds = if self.chars.get(at) == Some(&',') {
            at += 1;
            (min.unwrap_or(0), number(&mut at))
        } else {
            (min?, min)
        };
        (self.chars.get(at) == Some(&'}')).then_some((bounds.0, bounds.1, at + 1))
    }

    /// A possessive repetition gives nothing back. That is the same as a greedy one when what follows could not match a
    /// repeated character anyway: at the end (a word boundary included), or before another plain character.
    fn check_possessive(&self, node: &Node) -> Result<(), String> {
        let same = match (node, self.peek()) {
            (Node::Item(Item::Literal(_)), None) => true,
            (Node::Item(Item::Literal(_)), Some('\\')) => self.chars[self.at + 1..] == ['b'],
            (Node::Item(Item::Literal(repeated)), Some(next)) => {
                let quantified = matches!(self.chars.get(self.at + 1), Some('*' | '+' | '?' | '{'));
                let plain = next.is_alphanumeric() || next == ' ';
                plain && !quantified && text::fold(next) != text::fold(*repeated)
            }
            _ => false,
        };
        if same {
            Ok(())
        } else {
            Err("this possessive repetition is not supported; escape a literal `+` as `\\+`".into())
        }
    }
}

enum Member {
    Char(char),
    Category(Category),
}
