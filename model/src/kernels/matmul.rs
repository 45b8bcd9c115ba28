//! Matrix products of strided views, on the `gemm` crate, whose interface takes raw pointers. The one place that calls
//! it, behind checked views.

/// A read-only `(rows, cols)` view.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> View<'a> {
    /// Rows follow one another in `data`.
    pub fn new(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row r begins at `r * row_stride`.
    pub fn strided(data: &'a [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(fits(data.len(), rows, cols, row_stride), "a view of {rows} x {cols} leaves its data");
        Self { data, rows, cols, row_stride, col_stride: 1 }
    }

    /// The transpose.
    pub fn t(self) -> Self {
        let Self { data, rows, cols, row_stride, col_stride } = self;
        Self { data, rows: cols, cols: rows, row_stride: col_stride, col_stride: row_stride }
    }
}

/// A writable `(rows, cols)` view.
#[derive(Debug)]
pub struct ViewMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl<'a> ViewMut<'a> {
    /// Rows follow one another in `data`.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize) -> Self {
        Self::strided(data, rows, cols, cols)
    }

    /// Row r begins at `r * row_stride`; rows must not overlap.
    pub fn strided(data: &'a mut [f32], rows: usize, cols: usize, row_stride: usize) -> Self {
        assert!(
            fits(data.len(), rows, cols, row_stride) && row_stride >= cols,
            "a view of {rows} x {cols} leaves its data"
        );
        Self { data, rows, cols, row_stride }
    }
}

fn fits(len: usize, rows: usize, cols: usize, row_stride: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * row_stride + cols <= len
}

/// What happens to the values that the output holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// They are replaced.
    Overwrite,
    /// The product is added to them.
    Add,
}

/// How many threads share one product.
#[derive(Clone, Copy, Debug)]
pub enum Threads {
    /// The calling one: for products inside a parallel loop.
    One,
    /// All of the pool.
    All,
}

/// `out = scale * a b`, or `out += scale * a b`.
pub fn matmul(out: ViewMut<'_>, output: Output, scale: f32, a: View<'_>, b: View<'_>, threads: Threads) {
    assert!(a.cols == b.rows && out.rows == a.rows && out.cols == b.cols, "shapes of a product do not match");
    let (m, n, k) = (a.rows, b.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = match (threads, rayon::current_num_threads()) {
        (Threads::One, _) | (_, 1) => gemm::Parallelism::None,
        (Threads::All, count) => gemm::Parallelism::Rayon(count),
    };
    let add = output == Output::Add;
    // SAFETY: the constructors of the views checked that the last element of each view lies inside its slice, and
    // rows of the output do not overlap; `out` is exclusive, so that neither input aliases it.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.data.as_mut_ptr(),
            1,
            out.row_stride as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            if add { 1.0 } else { 0.0 },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::testing::random;
    use proptest::prelude::*;

    fn naive(a: View<'_>, b: View<'_>) -> Vec<f32> {
        let at = |v: &View<'_>, r: usize, c: usize| v.data[r * v.row_stride + c * v.col_stride] as f64;
        let mut out = Vec::new();
        for r in 0..a.rows {
            for c in 0..b.cols {
                out.push((0..a.cols).map(|k| at(&a, r, k) * at(&b, k, c)).sum::<f64>() as f32);
            }
        }
        out
    }

    proptest! {
        #[test]
        fn equals_the_slow_product(m in 1usize..20, n in 1usize..20, k in 0usize..20, pad in 0usize..4, transposed: bool, add: bool) {
            let a_data = random(m * (k + pad), 1);
            let b_data = random(k.max(n) * (k.max(n) + pad), 2);
            let a = View::strided(&a_data, m, k, k + pad);
            let b = if transposed { View::strided(&b_data, n, k, k + pad).t() } else { View::strided(&b_data, k, n, n + pad) };
            let before = random(m * (n + pad), 3);
            let mut out = before.clone();
            let mode = if add { Output::Add } else { Output::Overwrite };
            matmul(ViewMut::strided(&mut out, m, n, n + pad), mode, 0.5, a, b, Threads::All);
            let expected = naive(a, b);
            for r in 0..m {
                for c in 0..n + pad {
                    let i = r * (n + pad) + c;
                    let want = match c < n {
                        true => 0.5 * expected[r * n + c] + if add { before[i] } else { 0.0 },
                        false => before[i],
                    };
                    prop_assert!((out[i] - want).abs() < 1e-5, "[{r}, {c}]: {} against {want}", out[i]);
                }
            }
        }
    }

    #[test]
    #[should_panic(expected = "leaves its data")]
    fn a_view_outside_its_data_is_refused() {
        View::strided(&[0.0; 10], 3, 4, 4);
    }
}
