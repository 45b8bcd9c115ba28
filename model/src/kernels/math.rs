//! Element loops that the compiler turns into vector code: sums in several lanes, and an exponential without a call.

const LANES: usize = 32;

/// `e^x` to within 2 units in the last place for x in -87..=88, clamped outside (Cephes' polynomial).
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts, the first exact in few bits.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = (-n).mul_add(LN_2_LOW, (-n).mul_add(LN_2_HIGH, x));
    let mut p = 1.987_569_1e-4f32;
    p = p.mul_add(r, 1.398_199_9e-3);
    p = p.mul_add(r, 8.333_452e-3);
    p = p.mul_add(r, 4.166_579_6e-2);
    p = p.mul_add(r, 1.666_666_5e-1);
    p = p.mul_add(r, 0.5);
    let e = (r * r).mul_add(p, r) + 1.0;
    f32::from_bits((shifted.to_bits() << 23).wrapping_add(e.to_bits()))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent, to within a few units in the last place.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    // Near 0 the quotient below would lose the small part; there an odd polynomial (Cephes).
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p.mul_add(z, 2.063_909e-2);
    p = p.mul_add(z, -5.373_971_5e-2);
    p = p.mul_add(z, 1.333_144_2e-1);
    p = p.mul_add(z, -3.333_328e-1);
    let small = (p * z).mul_add(x, x);
    let large = 1.0 - 2.0 / (1.0 + exp(2.0 * x));
    if x.abs() < 0.625 { small } else { large }
}

/// `x sigmoid(x)`.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    x * sigmoid(x)
}

/// The constants of [`gelu_tanh`].
pub const ROOT_2_OVER_PI: f32 = 0.797_884_6;
pub const CUBIC: f32 = 0.044_715;

/// GELU by its tanh approximation.
#[inline(always)]
pub fn gelu_tanh(x: f32) -> f32 {
    0.5 * x * (1.0 + tanh(ROOT_2_OVER_PI * (x + CUBIC * x * x * x)))
}

/// Sum.
#[inline(always)]
pub fn sum(x: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// Inner product.
#[inline(always)]
pub fn dot(x: &[f32], y: &[f32]) -> f32 {
    let mut lanes = [0f32; LANES];
    let (xs, ys) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let rest: f32 = xs.remainder().iter().zip(ys.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in xs.zip(ys) {
        for i in 0..LANES {
            lanes[i] = x[i].mul_add(y[i], lanes[i]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The largest value; minus infinity for none.
#[inline(always)]
pub fn max(x: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder().iter().fold(f32::NEG_INFINITY, |m, v| m.max(*v));
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = if chunk[i] > lanes[i] { chunk[i] } else { lanes[i] };
        }
    }
    lanes.iter().fold(rest, |m, v| m.max(*v))
}

/// Sum of `e^(x - shift)`.
#[inline(always)]
pub fn sum_exp(x: &[f32], shift: f32) -> f32 {
    let mut lanes = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest: f32 = chunks.remainder().iter().map(|v| exp(v - shift)).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += exp(chunk[i] - shift);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;

    #[test]
    fn exp_is_exact_to_two_units() {
        for i in -870_000..880_000 {
            let x = i as f32 * 1e-4;
            let (got, want) = (exp(x) as f64, (x as f64).exp());
            assert!(((got - want) / want).abs() < 2.4e-7, "exp({x}) = {got}, not {want}");
        }
        assert!(exp(-1000.0) < 2e-38 && exp(1000.0).is_finite());
    }

    #[test]
    fn tanh_is_exact_to_a_few_units() {
        for i in -200_000..200_000 {
            let x = i as f32 * 1e-4 + 3e-5;
            let (got, want) = (tanh(x) as f64, (x as f64).tanh());
            assert!(((got - want) / want).abs() < 3e-7, "tanh({x}) = {got}, not {want}");
        }
        assert_eq!((tanh(0.0), tanh(100.0), tanh(-100.0)), (0.0, 1.0, -1.0));
    }

    #[test]
    fn reductions_equal_the_slow_ones_at_every_length() {
        for n in [0, 1, 31, 32, 33, 100] {
            let (x, y) = (random(n, 1), random(n, 2));
            let slow: f64 = x.iter().zip(&y).map(|(x, y)| *x as f64 * *y as f64).sum();
            assert!((dot(&x, &y) as f64 - slow).abs() < 1e-5);
            let slow: f64 = x.iter().map(|x| *x as f64).sum();
            assert!((sum(&x) as f64 - slow).abs() < 1e-5);
            assert_eq!(max(&x), x.iter().copied().fold(f32::NEG_INFINITY, f32::max));
            let slow: f64 = x.iter().map(|x| (*x as f64 - 0.5).exp()).sum();
            assert!((sum_exp(&x, 0.5) as f64 - slow).abs() < 1e-4);
        }
    }
}
