//! What depends on the category of a question.
//!
//! The tables are those of FastChat's `llm_judge/common.py`; an unknown category is treated as there: temperature 0.7,
//! judged without a reference answer.

use super::Id;

/// The eight categories, in the order in which they are shown.
pub const CATEGORIES: [&str; 8] =
    ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"];

/// The temperature at which questions of a category are answered.
pub fn temperature(category: &str) -> f64 {
    match category {
        "extraction" | "math" | "coding" | "reasoning" | "arena-hard-200" => 0.0,
        "stem" | "humanities" => 0.1,
        _ => 0.7,
    }
}

/// Whether answers of a category are judged against a reference answer.
pub fn needs_reference(category: &str) -> bool {
    matches!(category, "math" | "reasoning" | "coding" | "arena-hard-200")
}

/// The category of an official question: ten each, from 81 to 160. It serves judgments whose questions are not at hand.
pub fn of_official(id: &Id) -> Option<&'static str> {
    match id {
        Id::Number(number @ 81..=160) => CATEGORIES.get(usize::try_from((number - 81) / 10).ok()?).copied(),
        _ => None,
    }
}

/// The categories that occur, the known ones first and in their order.
pub fn in_order<'a>(categories: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<&str> = categories.collect();
    let rank = |category: &str| CATEGORIES.iter().position(|&known| known == category).unwrap_or(CATEGORIES.len());
    found.sort_by_key(|&category| (rank(category), category));
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn official_ids_fall_into_tens() {
        let of = |number| of_official(&Id::Number(number));
        assert_eq!((of(80), of(81), of(90), of(91)), (None, Some("writing"), Some("writing"), Some("roleplay")));
        assert_eq!((of(151), of(160), of(161)), (Some("humanities"), Some("humanities"), None));
        assert_eq!(of_official(&Id::Text("81".into())), None);
    }

    #[test]
    fn known_categories_come_first() {
        assert_eq!(
            in_order(["zoology", "stem", "art", "writing", "stem"].into_iter()),
            ["writing", "stem", "art", "zoology"]
        );
    }
}
