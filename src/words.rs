//! Counts in words.

/// A number and its noun, in the singular for one.
pub fn counted(n: usize, noun: &str) -> String {
    match (n, noun.ends_with('s')) {
        (1, _) => format!("1 {noun}"),
        (_, true) => format!("{n} {noun}es"),
        (_, false) => format!("{n} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_singular() {
        assert_eq!([counted(0, "tie"), counted(1, "tie"), counted(2, "tie")], ["0 ties", "1 tie", "2 ties"]);
        assert_eq!([counted(1, "loss"), counted(3, "loss")], ["1 loss", "3 losses"]);
    }
}
