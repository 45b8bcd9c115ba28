//! From pairs with votes and verdicts to numbers.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use super::Item;
use super::confusion::Confusion;
use super::ranking::{self, Standing};
use crate::bias::{Bias, Judged};
use crate::compare::pair::Winner;
use crate::results::{Counts, Results};
use crate::stats::{Metric, Missing, bootstrap};

/// The resamples of kappa's interval.
const RESAMPLES: usize = 1000;

/// The metrics that are shares, in the order in which they are shown.
pub const SHARES: [&str; 4] = ["agreement", "agreement_without_ties", "agreement_leave_one_out", "human_agreement"];

/// What a judge is worth beside the reference. Pairs of equal answers count only for the models' win rates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The metrics by name. Intervals take prompts for independent, and those of rankings models.
    #[serde(skip)]
    pub metrics: BTreeMap<String, Metric>,
    /// Pairs by the winner of the reference and of the judge; `a` is `output_1`.
    pub confusion: Confusion,
    /// What the judge's verdicts depend on besides quality. The first answer of a pair is `output_1`.
    pub bias: Option<Bias>,
    /// The same of the reference, on the same pairs.
    pub reference_bias: Option<Bias>,
    /// The models' win rates, where all were compared with the same baseline.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub models: BTreeMap<String, Standing>,
}

/// The items of each prompt.
fn by_prompt(items: &[Item]) -> Vec<Vec<&Item>> {
    let mut groups: BTreeMap<&str, Vec<&Item>> = BTreeMap::new();
    for item in items.iter().filter(|item| !item.is_identical()) {
        groups.entry(&item.pair.prompt).or_default().push(item);
    }
    groups.into_values().collect()
}

impl Summary {
    /// Summarises items. Intervals are drawn from `seed`.
    pub fn new(items: &[Item], seed: u64) -> Self {
        let groups = by_prompt(items);
        let winners = |item: &&Item| Some((item.majority()?, item.winner()?));
        let confusions: Vec<Confusion> =
            groups.iter().map(|group| Confusion::of(group.iter().filter_map(winners))).collect();
        let confusion = Confusion::sum(&confusions);
        let share = |values: &dyn Fn(&Item) -> Vec<f64>| {
            let clusters: Vec<Vec<f64>> =
                groups.iter().map(|group| group.iter().flat_map(|item| values(item)).collect()).collect();
            Metric::clustered_share(&clusters)
        };
        let agreement = share(&|item| winners(&item).map(|(one, other)| f64::from(one == other)).into_iter().collect());
        let without_ties = share(&|item| {
            let decided = winners(&item).filter(|(one, other)| *one != Winner::Tie && *other != Winner::Tie);
            decided.map(|(one, other)| f64::from(one == other)).into_iter().collect()
        });
        let models = ranking::standings(items);
        let mut metrics = BTreeMap::from([
            ("agreement".to_owned(), agreement),
            ("agreement_without_ties".to_owned(), without_ties),
            ("cohens_kappa".to_owned(), kappa(&confusions, seed)),
        ]);
        let people = share(&|item| item.leave_one_out().into_iter().map(|(people, _)| people).collect());
        if people.n > 0 {
            let judge = share(&|item| item.leave_one_out().into_iter().filter_map(|(_, judge)| judge).collect());
            metrics.insert("human_agreement".into(), people);
            metrics.insert("agreement_leave_one_out".into(), judge);
        }
        let ranked = ranking::correlations(&models, seed).into_iter().flatten();
        metrics.extend(ranked.map(|(name, metric)| (name.to_owned(), metric)));
        let bias = |judged: fn(&Item) -> Judged| {
            let scored = |group: &Vec<&Item>| {
                group.iter().filter(|item| item.preference().is_some()).map(|item| judged(item)).collect()
            };
            Bias::of(&groups.iter().map(scored).collect::<Vec<_>>())
        };
        Self { metrics, confusion, bias: bias(Item::judged), reference_bias: bias(Item::reference_judged), models }
    }

    /// How many pairs there were, and what became of them.
    pub fn counts(items: &[Item]) -> Counts {
        let scored = items.iter().filter(|item| item.preference().is_some()).count();
        Counts { total: items.len(), scored, unscored: items.len() - scored, ..Counts::default() }
    }

    /// The content of `results.json`: what all results have, and what only this task has.
    pub fn to_json(&self, results: &Results) -> Value {
        let mut json = serde_json::to_value(results).expect("results have string keys");
        let Ok(Value::Object(own)) = serde_json::to_value(self) else { unreachable!("a struct is an object") };
        json.as_object_mut().expect("results are an object").extend(own);
        json
    }
}

/// Kappa over all prompts, with a bootstrap interval that draws prompts.
fn kappa(by_prompt: &[Confusion], seed: u64) -> Metric {
    let all = Confusion::sum(by_prompt);
    let n = all.total();
    if n == 0 {
        return Metric::missing(n, Missing::NothingScored);
    }
    let Some(value) = all.kappa() else { return Metric::missing(n, Missing::Constant) };
    let interval = bootstrap(by_prompt, RESAMPLES, seed, |drawn| Confusion::sum(drawn).kappa());
    let (stderr, ci95) = interval.map(|(stderr, [low, high])| (stderr, [low.min(value), high.max(value)])).unzip();
    Metric { value: Some(value), stderr, ci95, n, reason: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::pair::Pair;
    use crate::judge_agreement::Vote;

    /// Pairs of five models with forty prompts; the reference prefers the later models more often.
    fn items(judge: impl Fn(&Item, usize) -> [Option<f64>; 2]) -> Vec<Item> {
        let item = |model: usize, number: usize| {
            let preference = f64::from((number * 7 + model * 3) % 10 > model + 2);
            let mut item = Item {
                pair: Pair {
                    prompt: format!("p{number}"),
                    answers: ["x".repeat(50 + number), "x".repeat(40 + (number * 13 + model) % 60)],
                    ..Pair::default()
                },
                models: [Some("base".into()), Some(format!("m{model}"))],
                votes: vec![Vote { annotator: None, preference }],
                unplaced: None,
            };
            item.pair.preferences = vec![judge(&item, number)];
            item
        };
        (0..5).flat_map(|model| (0..40).map(move |number| item(model, number))).collect()
    }

    fn value(summary: &Summary, name: &str) -> f64 {
        summary.metrics[name].value.unwrap()
    }

    #[test]
    fn the_reference_itself_agrees_entirely() {
        let summary = Summary::new(&items(|item, _| [item.reference(); 2]), 1);
        for name in ["agreement", "agreement_without_ties", "cohens_kappa", "spearman", "kendall"] {
            assert_eq!(value(&summary, name), 1.0, "{name}");
        }
        // All agree: the interval still has a width, of forty prompts.
        assert!(summary.metrics["agreement"].ci95.unwrap()[0] < 0.95);
        let (bias, reference) = (summary.bias.unwrap(), summary.reference_bias.unwrap());
        assert_eq!((bias.first_place.unwrap().value, bias.self_consistency.unwrap().value), (Some(0.5), Some(1.0)));
        assert_eq!(bias.longer.unwrap().value, reference.longer.unwrap().value);
        assert_eq!(bias.length_correlation, reference.length_correlation);
        assert_eq!(summary.models["m0"].win_rate, summary.models["m0"].reference_win_rate);
    }

    #[test]
    fn the_reference_flipped_never_agrees() {
        let flipped = |item: &Item, _| [item.reference().map(|preference| 1.0 - preference); 2];
        let summary = Summary::new(&items(flipped), 1);
        assert_eq!((value(&summary, "agreement"), value(&summary, "spearman")), (0.0, -1.0));
        assert!(value(&summary, "cohens_kappa") < -0.9);
    }

    #[test]
    fn the_first_place_is_no_judgment() {
        let summary = Summary::new(&items(|_, _| [Some(1.0), Some(0.0)]), 1);
        assert_eq!((value(&summary, "agreement"), value(&summary, "cohens_kappa")), (0.0, 0.0));
        assert_eq!(summary.metrics["agreement_without_ties"], Metric::missing(0, Missing::NothingScored));
        assert_eq!(summary.metrics["spearman"], Metric::missing(5, Missing::Constant));
        let bias = summary.bias.unwrap();
        assert_eq!((bias.first_place.unwrap().value, bias.self_consistency.unwrap().value), (Some(1.0), Some(0.0)));
        assert_eq!((bias.longer.unwrap().value, bias.length_correlation), (Some(0.5), None));
    }

    #[test]
    fn a_judge_of_length_is_known_by_it() {
        let longer = |item: &Item, _| {
            let [first, second] = item.pair.answers.each_ref().map(String::len);
            [Some(if first == second { 0.5 } else { f64::from(first > second) }); 2]
        };
        let summary = Summary::new(&items(longer), 1);
        let (bias, reference) = (summary.bias.unwrap(), summary.reference_bias.unwrap());
        assert_eq!((bias.longer.unwrap().value, bias.self_consistency.unwrap().value), (Some(1.0), Some(1.0)));
        assert!(bias.length_correlation.unwrap() > 0.8, "{bias:?}");
        assert!(reference.longer.unwrap().value.unwrap() < 0.7);
    }

    /// A coin has no kappa and agrees with itself half of the time, and the intervals nearly always say so.
    #[test]
    fn intervals_of_chance_hold_what_chance_gives() {
        use rand::{Rng, SeedableRng};
        const COINS: u64 = 200;
        let mut held = [0; 2];
        for seed in 0..COINS {
            let random = std::cell::RefCell::new(rand_chacha::ChaCha8Rng::seed_from_u64(seed));
            let coin = || Some(f64::from(random.borrow_mut().random_bool(0.5)));
            let summary = Summary::new(&items(|_, _| [coin(), coin()]), seed);
            let kappa = summary.metrics["cohens_kappa"].ci95.unwrap();
            let consistency = summary.bias.unwrap().self_consistency.unwrap().ci95.unwrap();
            for (held, ([low, high], expected)) in held.iter_mut().zip([(kappa, 0.0), (consistency, 0.5)]) {
                *held += u64::from(low <= expected && expected <= high);
            }
        }
        // Of 95 % intervals over forty prompts: 190 each, give or take three.
        assert!(held.iter().all(|&held| held >= COINS * 88 / 100), "{held:?} of {COINS}");
    }

    #[test]
    fn what_is_not_decided_is_not_counted_and_equal_answers_are_no_agreement() {
        let mut items = items(|item, number| if number < 10 { [None; 2] } else { [item.reference(); 2] });
        for item in items.iter_mut().filter(|item| item.pair.preferences[0] == [None; 2]) {
            item.pair.problem = Some("silence".into());
        }
        items[39].pair.answers[1] = items[39].pair.answers[0].clone();
        let summary = Summary::new(&items, 1);
        assert_eq!(Summary::counts(&items).unscored, 50);
        assert_eq!((summary.confusion.total(), summary.metrics["agreement"].n), (149, 149));
        assert_eq!((summary.models["m0"].n, summary.bias.unwrap().pairs), (30, 149));
    }
}
