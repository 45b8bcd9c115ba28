//! From the stored types to f32, sixteen outputs at a time, in ggml's own order of roundings.

use super::lanes::Lanes;

/// A stored type: widens one block of a panel (see [`Fields`](super::storage::Fields)).
pub(super) trait Block {
    /// Inputs per block.
    const INPUTS: usize;
    /// Bytes of a block of sixteen outputs.
    const BYTES: usize;
    /// Calls `emit` with the sixteen weights of each input, in ascending order.
    fn widen<L: Lanes>(l: L, bytes: &[u8], emit: impl FnMut(L::F));
}

#[inline(always)]
fn chunk<const N: usize>(bytes: &[u8], index: usize) -> &[u8; N] {
    bytes[N * index..].first_chunk().expect("the block is long enough")
}

/// The f16 field `index`.
#[inline(always)]
fn half<L: Lanes>(l: L, bytes: &[u8], index: usize) -> L::F {
    l.f16(chunk(bytes, index))
}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident, $inputs:literal, $bytes:literal, |$l:ident, $data:ident, $emit:ident| $body:block) => {
        $(#[$doc])*
        pub(super) struct $name;
        impl Block for $name {
            const INPUTS: usize = $inputs;
            const BYTES: usize = 16 * $bytes;
            #[inline(always)]
            fn widen<L: Lanes>($l: L, bytes: &[u8], mut $emit: impl FnMut(L::F)) {
                let $data: &[u8; 16 * $bytes] = bytes.first_chunk().expect("a whole block");
                $body
            }
        }
    };
}

block!(
    /// The upper half of an f32.
    Bf16, 1, 2, |l, data, emit| { emit(l.bf16(data)) }
);

block!(
    /// IEEE half precision.
    F16, 1, 2, |l, data, emit| { emit(l.f16(data)) }
);

block!(
    /// A scale and 32 i8.
    Q8_0, 32, 34, |l, data, emit| {
        let d = half(l, data, 0);
        for q in data[32..].as_chunks().0 {
            emit(l.mul(l.i8(q), d));
        }
    }
);

/// Calls `each` with the quants of a group of 32 in 4 bits: the low nibbles of the 16 bytes, then the high ones.
#[inline(always)]
fn nibbles<L: Lanes>(l: L, words: &[[u8; 64]; 4], mut each: impl FnMut(usize, L::I)) {
    for high in 0..2 {
        for (word, bytes) in words.iter().enumerate() {
            let bits = l.words(bytes);
            for byte in 0..4 {
                each(16 * high + 4 * word + byte, l.and(l.shr(bits, (8 * byte + 4 * high) as u32), 15));
            }
        }
    }
}

block!(
    /// A scale and 32 numbers of 4 bits, -8..8.
    Q4_0, 32, 18, |l, data, emit| {
        let d = half(l, data, 0);
        let words = data[32..].as_chunks().0.first_chunk().expect("four words");
        nibbles(l, words, |_, q| emit(l.mul(l.to_f32(l.plus(q, 8u32.wrapping_neg())), d)));
    }
);

block!(
    /// A scale, a minimum and 32 numbers of 4 bits.
    Q4_1, 32, 20, |l, data, emit| {
        let (d, m) = (half(l, data, 0), half(l, data, 1));
        let words = data[64..].as_chunks().0.first_chunk().expect("four words");
        nibbles(l, words, |_, q| emit(l.add(l.mul(l.to_f32(q), d), m)));
    }
);

block!(
    /// A scale and 32 numbers of 5 bits, -16..16.
    Q5_0, 32, 22, |l, data, emit| {
        let d = half(l, data, 0);
        let words = data[32..].as_chunks().0;
        let high = l.words(&words[0]);
        nibbles(l, words[1..].first_chunk().expect("four words"), |k, q| {
            let q = l.or(q, l.shl(l.and(l.shr(high, k as u32), 1), 4));
            emit(l.mul(l.to_f32(l.plus(q, 16u32.wrapping_neg())), d));
        });
    }
);

block!(
    /// A scale, a minimum and 32 numbers of 5 bits.
    Q5_1, 32, 24, |l, data, emit| {
        let (d, m) = (half(l, data, 0), half(l, data, 1));
        let words = data[64..].as_chunks().0;
        let high = l.words(&words[0]);
        nibbles(l, words[1..].first_chunk().expect("four words"), |k, q| {
            let q = l.or(q, l.shl(l.and(l.shr(high, k as u32), 1), 4));
            emit(l.add(l.mul(l.to_f32(q), d), m));
        });
    }
);

block!(
    /// 256 numbers of 2 bits; each 16 have a scale and a minimum of 4 bits.
    Q2K, 256, 84, |l, data, emit| {
        let (d, dmin) = (half(l, data, 0), half(l, data, 1));
        let words = data[64..].as_chunks::<64>().0;
        for group in 0..16 {
            let scale = l.shr(l.words(&words[group / 4]), (8 * (group % 4)) as u32);
            let scaled = l.mul(d, l.to_f32(l.and(scale, 15)));
            let min = l.mul(dmin, l.to_f32(l.and(l.shr(scale, 4), 15)));
            let shift = 2 * (group % 8 / 2);
            for word in 0..4 {
                let bits = l.words(&words[4 + 8 * (group / 8) + 4 * (group % 2) + word]);
                for byte in 0..4 {
                    let q = l.and(l.shr(bits, (8 * byte + shift) as u32), 3);
                    emit(l.sub(l.mul(scaled, l.to_f32(q)), min));
                }
            }
        }
    }
);

block!(
    /// 256 numbers of 3 bits, -4..4; each 16 have a scale of 6 bits, -32..32.
    Q3K, 256, 110, |l, data, emit| {
        let d = half(l, data, 0);
        let words = data[32..].as_chunks::<64>().0;
        let thirty_two = l.splat(32.0);
        for group in 0..16 {
            let low = l.words(&words[24 + group / 4 % 2]);
            let low = l.and(l.shr(low, (8 * (group % 4) + 4 * (group / 8)) as u32), 15);
            let high = l.and(l.shr(l.words(&words[26]), (8 * (group % 4) + 2 * (group / 4)) as u32), 3);
            let scale = l.mul(d, l.sub(l.to_f32(l.or(low, l.shl(high, 4))), thirty_two));
            let shift = 2 * (group % 8 / 2);
            for word in 0..4 {
                let bits = l.words(&words[8 + 8 * (group / 8) + 4 * (group % 2) + word]);
                let mask = l.words(&words[4 * (group % 2) + word]);
                for byte in 0..4 {
                    let q = l.and(l.shr(bits, (8 * byte + shift) as u32), 3);
                    let high = l.and(l.shr(mask, (8 * byte + group / 2) as u32), 1);
                    let q = l.plus(l.or(q, l.shl(high, 2)), 4u32.wrapping_neg());
                    emit(l.mul(scale, l.to_f32(q)));
                }
            }
        }
    }
);

/// The scale and the minimum of group `index` of Q4_K and Q5_K, 6 bits each, from their three packed words.
#[inline(always)]
fn scale_and_min<L: Lanes>(l: L, packed: [L::I; 3], index: usize) -> (L::F, L::F) {
    let [scales, mins, rest] = packed;
    let shift = (8 * (index % 4)) as u32;
    let (scale, min) = if index < 4 {
        (l.and(l.shr(scales, shift), 63), l.and(l.shr(mins, shift), 63))
    } else {
        let top = |word| l.shl(l.and(l.shr(word, shift + 6), 3), 4);
        (l.or(l.and(l.shr(rest, shift), 15), top(scales)), l.or(l.and(l.shr(rest, shift + 4), 15), top(mins)))
    };
    (l.to_f32(scale), l.to_f32(min))
}

block!(
    /// 256 numbers of 4 bits; each 32 have a scale and a minimum of 6 bits.
    Q4K, 256, 144, |l, data, emit| {
        let (d, dmin) = (half(l, data, 0), half(l, data, 1));
        let words = data[64..].as_chunks::<64>().0;
        let packed = [l.words(&words[0]), l.words(&words[1]), l.words(&words[2])];
        for group in 0..8 {
            let (scale, min) = scale_and_min(l, packed, group);
            let (scale, min) = (l.mul(d, scale), l.mul(dmin, min));
            for word in 0..8 {
                let bits = l.shr(l.words(&words[3 + 8 * (group / 2) + word]), (4 * (group % 2)) as u32);
                for byte in 0..4 {
                    let q = l.and(l.shr(bits, 8 * byte), 15);
                    emit(l.sub(l.mul(scale, l.to_f32(q)), min));
                }
            }
        }
    }
);

block!(
    /// 256 numbers of 5 bits; each 32 have a scale and a minimum of 6 bits.
    Q5K, 256, 176, |l, data, emit| {
        let (d, dmin) = (half(l, data, 0), half(l, data, 1));
        let words = data[64..].as_chunks::<64>().0;
        let packed = [l.words(&words[0]), l.words(&words[1]), l.words(&words[2])];
        for group in 0..8 {
            let (scale, min) = scale_and_min(l, packed, group);
            let (scale, min) = (l.mul(d, scale), l.mul(dmin, min));
            for word in 0..8 {
                let bits = l.shr(l.words(&words[11 + 8 * (group / 2) + word]), (4 * (group % 2)) as u32);
                let high = l.shr(l.words(&words[3 + word]), group as u32);
                for byte in 0..4 {
                    let q = l.and(l.shr(bits, 8 * byte), 15);
                    let q = l.or(q, l.shl(l.and(l.shr(high, 8 * byte), 1), 4));
                    emit(l.sub(l.mul(scale, l.to_f32(q)), min));
                }
            }
        }
    }
);

block!(
    /// 256 numbers of 6 bits, -32..32; each 16 have a scale of 8 bits.
    Q6K, 256, 210, |l, data, emit| {
        let d = half(l, data, 0);
        let words = data[32..].as_chunks::<64>().0;
        for group in 0..16 {
            // A signed byte: moved to the middle of an unsigned one and back.
            let scale = l.and(l.plus(l.shr(l.words(&words[48 + group / 4]), (8 * (group % 4)) as u32), 128), 255);
            let scale = l.mul(d, l.to_f32(l.plus(scale, 128u32.wrapping_neg())));
            let (half, quarter) = (group / 8, group % 8 / 2);
            for word in 0..4 {
                let place = 4 * (group % 2) + word;
                let low = l.shr(l.words(&words[16 * half + 8 * (quarter % 2) + place]), (4 * (quarter / 2)) as u32);
                let high = l.shr(l.words(&words[32 + 8 * half + place]), (2 * quarter) as u32);
                for byte in 0..4 {
                    let q = l.and(l.shr(low, 8 * byte), 15);
                    let q = l.or(q, l.shl(l.and(l.shr(high, 8 * byte), 3), 4));
                    emit(l.mul(scale, l.to_f32(l.plus(q, 32u32.wrapping_neg()))));
                }
            }
        }
    }
);

/// Evaluates an expression with the [`Block`] type of a narrow storage.
macro_rules! widen_with {
    ($storage:expr, $block:ident => $body:expr) => {
        match $storage {
            Storage::F32 => unreachable!("f32 is as wide as it gets"),
            Storage::Bf16 => {
                type $block = $crate::product::widen::Bf16;
                $body
            }
            Storage::F16 => {
                type $block = $crate::product::widen::F16;
                $body
            }
            Storage::Q4_0 => {
                type $block = $crate::product::widen::Q4_0;
                $body
            }
            Storage::Q4_1 => {
                type $block = $crate::product::widen::Q4_1;
                $body
            }
            Storage::Q5_0 => {
                type $block = $crate::product::widen::Q5_0;
                $body
            }
            Storage::Q5_1 => {
                type $block = $crate::product::widen::Q5_1;
                $body
            }
            Storage::Q8_0 => {
                type $block = $crate::product::widen::Q8_0;
                $body
            }
            Storage::Q2K => {
                type $block = $crate::product::widen::Q2K;
                $body
            }
            Storage::Q3K => {
                type $block = $crate::product::widen::Q3K;
                $body
            }
            Storage::Q4K => {
                type $block = $crate::product::widen::Q4K;
                $body
            }
            Storage::Q5K => {
                type $block = $crate::product::widen::Q5K;
                $body
            }
            Storage::Q6K => {
                type $block = $crate::product::widen::Q6K;
                $body
            }
        }
    };
}
pub(super) use widen_with;
