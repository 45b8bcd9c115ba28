//! Where lines and JSON values end, without parsing them.

use std::io::{self, BufRead};

/// Where a reader is within a JSON text: how deep, and if in a string.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Nesting {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl Nesting {
    /// Reads on.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            match (self.in_string, byte) {
                (true, _) if self.escaped => self.escaped = false,
                (true, b'\\') => self.escaped = true,
                (_, b'"') => self.in_string = !self.in_string,
                (false, b'{' | b'[') => self.depth += 1,
                (false, b'}' | b']') => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
        }
    }

    /// True within an object or array, but not within a string (which no line end can be in).
    pub(super) fn is_open(self) -> bool {
        self.depth > 0 && !self.in_string
    }

    fn is_closed(self) -> bool {
        self.depth == 0 && !self.in_string
    }
}

/// Reads a line, which ends in LF, CR or CRLF (not kept). Returns false at the end of the file.
pub(super) fn read_line(reader: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    let mut is_line = false;
    loop {
        let buffer = reader.fill_buf()?;
        if buffer.is_empty() {
            return Ok(is_line);
        }
        is_line = true;
        let end = buffer.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
        let taken = end.unwrap_or(buffer.len());
        line.extend_from_slice(&buffer[..taken]);
        let is_return = end.is_some_and(|end| buffer[end] == b'\r');
        reader.consume(taken + usize::from(end.is_some()));
        if is_return && reader.fill_buf()?.first() == Some(&b'\n') {
            reader.consume(1);
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// A JSON text, of which values are taken one at a time.
pub(super) struct Scanner<'r> {
    reader: &'r mut dyn BufRead,
    is_inside: bool,
}

impl<'r> Scanner<'r> {
    pub(super) fn new(reader: &'r mut dyn BufRead) -> Self {
        Self { reader, is_inside: false }
    }

    /// The next byte that is not white space, which stays.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let blank = buffer.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let next = buffer.get(blank).copied();
            self.reader.consume(blank);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    /// Passes over the next byte that is not white space.
    pub(super) fn advance(&mut self) -> io::Result<()> {
        if self.peek()?.is_some() {
            self.reader.consume(1);
        }
        Ok(())
    }

    /// The next key of the object at which the scanner is, and goes to its value; none at the object's end, and where it is
    /// not an object as JSON has it.
    pub(super) fn key(&mut self) -> io::Result<Option<String>> {
        let expected = if self.is_inside { b',' } else { b'{' };
        if self.peek()? != Some(expected) {
            return Ok(None);
        }
        self.advance()?;
        self.is_inside = true;
        if self.peek()? != Some(b'"') {
            return Ok(None);
        }
        let mut key = Vec::new();
        self.value(&mut key)?;
        if self.peek()? != Some(b':') {
            return Ok(None);
        }
        self.advance()?;
        Ok(serde_json::from_slice(&key).ok())
    }

    /// Takes the next value, which is put after `text`; of a broken one as much as there is.
    pub(super) fn value(&mut self, text: &mut Vec<u8>) -> io::Result<()> {
        self.take(|bytes| text.extend_from_slice(bytes))
    }

    /// Passes over the next value.
    pub(super) fn skip(&mut self) -> io::Result<()> {
        self.take(|_| {})
    }

    fn take(&mut self, mut taken: impl FnMut(&[u8])) -> io::Result<()> {
        let Some(first) = self.peek()? else { return Ok(()) };
        let is_scalar = !matches!(first, b'{' | b'[' | b'"');
        let mut nesting = Nesting::default();
        loop {
            let buffer = self.reader.fill_buf()?;
            if buffer.is_empty() {
                return Ok(());
            }
            let ends = |byte: u8| {
                if is_scalar {
                    return matches!(byte, b',' | b']' | b'}') || byte.is_ascii_whitespace();
                }
                nesting.feed(&[byte]);
                nesting.is_closed()
            };
            let end = buffer.iter().copied().position(ends);
            // The last byte of a scalar is that before its end.
            let count = end.map_or(buffer.len(), |end| end + usize::from(!is_scalar));
            taken(&buffer[..count]);
            self.reader.consume(count);
            if end.is_some() {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    /// A reader whose buffer holds so many bytes.
    fn reader(text: &str, capacity: usize) -> BufReader<Cursor<Vec<u8>>> {
        BufReader::with_capacity(capacity, Cursor::new(text.as_bytes().to_vec()))
    }

    #[test]
    fn lines_end_alike_whatever_the_buffer() {
        for capacity in 1..9 {
            let mut reader = reader("a\r\nb\rc\n\r\nd", capacity);
            let mut lines = Vec::new();
            let mut line = Vec::new();
            while read_line(&mut reader, &mut line).unwrap() {
                lines.push(String::from_utf8(line.clone()).unwrap());
            }
            assert_eq!(lines, ["a", "b", "c", "", "d"]);
        }
    }

    #[test]
    fn values_are_taken_whole_whatever_the_buffer() {
        for capacity in 1..9 {
            let mut reader = reader(" {\"a\\\"\": {\"b\": \"}]\"} , \"c\":[1, [2]],\"d\": -1.5 }", capacity);
            let mut scanner = Scanner::new(&mut reader);
            let mut found = Vec::new();
            while let Some(key) = scanner.key().unwrap() {
                let mut value = Vec::new();
                scanner.value(&mut value).unwrap();
                found.push((key, String::from_utf8(value).unwrap()));
            }
            let expected = [("a\"", "{\"b\": \"}]\"}"), ("c", "[1, [2]]"), ("d", "-1.5")];
            assert_eq!(found, expected.map(|(key, value)| (key.to_string(), value.to_string())));
            assert_eq!(scanner.peek().unwrap(), Some(b'}'));
        }
    }
}
