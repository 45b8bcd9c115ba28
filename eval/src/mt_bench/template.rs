//! Templates of judge prompts: Python's `str.format` with named fields, and nothing more of it.

/// A template with fields such as `{question}`; `{{` and `}}` are braces. What is put into a field is not read again,
/// so braces in an answer stay what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// Where a brace stands alone, and where a field is not just a name.
    pub fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut rest = source;
        while let Some(at) = rest.find(['{', '}']) {
            text.push_str(&rest[..at]);
            let tail = &rest[at..];
            if let Some(after) = tail.strip_prefix("{{").or_else(|| tail.strip_prefix("}}")) {
                text.push_str(&tail[..1]);
                rest = after;
                continue;
            }
            let Some((name, after)) = tail.strip_prefix('{').and_then(|tail| tail.split_once('}')) else {
                return Err("a brace stands alone; write `{{` or `}}` for a brace in the text".into());
            };
            if name.is_empty() || !name.chars().all(|character| character.is_ascii_alphanumeric() || character == '_') {
                return Err(format!("`{{{name}}}` is no field; write `{{{{` and `}}}}` for braces in the text"));
            }
            pieces.push(Piece::Text(std::mem::take(&mut text)));
            pieces.push(Piece::Field(name.to_owned()));
            rest = after;
        }
        text.push_str(rest);
        pieces.push(Piece::Text(text));
        Ok(Self { pieces })
    }

    /// The names of the fields, in the order of the text.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Field(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        })
    }

    /// The text with its fields filled.
    ///
    /// # Errors
    /// The name of a field that has no value.
    pub fn fill<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
        let mut filled = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Field(name) => filled.push_str(value(name).ok_or_else(|| name.clone())?),
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_filled_once() {
        // Python: "{{a}} {b}{b} }}".format(b="{b} {c}")
        let template = Template::parse("{{a}} {b}{b} }}").unwrap();
        assert_eq!(template.fields().collect::<Vec<_>>(), ["b", "b"]);
        let filled = template.fill(|name| (name == "b").then_some("{b} {c}")).unwrap();
        assert_eq!(filled, "{a} {b} {c}{b} {c} }");
        assert_eq!(template.fill(|_| None), Err("b".to_owned()));
        assert_eq!(Template::parse("").unwrap().fill(|_| None).unwrap(), "");
    }

    #[test]
    fn what_str_format_would_read_otherwise_is_refused() {
        for source in ["{", "a } b", "{a", "{}", "{0!r}", "{a:>5}", "{a.b}", "{a[0]}"] {
            assert!(Template::parse(source).is_err(), "{source}");
        }
    }
}
