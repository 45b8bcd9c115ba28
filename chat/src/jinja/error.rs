//! Why a template does not compile or render.

use std::fmt;

/// What is wrong, and the line of the template if it is known.
#[derive(Debug, Clone)]
pub struct Error {
    message: String,
    line: Option<usize>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Other,
    TooDeep,
    Raised,
}

pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, kind: Kind::Other }
    }

    /// The template itself refuses what it was given: its words are all that is said.
    pub fn raised(message: impl Into<String>) -> Self {
        Self { kind: Kind::Raised, ..Self::new(message) }
    }

    /// More is nested than fits on the stack.
    pub fn too_deep() -> Self {
        Self { kind: Kind::TooDeep, ..Self::new("the template nests too deeply") }
    }

    pub fn is_too_deep(&self) -> bool {
        self.kind == Kind::TooDeep
    }

    /// The same error on `line`, unless a line is known already.
    pub fn at(mut self, line: usize) -> Self {
        self.line.get_or_insert(line);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) if self.kind != Kind::Raised => write!(f, "{} (line {line})", self.message),
            _ => f.write_str(&self.message),
        }
    }
}
