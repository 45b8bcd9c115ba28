//! Paths and words as a shell reads them.

/// A word as a shell reads it back: in quotes if it has blanks or anything else that a shell interprets.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_@%+=:,./-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_back_what_is_quoted() {
        let words = ["plain/é-1.toml", "mein lauf/r.toml", "it's", "a$b", "", "a*b", "k=[1, 2]", "tab\there"];
        for word in words {
            let script = format!("printf %s {}", quoted(word));
            let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(quoted("plain/é-1.toml"), "plain/é-1.toml");
        assert_eq!(quoted("mein lauf/r.toml"), "'mein lauf/r.toml'");
    }
}
