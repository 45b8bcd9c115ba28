//! The numbers that operations pass on.

/// A matrix of f32 by rows: `(rows, width)`, in the memory of the processor.
///
/// Blocks, tape and decoder only pass arrays from one operation of [`crate::kernels`] to the next and never look inside:
/// where the numbers are is the operations' business.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    rows: usize,
    width: usize,
    values: Vec<f32>,
}

impl Array {
    /// A matrix of `rows`, one after another in `values`.
    ///
    /// # Panics
    /// When there are more or fewer values.
    pub fn new(rows: usize, width: usize, values: Vec<f32>) -> Self {
        assert_eq!(values.len(), rows * width, "a matrix of {rows} x {width}");
        Self { rows, width, values }
    }

    /// A matrix of zeros.
    pub fn zeros(rows: usize, width: usize) -> Self {
        Self { rows, width, values: vec![0.0; rows * width] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Rows and width.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.width)
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.width..(row + 1) * self.width]
    }

    /// All values, by rows.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The values, to be changed.
    pub(crate) fn values_mut(&mut self) -> &mut [f32] {
        &mut self.values
    }

    /// The values, by rows.
    pub fn into_values(self) -> Vec<f32> {
        self.values
    }
}
