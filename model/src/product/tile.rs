//! The register tile: some rows times some panels.

use super::isa::{Isa, Task};
use super::lanes::{Lanes, Line};

/// Continues the chains of `M` rows x `N` panels over some inputs.
struct Tile<'a, const M: usize, const N: usize> {
    /// Input by input, the rows' values.
    x: &'a [[f32; M]],
    /// Input by input, the weights of each panel.
    w: [&'a [Line]; N],
    /// The chains, row by row.
    sums: &'a mut [Line],
}

impl<const M: usize, const N: usize> Task for Tile<'_, M, N> {
    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let w = self.w.map(|lines| &lines[..self.x.len()]);
        let (sums, _) = self.sums.as_chunks_mut::<N>();
        let sums: &mut [[Line; N]; M] = sums.first_chunk_mut().expect("the sums of the tile");
        let mut chains: [[L::F; N]; M] = std::array::from_fn(|m| std::array::from_fn(|n| l.load(&sums[m][n])));
        for (k, x) in self.x.iter().enumerate() {
            let w: [L::F; N] = std::array::from_fn(|n| l.load(&w[n][k]));
            for m in 0..M {
                let x = l.splat(x[m]);
                for n in 0..N {
                    chains[m][n] = l.fma(x, w[n], chains[m][n]);
                }
            }
        }
        for m in 0..M {
            for n in 0..N {
                l.store(chains[m][n], &mut sums[m][n]);
            }
        }
    }
}

/// Continues the chains of `rows` rows over some inputs: `x` (inputs, rows), `w` the lines of each panel, `sums` (rows,
/// panels).
pub(super) fn tile(isa: Isa, rows: usize, x: &[f32], w: &[&[Line]], sums: &mut [Line]) {
    macro_rules! shapes {
        ($($m:literal x $n:literal),*) => {
            match (rows, w.len()) {
                $(($m, $n) => isa.call(Tile::<'_, $m, $n> {
                    x: x.as_chunks().0,
                    w: std::array::from_fn(|n| w[n]),
                    sums,
                }),)*
                shape => unreachable!("no tile of {shape:?}"),
            }
        };
    }
    shapes!(
        1 x 8, 1 x 4, 1 x 2, 1 x 1, 2 x 4, 2 x 2, 2 x 1, 3 x 4, 3 x 2, 3 x 1, 4 x 4, 4 x 2, 4 x 1, 5 x 2, 5 x 1, 6 x 2,
        6 x 1, 7 x 2, 7 x 1, 8 x 2, 8 x 1, 9 x 2, 9 x 1, 10 x 2, 10 x 1, 11 x 2, 11 x 1, 12 x 2, 12 x 1
    )
}
