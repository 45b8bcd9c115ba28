//! The lanes in AVX2 (two registers) and AVX-512 (one).

use std::arch::x86_64::*;

use super::isa::Task;
use super::lanes::{Lanes, Line};

/// AVX2, FMA and F16C. Only [`on_avx2`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

/// AVX-512 F, BW, DQ and VL. Only [`on_avx512`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

/// # Safety
/// The machine must have AVX2, FMA and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn on_avx2(task: impl Task) {
    task.run(Avx2(()));
}

/// # Safety
/// The machine must have AVX-512 F, BW, DQ and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn on_avx512(task: impl Task) {
    task.run(Avx512(()));
}

// SAFETY of both implementations: a value of the type exists only inside a function that runs on a machine with the
// instructions; every load and store is of a reference of exactly that many bytes, and none needs alignment beyond what the
// type has (`Line` is aligned to 64).
macro_rules! lanes {
    ($($name:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? { $body:expr })*) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $type),*) $(-> $result)? {
                // SAFETY: see above.
                unsafe { $body }
            }
        )*
    };
}

impl Lanes for Avx512 {
    type F = __m512;
    type I = __m512i;
    lanes! {
        load(line: &Line) -> __m512 { _mm512_load_ps(line.0.as_ptr()) }
        store(value: __m512, line: &mut Line) { _mm512_store_ps(line.0.as_mut_ptr(), value) }
        splat(value: f32) -> __m512 { _mm512_set1_ps(value) }
        fma(a: __m512, b: __m512, c: __m512) -> __m512 { _mm512_fmadd_ps(a, b, c) }
        mul(a: __m512, b: __m512) -> __m512 { _mm512_mul_ps(a, b) }
        add(a: __m512, b: __m512) -> __m512 { _mm512_add_ps(a, b) }
        sub(a: __m512, b: __m512) -> __m512 { _mm512_sub_ps(a, b) }
        f16(bytes: &[u8; 32]) -> __m512 { _mm512_cvtph_ps(_mm256_loadu_si256(bytes.as_ptr().cast())) }
        bf16(bytes: &[u8; 32]) -> __m512 {
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(bytes.as_ptr().cast()))))
        }
        i8(bytes: &[u8; 16]) -> __m512 {
            _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast())))
        }
        words(bytes: &[u8; 64]) -> __m512i { _mm512_loadu_si512(bytes.as_ptr().cast()) }
        shr(a: __m512i, bits: u32) -> __m512i { _mm512_srlv_epi32(a, _mm512_set1_epi32(bits.cast_signed())) }
        shl(a: __m512i, bits: u32) -> __m512i { _mm512_sllv_epi32(a, _mm512_set1_epi32(bits.cast_signed())) }
        and(a: __m512i, mask: u32) -> __m512i { _mm512_and_si512(a, _mm512_set1_epi32(mask.cast_signed())) }
        or(a: __m512i, b: __m512i) -> __m512i { _mm512_or_si512(a, b) }
        plus(a: __m512i, value: u32) -> __m512i { _mm512_add_epi32(a, _mm512_set1_epi32(value.cast_signed())) }
        to_f32(a: __m512i) -> __m512 { _mm512_cvtepi32_ps(a) }
    }
}

impl Lanes for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    lanes! {
        load(line: &Line) -> Self::F { [_mm256_load_ps(line.0.as_ptr()), _mm256_load_ps(line.0.as_ptr().add(8))] }
        store(value: Self::F, line: &mut Line) {{
            _mm256_store_ps(line.0.as_mut_ptr(), value[0]);
            _mm256_store_ps(line.0.as_mut_ptr().add(8), value[1]);
        }}
        splat(value: f32) -> Self::F { [_mm256_set1_ps(value); 2] }
        fma(a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])]
        }
        mul(a: Self::F, b: Self::F) -> Self::F { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
        add(a: Self::F, b: Self::F) -> Self::F { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
        sub(a: Self::F, b: Self::F) -> Self::F { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
        f16(bytes: &[u8; 32]) -> Self::F {[
            _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().cast())),
            _mm256_cvtph_ps(_mm_loadu_si128(bytes.as_ptr().add(16).cast())),
        ]}
        bf16(bytes: &[u8; 32]) -> Self::F {[
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().cast())))),
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(bytes.as_ptr().add(16).cast())))),
        ]}
        i8(bytes: &[u8; 16]) -> Self::F {[
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().cast()))),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(bytes.as_ptr().add(8).cast()))),
        ]}
        words(bytes: &[u8; 64]) -> Self::I {
            [_mm256_loadu_si256(bytes.as_ptr().cast()), _mm256_loadu_si256(bytes.as_ptr().add(32).cast())]
        }
        shr(a: Self::I, bits: u32) -> Self::I {{
            let bits = _mm256_set1_epi32(bits.cast_signed());
            [_mm256_srlv_epi32(a[0], bits), _mm256_srlv_epi32(a[1], bits)]
        }}
        shl(a: Self::I, bits: u32) -> Self::I {{
            let bits = _mm256_set1_epi32(bits.cast_signed());
            [_mm256_sllv_epi32(a[0], bits), _mm256_sllv_epi32(a[1], bits)]
        }}
        and(a: Self::I, mask: u32) -> Self::I {{
            let mask = _mm256_set1_epi32(mask.cast_signed());
            [_mm256_and_si256(a[0], mask), _mm256_and_si256(a[1], mask)]
        }}
        or(a: Self::I, b: Self::I) -> Self::I { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
        plus(a: Self::I, value: u32) -> Self::I {{
            let value = _mm256_set1_epi32(value.cast_signed());
            [_mm256_add_epi32(a[0], value), _mm256_add_epi32(a[1], value)]
        }}
        to_f32(a: Self::I) -> Self::F { [_mm256_cvtepi32_ps(a[0]), _mm256_cvtepi32_ps(a[1])] }
    }
}
