//! The probability of each language, given the n-grams of a text: langdetect's `Detector._detect_block`.
//!
//! The order of operations on floating-point numbers is upstream's, because the results are compared bit for bit.

use super::profiles::{LANGUAGES, Profiles};
use crate::python_random::PythonRandom;

/// How many trials are averaged.
const TRIALS: u32 = 7;
/// The mean of the smoothing, and its standard deviation between trials.
const ALPHA: f64 = 0.5;
const ALPHA_WIDTH: f64 = 0.05;
/// The smoothing is shared by so many n-grams.
const BASE_FREQUENCY: f64 = 10_000.0;
/// The probability at which a trial ends.
const CERTAIN: f64 = 0.99999;
/// The step after which a trial ends at the latest.
const LAST_STEP: u32 = 1000;
/// The number of steps after which probabilities are scaled to a sum of 1.
const STEPS_TO_SCALE: u32 = 5;

type Probabilities = [f64; LANGUAGES.len()];

/// The probabilities, in the order of [`LANGUAGES`], by n-grams that are given by their places in the profiles.
///
/// # Panics
/// When there is no n-gram.
pub fn probabilities(grams: &[usize], profiles: &Profiles, seed: u64) -> Probabilities {
    let number_of_grams = u32::try_from(grams.len()).expect("a cleaned text is short");
    let mut random = PythonRandom::new(seed);
    let mut mean = [0.0; LANGUAGES.len()];
    for _ in 0..TRIALS {
        let mut probabilities = [1.0 / LANGUAGES.len() as f64; LANGUAGES.len()];
        let alpha = ALPHA + random.gauss() * ALPHA_WIDTH;
        for step in 0..=LAST_STEP {
            let gram = grams[random.choice(number_of_grams) as usize];
            update(&mut probabilities, profiles.shares(gram), alpha / BASE_FREQUENCY);
            if step % STEPS_TO_SCALE == 0 && scale(&mut probabilities) > CERTAIN {
                break;
            }
        }
        for (mean, probability) in mean.iter_mut().zip(probabilities) {
            *mean += probability / f64::from(TRIALS);
        }
    }
    mean
}

/// Multiplies each probability by the smoothed share that an n-gram has in the language.
fn update(probabilities: &mut Probabilities, shares: impl Iterator<Item = (usize, f64)>, smoothing: f64) {
    let mut factors = [smoothing; LANGUAGES.len()];
    for (language, share) in shares {
        factors[language] = smoothing + share;
    }
    for (probability, factor) in probabilities.iter_mut().zip(factors) {
        *probability *= factor;
    }
}

/// Scales the probabilities to a sum of 1 and tells the greatest.
fn scale(probabilities: &mut Probabilities) -> f64 {
    // From left to right, as Python's `sum` up to 3.11.
    let sum: f64 = probabilities.iter().sum();
    let mut greatest = 0.0_f64;
    for probability in probabilities {
        *probability /= sum;
        greatest = greatest.max(*probability);
    }
    greatest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_multiplies_by_share_and_smoothing() {
        let mut probabilities = [1.0 / 64.0; LANGUAGES.len()];
        update(&mut probabilities, [(1, 0.25), (3, 0.5)].into_iter(), 0.5);
        assert_eq!(probabilities[..5], [0.5 / 64.0, 0.75 / 64.0, 0.5 / 64.0, 1.0 / 64.0, 0.5 / 64.0]);
    }

    #[test]
    fn scaling_makes_the_sum_one() {
        let mut probabilities = [0.25; LANGUAGES.len()];
        probabilities[7] = 0.5;
        assert_eq!(scale(&mut probabilities), 2.0 / 56.0);
        assert_eq!(probabilities[..2], [1.0 / 56.0; 2]);
    }
}
