//! Syntax tree to program, and its simulation: all alternatives advance together, in order of preference, one character
//! at a time (Pike's construction), so the time is linear in the text.

use super::Flags;
use super::parse::{Assertion, Item, Node};
use crate::ifeval::text;

/// The most instructions of one program: far above any keyword, far below what would take long to run.
const MAX_INSTRUCTIONS: usize = 20_000;

#[derive(Debug, Clone)]
enum Instruction {
    Item(Item),
    Assert(Assertion),
    /// Goes on at both places, preferring the first.
    Split(usize, usize),
    Jump(usize),
    Match,
}

/// A compiled pattern.
#[derive(Debug, Clone)]
pub(super) struct Program {
    instructions: Vec<Instruction>,
    flags: Flags,
    /// The characters that a match can begin with; `None` where a match can be empty.
    first: Option<First>,
}

/// What the first character of every match is one of.
#[derive(Debug, Clone, Default)]
struct First {
    ascii: u128,
    items: Vec<Item>,
}

impl Program {
    pub(super) fn compile(tree: &Node, flags: Flags) -> Result<Self, String> {
        let mut program = Self { instructions: Vec::new(), flags, first: None };
        program.emit(tree)?;
        program.instructions.push(Instruction::Match);
        program.first = program.find_first();
        Ok(program)
    }

    /// What can be reached from the beginning without reading a character, as if every assertion held.
    fn find_first(&self) -> Option<First> {
        let mut first = First::default();
        let mut seen = vec![false; self.instructions.len()];
        let mut pending = vec![0];
        while let Some(at) = pending.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            match &self.instructions[at] {
                Instruction::Jump(to) => pending.push(*to),
                Instruction::Split(inside, outside) => pending.extend([*inside, *outside]),
                Instruction::Assert(_) => pending.push(at + 1),
                Instruction::Item(item) => first.items.push(item.clone()),
                Instruction::Match => return None,
            }
        }
        let accepted = |byte: &u8| first.items.iter().any(|item| self.accepts(item, char::from(*byte)));
        first.ascii = (0..128u8).filter(accepted).fold(0, |bits, byte| bits | 1 << byte);
        Some(first)
    }

    /// The first place at or after `from` where a match may begin.
    fn skip(&self, text: &str, from: usize) -> Option<usize> {
        let Some(first) = &self.first else { return Some(from) };
        let may_begin = |c: char| match c.is_ascii() {
            true => first.ascii >> u32::from(c) & 1 == 1,
            false => first.items.iter().any(|item| self.accepts(item, c)),
        };
        text[from..].find(may_begin).map(|offset| from + offset)
    }

    fn push(&mut self, instruction: Instruction) -> Result<usize, String> {
        if self.instructions.len() >= MAX_INSTRUCTIONS {
            return Err(format!("it is too large: more than {MAX_INSTRUCTIONS} steps"));
        }
        self.instructions.push(instruction);
        Ok(self.instructions.len() - 1)
    }

    fn emit(&mut self, node: &Node) -> Result<(), String> {
        match node {
            Node::Empty => {}
            Node::Item(item) => {
                self.push(Instruction::Item(item.clone()))?;
            }
            Node::Assert(assertion) => {
                self.push(Instruction::Assert(*assertion))?;
            }
            Node::Concat(nodes) => {
                for node in nodes {
                    self.emit(node)?;
                }
            }
            Node::Alternate(branches) => self.emit_alternatives(branches)?,
            Node::Repeat { node, min, max, greedy } => self.emit_repetition(node, *min, *max, *greedy)?,
        }
        Ok(())
    }

    fn emit_alternatives(&mut self, branches: &[Node]) -> Result<(), String> {
        let mut jumps = Vec::new();
        for (index, branch) in branches.iter().enumerate() {
            if index + 1 == branches.len() {
                self.emit(branch)?;
                break;
            }
            let split = self.push(Instruction::Split(0, 0))?;
            self.emit(branch)?;
            jumps.push(self.push(Instruction::Jump(0))?);
            self.instructions[split] = Instruction::Split(split + 1, self.instructions.len());
        }
        let end = self.instructions.len();
        for jump in jumps {
            self.instructions[jump] = Instruction::Jump(end);
        }
        Ok(())
    }

    fn emit_repetition(&mut self, node: &Node, min: usize, max: Option<usize>, greedy: bool) -> Result<(), String> {
        let split = |inside, outside| {
            if greedy { Instruction::Split(inside, outside) } else { Instruction::Split(outside, inside) }
        };
        // A loop over nothing would emit nothing for ever; one instruction per turn bounds it.
        for _ in 0..min {
            self.push(Instruction::Jump(self.instructions.len() + 1))?;
            self.emit(node)?;
        }
        let Some(max) = max else {
            let head = self.push(Instruction::Split(0, 0))?;
            self.emit(node)?;
            self.push(Instruction::Jump(head))?;
            self.instructions[head] = split(head + 1, self.instructions.len());
            return Ok(());
        };
        let mut heads = Vec::new();
        for _ in min..max {
            heads.push(self.push(Instruction::Split(0, 0))?);
            self.emit(node)?;
        }
        let end = self.instructions.len();
        for head in heads {
            self.instructions[head] = split(head + 1, end);
        }
        Ok(())
    }

    /// The first match at or after byte `from`, as a byte range. A match that is empty at `not_empty_at` does not count.
    pub(super) fn search(&self, text: &str, from: usize, not_empty_at: Option<usize>) -> Option<(usize, usize)> {
        let size = self.instructions.len();
        let (mut current, mut next) = (Threads::new(size), Threads::new(size));
        let mut found: Option<(usize, usize)> = None;
        let place = |at: usize| Position { text, at, before: text[..at].chars().next_back() };
        let mut position = place(self.skip(text, from)?);
        loop {
            if current.list.is_empty() && found.is_none() {
                position = place(self.skip(text, position.at)?);
            }
            let c = text[position.at..].chars().next();
            if found.is_none() {
                self.follow(&mut current, 0, position.at, position, c);
            }
            if found.is_some() && current.list.is_empty() {
                return found;
            }
            let after = Position { text, at: position.at + c.map_or(0, char::len_utf8), before: c };
            let following = c.and_then(|_| text[after.at..].chars().next());
            for index in 0..current.list.len() {
                let (at, start) = current.list[index];
                match &self.instructions[at] {
                    Instruction::Match if not_empty_at != Some(position.at) || start != position.at => {
                        found = Some((start, position.at));
                        // What is left has a lower preference.
                        break;
                    }
                    Instruction::Item(item) if c.is_some_and(|c| self.accepts(item, c)) => {
                        self.follow(&mut next, at + 1, start, after, following);
                    }
                    _ => {}
                }
            }
            if c.is_none() {
                return found;
            }
            std::mem::swap(&mut current, &mut next);
            next.clear();
            position = after;
        }
    }

    fn accepts(&self, item: &Item, c: char) -> bool {
        match item {
            Item::Literal(literal) => *literal == if self.flags.ignore_case { text::fold(c) } else { c },
            Item::Any => c != '\n',
            Item::Class(class) => class.contains(c),
        }
    }

    /// Adds a thread at `at` and at everything that can be reached from there without reading a character.
    fn follow(&self, threads: &mut Threads, at: usize, start: usize, position: Position<'_>, c: Option<char>) {
        let mut pending = std::mem::take(&mut threads.pending);
        pending.push(at);
        while let Some(at) = pending.pop() {
            if std::mem::replace(&mut threads.seen[at], true) {
                continue;
            }
            threads.touched.push(at);
            match &self.instructions[at] {
                Instruction::Jump(to) => pending.push(*to),
                Instruction::Split(first, second) => pending.extend([*second, *first]),
                Instruction::Assert(assertion) => {
                    if self.holds(*assertion, position, c) {
                        pending.push(at + 1);
                    }
                }
                Instruction::Item(_) | Instruction::Match => threads.list.push((at, start)),
            }
        }
        threads.pending = pending;
    }

    fn holds(&self, assertion: Assertion, position: Position<'_>, c: Option<char>) -> bool {
        let at_start = position.before.is_none();
        let boundary = || position.before.is_some_and(text::is_word) != c.is_some_and(text::is_word);
        match assertion {
            Assertion::LineStart => at_start || (self.flags.multiline && position.before == Some('\n')),
            Assertion::LineEnd => {
                let last = &position.text[position.at..];
                last.is_empty() || last == "\n" || (self.flags.multiline && c == Some('\n'))
            }
            Assertion::TextStart => at_start,
            Assertion::TextEnd => c.is_none(),
            Assertion::WordBoundary => boundary(),
            // Python lets `\B` fail in an empty text.
            Assertion::NotWordBoundary => !position.text.is_empty() && !boundary(),
        }
    }
}

/// A place between two characters.
#[derive(Clone, Copy)]
struct Position<'a> {
    text: &'a str,
    at: usize,
    before: Option<char>,
}

/// The instructions that are waiting for a character, in order of preference, each with where its match began.
struct Threads {
    list: Vec<(usize, usize)>,
    seen: Vec<bool>,
    touched: Vec<usize>,
    pending: Vec<usize>,
}

impl Threads {
    fn new(size: usize) -> Self {
        Self { list: Vec::new(), seen: vec![false; size], touched: Vec::new(), pending: Vec::new() }
    }

    fn clear(&mut self) {
        self.list.clear();
        for at in self.touched.drain(..) {
            self.seen[at] = false;
        }
    }
}
