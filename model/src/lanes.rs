//! Sixteen numbers side by side, in the registers that the processor has.
//!
//! Every operation is defined lane by lane and rounded once, so each instruction set gives the same bits.

/// Sixteen f32, and sixteen u32 of the same place in [`Lanes::Bits`].
///
/// # Safety
/// All methods: the processor must have the instructions that the type is named after. They are inlined into a function
/// with that target feature.
pub(crate) trait Lanes: Copy {
    /// True if a value takes one register of 32, not two or more of 16: larger tiles fit.
    const WIDE: bool;
    /// Sixteen u32.
    type Bits: Copy;

    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: &[f32; 16]) -> Self;
    unsafe fn store(self, to: &mut [f32; 16]);
    /// The bits, as words.
    unsafe fn store_bits(self, to: &mut [u32; 16]);
    /// `self * x + y`, rounded once.
    unsafe fn mul_add(self, x: Self, y: Self) -> Self;
    unsafe fn mul(self, x: Self) -> Self;

    unsafe fn bits(from: &[u32; 16]) -> Self::Bits;
    /// The bits, each shifted to the right.
    unsafe fn shift_right(bits: Self::Bits, by: u32) -> Self::Bits;
    /// The bits, each shifted to the left.
    unsafe fn shift_left(bits: Self::Bits, by: u32) -> Self::Bits;
    unsafe fn and(bits: Self::Bits, mask: u32) -> Self::Bits;
    unsafe fn or(a: Self::Bits, b: Self::Bits) -> Self::Bits;
    /// Numbers below 2^31 as f32.
    unsafe fn numbers(bits: Self::Bits) -> Self;
    /// The bits as those of f32.
    unsafe fn reinterpret(bits: Self::Bits) -> Self;
    /// Sixteen f16, the first in the lower half of the first word.
    unsafe fn from_f16(from: &[u32; 8]) -> Self;
    /// Sixteen bf16, likewise.
    unsafe fn from_bf16(from: &[u32; 8]) -> Self;
    unsafe fn from_i8(from: &[i8; 16]) -> Self;
    /// Has a place in memory brought near, where the processor can do that; it need not be a valid one.
    unsafe fn prefetch<T>(at: *const T);
}

/// Any processor.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 16]);

impl Lanes for Portable {
    const WIDE: bool = false;
    type Bits = [u32; 16];

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self {
        Self([x; 16])
    }

    #[inline(always)]
    unsafe fn load(from: &[f32; 16]) -> Self {
        Self(*from)
    }

    #[inline(always)]
    unsafe fn store(self, to: &mut [f32; 16]) {
        *to = self.0;
    }

    #[inline(always)]
    unsafe fn store_bits(self, to: &mut [u32; 16]) {
        *to = self.0.map(f32::to_bits);
    }

    #[inline(always)]
    unsafe fn mul_add(self, x: Self, y: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(x.0[i], y.0[i])))
    }

    #[inline(always)]
    unsafe fn mul(self, x: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] * x.0[i]))
    }

    #[inline(always)]
    unsafe fn bits(from: &[u32; 16]) -> [u32; 16] {
        *from
    }

    #[inline(always)]
    unsafe fn shift_right(bits: [u32; 16], by: u32) -> [u32; 16] {
        bits.map(|bits| bits >> by)
    }

    #[inline(always)]
    unsafe fn shift_left(bits: [u32; 16], by: u32) -> [u32; 16] {
        bits.map(|bits| bits << by)
    }

    #[inline(always)]
    unsafe fn and(bits: [u32; 16], mask: u32) -> [u32; 16] {
        bits.map(|bits| bits & mask)
    }

    #[inline(always)]
    unsafe fn or(a: [u32; 16], b: [u32; 16]) -> [u32; 16] {
        std::array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    unsafe fn numbers(bits: [u32; 16]) -> Self {
        Self(bits.map(|bits| bits as f32))
    }

    #[inline(always)]
    unsafe fn reinterpret(bits: [u32; 16]) -> Self {
        Self(bits.map(f32::from_bits))
    }

    #[inline(always)]
    unsafe fn from_f16(from: &[u32; 8]) -> Self {
        Self(std::array::from_fn(|i| half::f16::from_bits((from[i / 2] >> (16 * (i % 2))) as u16).to_f32_const()))
    }

    #[inline(always)]
    unsafe fn from_bf16(from: &[u32; 8]) -> Self {
        Self(std::array::from_fn(|i| f32::from_bits(from[i / 2] >> (16 * (i % 2)) << 16)))
    }

    #[inline(always)]
    unsafe fn from_i8(from: &[i8; 16]) -> Self {
        Self(from.map(f32::from))
    }

    #[inline(always)]
    unsafe fn prefetch<T>(_: *const T) {}
}

#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::Lanes;

    /// AVX-512F.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx512(__m512);

    // SAFETY of every call below: the caller vouches for the processor, and references to arrays of the registers' size
    // are what is read and written.
    impl Lanes for Avx512 {
        const WIDE: bool = true;
        type Bits = __m512i;

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
        unsafe fn store(self, to: &mut [f32; 16]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), self.0) }
        }

        #[inline(always)]
        unsafe fn store_bits(self, to: &mut [u32; 16]) {
            // SAFETY: see above.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().cast(), self.0) }
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

        #[inline(always)]
        unsafe fn bits(from: &[u32; 16]) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
        }

        #[inline(always)]
        unsafe fn shift_right(bits: __m512i, by: u32) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_srl_epi32(bits, _mm_cvtsi32_si128(by as i32)) }
        }

        #[inline(always)]
        unsafe fn shift_left(bits: __m512i, by: u32) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_sll_epi32(bits, _mm_cvtsi32_si128(by as i32)) }
        }

        #[inline(always)]
        unsafe fn and(bits: __m512i, mask: u32) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_and_si512(bits, _mm512_set1_epi32(mask as i32)) }
        }

        #[inline(always)]
        unsafe fn or(a: __m512i, b: __m512i) -> __m512i {
            // SAFETY: see above.
            unsafe { _mm512_or_si512(a, b) }
        }

        #[inline(always)]
        unsafe fn numbers(bits: __m512i) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_cvtepi32_ps(bits) })
        }

        #[inline(always)]
        unsafe fn reinterpret(bits: __m512i) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_castsi512_ps(bits) })
        }

        #[inline(always)]
        unsafe fn from_f16(from: &[u32; 8]) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(from.as_ptr().cast())) })
        }

        #[inline(always)]
        unsafe fn from_bf16(from: &[u32; 8]) -> Self {
            // SAFETY: see above.
            unsafe {
                let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.as_ptr().cast()));
                Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)))
            }
        }

        #[inline(always)]
        unsafe fn from_i8(from: &[i8; 16]) -> Self {
            // SAFETY: see above.
            Self(unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.as_ptr().cast()))) })
        }

        #[inline(always)]
        unsafe fn prefetch<T>(at: *const T) {
            // SAFETY: see above; a place that is none is passed over.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    }

    /// AVX2, FMA and F16C.
    #[derive(Clone, Copy)]
    pub(crate) struct Avx2(__m256, __m256);

    impl Lanes for Avx2 {
        const WIDE: bool = false;
        type Bits = [__m256i; 2];

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
        unsafe fn store(self, to: &mut [f32; 16]) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr(), self.0);
                _mm256_storeu_ps(to[8..].as_mut_ptr(), self.1);
            }
        }

        #[inline(always)]
        unsafe fn store_bits(self, to: &mut [u32; 16]) {
            // SAFETY: see above.
            unsafe {
                _mm256_storeu_ps(to.as_mut_ptr().cast(), self.0);
                _mm256_storeu_ps(to[8..].as_mut_ptr().cast(), self.1);
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

        #[inline(always)]
        unsafe fn bits(from: &[u32; 16]) -> [__m256i; 2] {
            // SAFETY: see above.
            unsafe { [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from[8..].as_ptr().cast())] }
        }

        #[inline(always)]
        unsafe fn shift_right(bits: [__m256i; 2], by: u32) -> [__m256i; 2] {
            // SAFETY: see above.
            unsafe {
                let by = _mm_cvtsi32_si128(by as i32);
                [_mm256_srl_epi32(bits[0], by), _mm256_srl_epi32(bits[1], by)]
            }
        }

        #[inline(always)]
        unsafe fn shift_left(bits: [__m256i; 2], by: u32) -> [__m256i; 2] {
            // SAFETY: see above.
            unsafe {
                let by = _mm_cvtsi32_si128(by as i32);
                [_mm256_sll_epi32(bits[0], by), _mm256_sll_epi32(bits[1], by)]
            }
        }

        #[inline(always)]
        unsafe fn and(bits: [__m256i; 2], mask: u32) -> [__m256i; 2] {
            // SAFETY: see above.
            unsafe {
                let mask = _mm256_set1_epi32(mask as i32);
                [_mm256_and_si256(bits[0], mask), _mm256_and_si256(bits[1], mask)]
            }
        }

        #[inline(always)]
        unsafe fn or(a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
            // SAFETY: see above.
            unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        }

        #[inline(always)]
        unsafe fn numbers(bits: [__m256i; 2]) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_cvtepi32_ps(bits[0]), _mm256_cvtepi32_ps(bits[1])) }
        }

        #[inline(always)]
        unsafe fn reinterpret(bits: [__m256i; 2]) -> Self {
            // SAFETY: see above.
            unsafe { Self(_mm256_castsi256_ps(bits[0]), _mm256_castsi256_ps(bits[1])) }
        }

        #[inline(always)]
        unsafe fn from_f16(from: &[u32; 8]) -> Self {
            // SAFETY: see above.
            unsafe {
                Self(
                    _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())),
                    _mm256_cvtph_ps(_mm_loadu_si128(from[4..].as_ptr().cast())),
                )
            }
        }

        #[inline(always)]
        unsafe fn from_bf16(from: &[u32; 8]) -> Self {
            // SAFETY: see above.
            unsafe {
                let widened = |half: *const u32| {
                    let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(half.cast()));
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
                };
                Self(widened(from.as_ptr()), widened(from[4..].as_ptr()))
            }
        }

        #[inline(always)]
        unsafe fn from_i8(from: &[i8; 16]) -> Self {
            // SAFETY: see above.
            unsafe {
                let bytes = _mm_loadu_si128(from.as_ptr().cast());
                let (low, high) = (_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes)));
                Self(_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high))
            }
        }

        #[inline(always)]
        unsafe fn prefetch<T>(at: *const T) {
            // SAFETY: see above; a place that is none is passed over.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        }
    }
}

/// The instruction sets that there is code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The best that this processor has.
    pub(crate) fn best() -> Self {
        *Self::all().last().expect("there is always the portable one")
    }

    /// All that this processor has, the best last.
    pub(crate) fn all() -> &'static [Self] {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            let avx2 = has!("avx2") && has!("fma") && has!("f16c");
            match (avx2, has!("avx512f")) {
                (true, true) => &[Self::Portable, Self::Avx2, Self::Avx512],
                (true, false) => &[Self::Portable, Self::Avx2],
                (false, _) => &[Self::Portable],
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            &[Self::Portable]
        }
    }
}
