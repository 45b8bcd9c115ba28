//! Starting a backward pass with a gradient that comes from elsewhere, which candle's interface does not offer.

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};

/// Runs the backward pass of `y` with `dy` as its gradient (of the same shape).
///
/// # Errors
/// When the shapes differ, or from an operation's backward.
pub fn backward_from(y: &Tensor, dy: &Tensor) -> Result<GradStore> {
    if y.shape() != dy.shape() {
        candle_core::bail!("the gradient {:?} does not have the shape of {:?}", dy.shape(), y.shape());
    }
    y.apply_op1(Seed(dy.clone()))?.backward()
}

/// A scalar whose backward hands over the stored gradient.
struct Seed(Tensor);

impl CustomOp1 for Seed {
    fn name(&self) -> &'static str {
        "seed"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), ().into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, _: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(self.0.clone()))
    }
}
