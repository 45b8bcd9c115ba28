//! Dropout whose mask is a function of a seed, so that nothing is kept for the backward pass.

use rayon::prelude::*;

const CHUNK: usize = 1 << 12;

/// A mask over the elements of an array, the same whenever it is applied.
#[derive(Debug, Clone, Copy)]
pub struct Dropout {
    key: u64,
    /// Elements whose 32 random bits are below it are dropped.
    threshold: u32,
    /// What is kept grows by this factor.
    keep_scale: f32,
}

impl Dropout {
    /// Drops a share `probability` (below 1) of the elements; masks of different `name`s are independent.
    pub fn new(probability: f32, seed: u64, name: &str) -> Self {
        Self {
            key: super::fnv1a(name) ^ mix(seed),
            threshold: (f64::from(probability) * 2f64.powi(32)) as u32,
            keep_scale: 1.0 / (1.0 - probability),
        }
    }

    /// A copy with [`Dropout::apply`].
    pub fn applied(&self, values: &[f32]) -> Vec<f32> {
        let mut values = values.to_vec();
        self.apply(&mut values);
        values
    }

    /// Sets dropped elements to 0 and scales the others.
    pub fn apply(&self, values: &mut [f32]) {
        values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
            for (i, value) in values.iter_mut().enumerate() {
                let bits = mix(self.key.wrapping_add((chunk * CHUNK + i) as u64)) >> 32;
                *value = if (bits as u32) < self.threshold { 0.0 } else { *value * self.keep_scale };
            }
        });
    }
}

/// SplitMix64's output function (Steele et al. 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_dropped_and_the_mean_kept() {
        let mut values = vec![1f32; 100_000];
        Dropout::new(0.1, 3, "a").apply(&mut values);
        let dropped = values.iter().filter(|v| **v == 0.0).count() as f64 / 1e5;
        assert!((dropped - 0.1).abs() < 0.005, "{dropped}");
        let mean = values.iter().sum::<f32>() / 1e5;
        assert!((mean - 1.0).abs() < 0.01, "{mean}");
    }

    #[test]
    fn names_have_masks_of_their_own() {
        let mask = |name: &str| {
            let mut values = vec![1f32; 64];
            Dropout::new(0.5, 3, name).apply(&mut values);
            values
        };
        assert_eq!(mask("a"), mask("a"));
        assert_ne!(mask("a"), mask("b"));
    }
}
