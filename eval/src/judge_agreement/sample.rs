//! A part of the reference: every model equally often, and of every model the same prompts.

use std::collections::{BTreeMap, BTreeSet};

use super::Item;

/// Keeps so many items, of every second model (the one that is measured against a baseline) as many as of the others. Which
/// prompts are kept depends on nothing but the seed and the prompt: a larger number keeps those of a smaller one, whose verdicts
/// need not be asked for again.
pub fn take(items: &mut Vec<Item>, limit: usize, seed: u64) {
    let mut strata: BTreeMap<Option<&str>, Vec<(String, usize)>> = BTreeMap::new();
    for (index, item) in items.iter().enumerate() {
        let order = orpo_files::sha256(format!("{seed}\n{}", item.pair.prompt).as_bytes());
        strata.entry(item.models[1].as_deref()).or_default().push((order, index));
    }
    strata.values_mut().for_each(|rows| rows.sort());
    let mut kept = BTreeSet::new();
    for place in 0..items.len() {
        for rows in strata.values() {
            if let Some((_, index)) = rows.get(place).filter(|_| kept.len() < limit) {
                kept.insert(*index);
            }
        }
    }
    let mut index = 0..;
    items.retain(|_| index.next().is_some_and(|index| kept.contains(&index)));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair::Pair;

    fn items() -> Vec<Item> {
        let item = |model: &str, number: usize| Item {
            pair: Pair { prompt: format!("p{number}"), ..Pair::default() },
            models: [None, Some(model.into())],
            ..Item::default()
        };
        ["m", "n", "o"].into_iter().flat_map(|model| (0..20).map(move |number| item(model, number))).collect()
    }

    fn prompts(items: &[Item], model: &str) -> BTreeSet<String> {
        let of_model = items.iter().filter(|item| item.models[1].as_deref() == Some(model));
        of_model.map(|item| item.pair.prompt.clone()).collect()
    }

    #[test]
    fn every_model_has_the_same_prompts() {
        let taken = |limit, seed| {
            let mut items = items();
            take(&mut items, limit, seed);
            items
        };
        let small = taken(9, 1);
        assert_eq!(small.len(), 9);
        assert_eq!((prompts(&small, "m").len(), prompts(&small, "m")), (3, prompts(&small, "o")));
        assert_eq!(taken(9, 1), small);
        assert_ne!(taken(9, 2), small);
        // A larger sample holds the smaller one, and what does not divide goes to the first models.
        let larger = taken(13, 1);
        assert!(small.iter().all(|item| larger.contains(item)));
        assert_eq!(["m", "n", "o"].map(|model| prompts(&larger, model).len()), [5, 4, 4]);
        assert_eq!(taken(100, 1), items());
    }
}
