//! Sixteen numbers side by side, in the registers that the processor has.
//!
//! Every operation is defined lane by lane and rounded once, so each instruction set gives the same bits.

/// Sixteen f32.
///
/// # Safety
/// All methods: the processor must have the instructions that the type is named after. They are inlined into a function
/// with that target feature.
pub(super) trait Lanes: Copy {
    /// True if a value takes one register of 32, not two or more of 16: larger tiles fit.
    const WIDE: bool;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: &[f32; 16]) -> Self;
    /// From bfloat16.
    unsafe fn load_bf16(from: &[u16; 16]) -> Self;
    /// From IEEE 754's half.
    unsafe fn load_f16(from: &[u16; 16]) -> Self;
    unsafe fn store(self, to: &mut [f32; 16]);
    /// `self * x + y`, rounded once.
    unsafe fn mul_add(self, x: Self, y: Self) -> Self;
    unsafe fn mul(self, x: Self) -> Self;
}

/// Any processor.
#[derive(Clone, Copy)]
pub(super) struct Portable([f32; 16]);

impl Lanes for Portable {
    const WIDE: bool = false;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }

    #[inline(always)]
    unsafe fn load(from: &[f32; 16]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    unsafe fn load_bf16(from: &[u16; 16]) -> Self {
        Self(from.map(|x| half::bf16::from_bits(x).to_f32()))
    }

    #[inline(always)]
    unsafe fn load_f16(from: &[u16; 16]) -> Self {
        Self(from.map(|x| half::f16::from_bits(x).to_f32()))
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [f32; 16]) {
        *to = self.0;
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(x.0[i], y.0[i])))
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * x.0[i]))
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512F.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx512(__m512);

    // SAFETY of every call below: the caller vouches for the processor, and references to 16 numbers are what is read and
    // written.
    impl Lanes for Avx512 {
        const WIDE: bool = true;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_set1_ps(x) })
        }

        #[inline(always)]
        unsafe fn load(from: &[f32; 16]) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_loadu_ps(from.as_ptr()) })
        }

        #[inline(always)]
        unsafe fn load_bf16(from: &[u16; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let narrow = _mm256_loadu_si256(from.as_ptr().cast());
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(narrow))))
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: &[u16; 16]) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast()))) }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f32; 16]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        unsafe fn mul_add(self, x: Self, y: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_fmadd_ps(self.0, x.0, y.0) })
        }

        #[inline(always)]
        unsafe fn mul(self, x: Self) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_mul_ps(self.0, x.0) })
        }
    }

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(in super::super) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        const WIDE: bool = false;

        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: see above.
            let x = unsafe { _mm256_set1_ps(x) };
            Self(x, x)
        }

        #[inline(always)]
        unsafe fn load(from: &[f32; 16]) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_loadu_ps(from.as_ptr()), _mm256_loadu_ps(from[8..].as_ptr())) }
        }

        #[inline(always)]
        unsafe fn load_bf16(from: &[u16; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let wide = |at: usize| {
                    let narrow = _mm_loadu_si128(from[at..].as_ptr().cast());
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(narrow)))
                };
                Self(wide(0), wide(8))
            }
        }

        #[inline(always)]
        unsafe fn load_f16(from: &[u16; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let wide = |at: usize| _mm256_cvtph_ps(_mm_loadu_si128(from[at..].as_ptr().cast()));
                Self(wide(0), wide(8))
            }
        }

        #[inline(always)]
        unsafe fn store(self, to: &mut [f32; 16]) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), self.0);
                _mm256_storeu_ps(to[8..].as_mut_ptr(), self.1);
            }
        }

        #[inline(always)]
        unsafe fn mul_add(self, x: Self, y: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_fmadd_ps(self.0, x.0, y.0), _mm256_fmadd_ps(self.1, x.1, y.1)) }
        }

        #[inline(always)]
        unsafe fn mul(self, x: Self) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_mul_ps(self.0, x.0), _mm256_mul_ps(self.1, x.1)) }
        }
    }
}

/// The instruction sets that there is code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best that this processor has.
    pub(super) fn best() -> Self {
        *Self::all().last().expect("there is always the portable one")
    }

    /// All that this processor has, the best last.
    pub(super) fn all() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = std::arch::is_x86_feature_detected!("avx2")
                && std::arch::is_x86_feature_detected!("fma")
                && std::arch::is_x86_feature_detected!("f16c");
            return match (avx2, std::arch::is_x86_feature_detected!("avx512f")) {
                (true, true) => &[Self::Portable, Self::Avx2, Self::Avx512],
                (true, false) => &[Self::Portable, Self::Avx2],
                (false, _) => &[Self::Portable],
            };
        }
        #[cfg(not(target_arch = "x86_64"))]
        &[Self::Portable]
    }
}
