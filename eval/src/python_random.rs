//! The random numbers of CPython's `random.Random`, bit for bit.
//!
//! Reference implementations in Python draw from it, and their results hang on the draws: a language is detected by
//! sampling, annotators swap outputs by a coin. The generator is MT19937 (Matsumoto and Nishimura, 1998); what is drawn
//! from it is as in CPython 3.11, `Modules/_randommodule.c` and `Lib/random.py`.
//!
//! ```
//! use orpo_eval::python_random::PythonRandom;
//!
//! let mut random = PythonRandom::new(0); // random.Random(0)
//! assert_eq!(random.random(), 0.8444218515250481);
//! ```

use std::f64::consts::TAU;

/// The words of the state.
const N: usize = 624;
/// The distance of the words that are combined.
const M: usize = 397;

/// A generator with the state that Python's has after the same seed and the same calls.
#[derive(Debug, Clone)]
pub struct PythonRandom {
    state: [u32; N],
    index: usize,
    /// The second value of the last pair that [`gauss`](Self::gauss) has made.
    gauss_next: Option<f64>,
}

impl PythonRandom {
    /// `random.Random(seed)` for a whole number of at least 0.
    pub fn new(seed: u64) -> Self {
        #[allow(clippy::cast_possible_truncation, reason = "the number is cut into words")]
        let (low, high) = (seed as u32, (seed >> 32) as u32);
        if high == 0 { Self::from_key(&[low]) } else { Self::from_key(&[low, high]) }
    }

    /// `random.Random(seed)` for a number of any size, given as 32-bit words with the lowest first and no zero at the
    /// end but that of the number 0. This is `init_by_array`.
    ///
    /// # Panics
    /// When there is no word.
    pub fn from_key(key: &[u32]) -> Self {
        assert!(!key.is_empty(), "a seed has at least one word");
        let mut state = Self::expanded(19_650_218);
        let (mut i, mut j) = (1, 0);
        for _ in 0..N.max(key.len()) {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(key[j]).wrapping_add(word(j));
            Self::advance(&mut state, &mut i);
            j = (j + 1) % key.len();
        }
        for _ in 0..N - 1 {
            let mixed = (state[i - 1] ^ (state[i - 1] >> 30)).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(word(i));
            Self::advance(&mut state, &mut i);
        }
        state[0] = 0x8000_0000;
        Self { state, index: N, gauss_next: None }
    }

    /// The state that one word makes: `init_genrand`.
    fn expanded(seed: u32) -> [u32; N] {
        let mut state = [seed; N];
        for i in 1..N {
            let before = state[i - 1];
            state[i] = (before ^ (before >> 30)).wrapping_mul(1_812_433_253).wrapping_add(word(i));
        }
        state
    }

    /// Goes to the next word of a state that is being seeded; the first holds a copy of the last.
    fn advance(state: &mut [u32; N], i: &mut usize) {
        *i += 1;
        if *i == N {
            state[0] = state[N - 1];
            *i = 1;
        }
    }

    /// The next 32 bits: `genrand_uint32`.
    fn next_word(&mut self) -> u32 {
        if self.index == N {
            for i in 0..N {
                let bits = (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % N] & 0x7fff_ffff);
                let twist = if bits & 1 == 1 { 0x9908_b0df } else { 0 };
                self.state[i] = self.state[(i + M) % N] ^ (bits >> 1) ^ twist;
            }
            self.index = 0;
        }
        let mut y = self.state[self.index];
        self.index += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    /// `random()`: a number in `[0, 1)` with 53 random bits, `genrand_res53`.
    pub fn random(&mut self) -> f64 {
        let (high, low) = (self.next_word() >> 5, self.next_word() >> 6);
        (f64::from(high) * 67_108_864.0 + f64::from(low)) * (1.0 / 9_007_199_254_740_992.0)
    }

    /// The index that `choice` takes of a sequence with so many elements, which is also `randrange(len)`.
    ///
    /// # Panics
    /// When the sequence is empty; Python raises an exception.
    pub fn choice(&mut self, len: u32) -> u32 {
        assert!(len > 0, "there is nothing to choose from");
        let unused_bits = len.leading_zeros();
        loop {
            let index = self.next_word() >> unused_bits;
            if index < len {
                return index;
            }
        }
    }

    /// `gauss(0.0, 1.0)`: normally distributed numbers, made in pairs.
    ///
    /// They can differ from Python's in the last bit, as Python's do between C libraries and processors: logarithm,
    /// sine and cosine are computed in Rust, so that they are the same everywhere. Measured against glibc 2.36 over ten
    /// million draws, 7 % of the logarithms and 3 % of the sines differ; of the smoothing that a language detection
    /// makes of a number (`0.5 + 0.05 * gauss`), 0.6 %, and none of the probabilities in the reference data.
    pub fn gauss(&mut self) -> f64 {
        if let Some(second) = self.gauss_next.take() {
            return second;
        }
        let angle = self.random() * TAU;
        let radius = (-2.0 * libm::log(1.0 - self.random())).sqrt();
        self.gauss_next = Some(libm::sin(angle) * radius);
        libm::cos(angle) * radius
    }
}

/// An index into the state as a word.
fn word(index: usize) -> u32 {
    u32::try_from(index).expect("an index into a seed")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Per seed, of one generator: three `random()`, the `randrange(n)` of several n, three `gauss(0.0, 1.0)`.
    #[test]
    fn draws_are_those_of_python() {
        let lengths = [1, 2, 3, 10, 1000, 1 << 31, u32::MAX];
        for (seed, uniform, choices, normal) in [
            (
                0,
                [0.844_421_851_525_048_1, 0.757_954_402_940_302_5, 0.420_571_580_830_845],
                [0, 1, 1, 4, 991, 2_046_968_324, 1_537_810_351],
                [-1.891_963_563_488_504_6, -1.093_097_804_900_000_9, -0.813_354_630_411_075_9],
            ),
            (
                1,
                [0.134_364_244_112_401_22, 0.847_433_736_937_232_7, 0.763_774_618_976_614],
                [0, 0, 1, 7, 483, 1_630_434_966, 3_387_541_014],
                [0.288_015_012_263_993_2, 1.120_423_492_930_500_4, 0.778_900_454_014_423_1],
            ),
            (
                (1 << 32) + 5,
                [0.157_272_387_187_897_82, 0.282_486_631_646_199_9, 0.604_454_031_849_840_7],
                [0, 1, 2, 2, 796, 2_129_333_703, 3_136_672_473],
                [-1.022_338_555_507_186_9, 1.327_655_949_700_255_1, 0.341_629_845_560_466_8],
            ),
            (
                u64::MAX,
                [0.021_825_695_401_270_107, 0.338_095_326_861_375_8, 0.211_967_486_560_820_65],
                [0, 1, 2, 0, 754, 826_990_556, 3_135_196_578],
                [-1.435_488_245_765_939_5, -0.296_231_344_968_025_56, 1.708_243_900_626_014_4],
            ),
        ] {
            let mut random = PythonRandom::new(seed);
            assert_eq!([(); 3].map(|()| random.random()), uniform, "seed {seed}");
            assert_eq!(lengths.map(|len| random.choice(len)), choices, "seed {seed}");
            assert_eq!([(); 3].map(|()| random.gauss()), normal, "seed {seed}");
        }
    }

    #[test]
    fn the_state_is_made_anew_after_624_words() {
        let mut random = PythonRandom::new(0);
        // [random.Random(0).random() for _ in range(2001)][2000]
        assert_eq!((0..2001).map(|_| random.random()).last(), Some(0.208_614_832_688_902_69));
    }

    #[test]
    fn seeds_of_any_size() {
        // random.Random(2**70 + 12345)
        assert_eq!(PythonRandom::from_key(&[12_345, 0, 64]).random(), 0.960_280_354_602_301_1);
        // Longer than the state: random.Random(int.from_bytes(bytes((i * 7 + 1) & 255 for i in range(2800)), "little"))
        let bytes: Vec<u8> = (0..2800_u32).map(|i| (i * 7 + 1).to_le_bytes()[0]).collect();
        let key: Vec<u32> = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        assert_eq!(PythonRandom::from_key(&key).random(), 0.973_762_627_266_016);
    }
}
