//! The gated activation of Llama's feed-forward (Shazeer 2020).

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::math::sigmoid;
use super::{slice, tensor_like, with_slice};

const CHUNK: usize = 4096;

/// `silu(gate) * up`, element by element.
///
/// # Errors
/// When the shapes differ.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Result<Tensor> {
    if gate.shape() != up.shape() {
        candle_core::bail!("swiglu: gate {:?} and up {:?} differ", gate.shape(), up.shape());
    }
    gate.contiguous()?.apply_op2(&up.contiguous()?, SwiGlu)
}

struct SwiGlu;

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        gate: &CpuStorage,
        gate_layout: &Layout,
        up: &CpuStorage,
        up_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (gate, up) = (slice(gate, gate_layout)?, slice(up, up_layout)?);
        let mut y = vec![0f32; gate.len()];
        y.par_chunks_mut(CHUNK).zip(gate.par_chunks(CHUNK)).zip(up.par_chunks(CHUNK)).for_each(|((y, g), u)| {
            for ((y, g), u) in y.iter_mut().zip(g).zip(u) {
                *y = g * u * sigmoid(*g);
            }
        });
        Ok((CpuStorage::F32(y), gate_layout.shape().clone()))
    }

    fn bwd(&self, gate: &Tensor, up: &Tensor, _y: &Tensor, dy: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut dgate = vec![0f32; gate.elem_count()];
        let mut dup = vec![0f32; gate.elem_count()];
        with_slice(gate, |gate| {
            with_slice(up, |up| {
                with_slice(dy, |dy| {
                    let outputs = dgate.par_chunks_mut(CHUNK).zip(dup.par_chunks_mut(CHUNK));
                    let inputs = gate.par_chunks(CHUNK).zip(up.par_chunks(CHUNK)).zip(dy.par_chunks(CHUNK));
                    outputs.zip(inputs).for_each(|((dg, du), ((g, u), dy))| {
                        for i in 0..dg.len() {
                            let s = sigmoid(g[i]);
                            let silu = g[i] * s;
                            du[i] = dy[i] * silu;
                            dg[i] = dy[i] * u[i] * (s + silu * (1.0 - s));
                        }
                    });
                })
            })
        })???;
        Ok((Some(tensor_like(dgate, gate)?), Some(tensor_like(dup, up)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::*;
    use super::*;

    #[test]
    fn gradients() {
        let inputs = [random_var(&[5, 7], 1), random_var(&[5, 7], 2)];
        check_gradients(&inputs, &[], |x, _| swiglu(&x[0], &x[1]).unwrap());
    }
}
