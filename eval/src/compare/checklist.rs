//! Deciding pairs without a model: the answer that follows more of the prompt's verifiable instructions wins.

use std::collections::HashMap;

use super::pair::Pair;
use crate::ifeval::data::Dataset;

/// Decides every pair by the strict verdicts on its prompt's instructions. A prompt that the data does not have stays open.
pub fn decide(pairs: &mut [Pair], dataset: &Dataset) {
    let scorers: HashMap<&str, _> =
        dataset.examples.iter().map(|(example, scorer)| (example.prompt.as_str(), scorer)).collect();
    for pair in pairs {
        let Some(scorer) = scorers.get(pair.prompt.as_str()) else {
            pair.problem = Some(format!("`{}` has no such prompt", dataset.source));
            continue;
        };
        let verdicts = pair.answers.each_ref().map(|answer| scorer.score(answer).strict);
        let [a, b] = verdicts.each_ref().map(|verdicts| verdicts.iter().filter(|&&followed| followed).count());
        let preference = match a.cmp(&b) {
            std::cmp::Ordering::Greater => 1.0,
            std::cmp::Ordering::Equal => 0.5,
            std::cmp::Ordering::Less => 0.0,
        };
        pair.preferences = vec![[Some(preference); 2]];
        pair.followed = Some([verdicts[0].len(), a, b]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair::Winner;

    #[test]
    fn more_instructions_win() {
        let dataset = Dataset::embedded();
        // No commas; double quotation marks around at least 60 words without `hot` and `cold`.
        let [commas, quoted] = [0, 24].map(|index| dataset.examples[index].0.prompt.clone());
        let pair = |prompt: &str, a: &str, b: &str| Pair {
            prompt: prompt.into(),
            answers: [a.into(), b.into()],
            ..Pair::default()
        };
        let mut pairs = [
            pair(&commas, "a b", "a, b"),
            pair(&commas, "a, b", ""),
            pair(&quoted, "\"no\"", "\"cold\""),
            pair("unknown", "a", "b"),
        ];
        decide(&mut pairs, &dataset);
        let winners = pairs.each_ref().map(Pair::winner);
        assert_eq!(winners, [Some(Winner::A), Some(Winner::Tie), Some(Winner::A), None]);
        assert_eq!(pairs[2].followed, Some([3, 2, 1]));
        assert_eq!(pairs[3].problem.as_deref(), Some("`embedded` has no such prompt"));
    }
}
