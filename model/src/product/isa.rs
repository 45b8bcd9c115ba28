//! Chooses the instruction set at run time.

use super::lanes::{Lanes, Scalar};

/// Code that is compiled once per instruction set. Implementations mark `run` as `#[inline(always)]`, so that it takes on
/// the instruction set of its caller.
pub(super) trait Task {
    fn run<L: Lanes>(self, l: L);
}

/// The instruction sets that have kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, reason = "x86's"))]
pub(super) enum Isa {
    Scalar,
    Avx2,
    Avx512,
}

impl Isa {
    /// Those that this machine can execute, the best last.
    #[cfg(test)]
    pub fn available() -> impl Iterator<Item = Self> {
        [Self::Scalar, Self::Avx2, Self::Avx512].into_iter().filter(|isa| isa.is_available())
    }

    /// The best of this machine.
    pub fn best() -> Self {
        [Self::Avx512, Self::Avx2].into_iter().find(|isa| isa.is_available()).unwrap_or(Self::Scalar)
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        use std::arch::is_x86_feature_detected as has;
        match self {
            Self::Scalar => true,
            _ if cfg!(miri) => false,
            Self::Avx2 => has!("avx2") && has!("fma") && has!("f16c"),
            Self::Avx512 => has!("avx512f") && has!("avx512bw") && has!("avx512vl") && has!("avx512dq"),
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn is_available(self) -> bool {
        self == Self::Scalar
    }

    /// The rows of a register tile, and how many panels it spans for a given number of rows.
    pub fn tile_rows(self) -> usize {
        match self {
            Self::Scalar => 4,
            Self::Avx2 => 6,
            Self::Avx512 => 12,
        }
    }

    /// How many panels a tile of `rows` rows spans: as many as registers hold.
    pub fn tile_panels(self, rows: usize) -> usize {
        match (self, rows) {
            (Self::Scalar, _) => 1,
            (Self::Avx2, 1) => 4,
            (Self::Avx2, 2..=3) => 2,
            (Self::Avx2, _) => 1,
            (Self::Avx512, 1) => 8,
            (Self::Avx512, 2..=4) => 4,
            (Self::Avx512, _) => 2,
        }
    }

    /// Runs a task with this instruction set.
    ///
    /// # Panics
    /// If the machine does not have it.
    pub fn call(self, task: impl Task) {
        match self {
            Self::Scalar => task.run(Scalar),
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                assert!(self.is_available(), "AVX2 is missing");
                // SAFETY: the instructions are there, see the line above.
                unsafe { super::x86::on_avx2(task) }
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                assert!(self.is_available(), "AVX-512 is missing");
                // SAFETY: the instructions are there, see the line above.
                unsafe { super::x86::on_avx512(task) }
            }
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => unreachable!("x86's"),
        }
    }
}
