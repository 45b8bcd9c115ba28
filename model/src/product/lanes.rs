//! Sixteen lanes of f32, one per output: the only arithmetic that the kernels are written in. Every instruction set rounds
//! each operation alike, so all give the same bits.

/// Sixteen numbers at a cache line's address.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
#[repr(C, align(64))]
pub(super) struct Line(pub [f32; 16]);

/// Operations on sixteen lanes. A value of a type that implements it is the proof that the machine has its instructions.
pub(super) trait Lanes: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen u32.
    type I: Copy;
    fn load(self, line: &Line) -> Self::F;
    fn store(self, value: Self::F, line: &mut Line);
    fn splat(self, value: f32) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    /// Widens f16.
    fn f16(self, bytes: &[u8; 32]) -> Self::F;
    /// Widens bf16.
    fn bf16(self, bytes: &[u8; 32]) -> Self::F;
    /// Converts i8.
    fn i8(self, bytes: &[u8; 16]) -> Self::F;
    /// Loads u32.
    fn words(self, bytes: &[u8; 64]) -> Self::I;
    fn shr(self, a: Self::I, bits: u32) -> Self::I;
    fn shl(self, a: Self::I, bits: u32) -> Self::I;
    fn and(self, a: Self::I, mask: u32) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    /// Adds a number, wrapping around.
    fn plus(self, a: Self::I, value: u32) -> Self::I;
    /// Converts the lanes as i32.
    fn to_f32(self, a: Self::I) -> Self::F;
}

/// Plain Rust: for other processors, for Miri, and as what the tests compare with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

fn map<T: Copy, U>(a: [T; 16], f: impl Fn(T) -> U) -> [U; 16] {
    std::array::from_fn(|lane| f(a[lane]))
}

impl Lanes for Scalar {
    type F = [f32; 16];
    type I = [u32; 16];
    #[inline(always)]
    fn load(self, line: &Line) -> Self::F {
        line.0
    }
    #[inline(always)]
    fn store(self, value: Self::F, line: &mut Line) {
        line.0 = value;
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [value; 16]
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane].mul_add(b[lane], c[lane]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] * b[lane])
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] + b[lane])
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        std::array::from_fn(|lane| a[lane] - b[lane])
    }
    #[inline(always)]
    fn f16(self, bytes: &[u8; 32]) -> Self::F {
        std::array::from_fn(|lane| half::f16::from_le_bytes([bytes[2 * lane], bytes[2 * lane + 1]]).to_f32())
    }
    #[inline(always)]
    fn bf16(self, bytes: &[u8; 32]) -> Self::F {
        std::array::from_fn(|lane| f32::from_le_bytes([0, 0, bytes[2 * lane], bytes[2 * lane + 1]]))
    }
    #[inline(always)]
    fn i8(self, bytes: &[u8; 16]) -> Self::F {
        map(*bytes, |byte| f32::from(byte.cast_signed()))
    }
    #[inline(always)]
    fn words(self, bytes: &[u8; 64]) -> Self::I {
        std::array::from_fn(|lane| {
            u32::from_le_bytes([bytes[4 * lane], bytes[4 * lane + 1], bytes[4 * lane + 2], bytes[4 * lane + 3]])
        })
    }
    #[inline(always)]
    fn shr(self, a: Self::I, bits: u32) -> Self::I {
        map(a, |a| a >> bits)
    }
    #[inline(always)]
    fn shl(self, a: Self::I, bits: u32) -> Self::I {
        map(a, |a| a << bits)
    }
    #[inline(always)]
    fn and(self, a: Self::I, mask: u32) -> Self::I {
        map(a, |a| a & mask)
    }
    #[inline(always)]
    fn or(self, a: Self::I, b: Self::I) -> Self::I {
        std::array::from_fn(|lane| a[lane] | b[lane])
    }
    #[inline(always)]
    fn plus(self, a: Self::I, value: u32) -> Self::I {
        map(a, |a| a.wrapping_add(value))
    }
    #[inline(always)]
    fn to_f32(self, a: Self::I) -> Self::F {
        map(a, |a| a.cast_signed() as f32)
    }
}
