//! AdamW over all parameters (Loshchilov and Hutter 2019).

use std::sync::Arc;

use orpo_model::{AdamWStep, ModelError, Param};
use serde::{Deserialize, Serialize};

/// Hyper-parameters that stay the same from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct AdamWConfig {
    /// Decay rate of the first moment.
    pub beta1: f64,
    /// Decay rate of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay; norms and biases (parameters of one axis) have none.
    pub weight_decay: f64,
    /// The gradient is scaled down to this global norm; none for no limit.
    pub max_grad_norm: Option<f64>,
}

/// The optimiser: its moments live in the parameters' slots, so that only the step count is here.
#[derive(Debug)]
pub struct AdamW {
    params: Vec<Arc<Param>>,
    config: AdamWConfig,
    step: usize,
}

impl AdamW {
    /// An optimiser that has made `step` steps over the trainable ones of `params`.
    pub fn new(params: &[Arc<Param>], config: AdamWConfig, step: usize) -> Self {
        let params = params.iter().filter(|param| param.is_trainable()).cloned().collect();
        Self { params, config, step }
    }

    /// The norm of the whole gradient.
    pub fn grad_norm(&self) -> f64 {
        self.params.iter().map(|param| param.squared_grad_norm()).sum::<f64>().sqrt()
    }

    /// Updates every parameter from its gradient times `grad_factor` (one over the number of accumulated
    /// micro-batches), clips, clears the gradients, and returns the norm before clipping.
    ///
    /// # Errors
    /// When the norm is not finite: then no parameter is touched. Otherwise from the update itself.
    pub fn step(&mut self, learning_rate: f64, grad_factor: f64) -> Result<f64, ModelError> {
        let norm = self.grad_norm() * grad_factor;
        if !norm.is_finite() {
            return Err(ModelError::Refused(format!("the gradient norm is {norm}")));
        }
        // torch.nn.utils.clip_grad_norm_
        let clip = self.config.max_grad_norm.map_or(1.0, |max| (max / (norm + 1e-6)).min(1.0));
        self.step += 1;
        for param in &self.params {
            let decays = param.shape().len() > 1;
            param.adamw(&AdamWStep {
                learning_rate,
                beta1: self.config.beta1,
                beta2: self.config.beta2,
                epsilon: self.config.epsilon,
                weight_decay: if decays { self.config.weight_decay } else { 0.0 },
                grad_scale: grad_factor * clip,
                step: self.step,
            })?;
        }
        Ok(norm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(weight_decay: f64, max_grad_norm: Option<f64>) -> AdamWConfig {
        AdamWConfig { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay, max_grad_norm }
    }

    fn param(shape: &[usize], grad: f32) -> Arc<Param> {
        let param = Param::trainable("w", shape, vec![1.0; shape.iter().product()]);
        param.slot().grad.fill(grad);
        param
    }

    #[test]
    fn norms_and_biases_do_not_decay() {
        let (matrix, vector) = (param(&[1, 2], 0.0), param(&[2], 0.0));
        AdamW::new(&[matrix.clone(), vector.clone()], config(0.5, None), 0).step(0.1, 1.0).unwrap();
        assert_eq!(matrix.values().unwrap(), [0.95, 0.95]);
        assert_eq!(vector.values().unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn the_norm_is_of_the_mean_gradient_and_clips_it() {
        let param = param(&[4], 6.0);
        let norm = AdamW::new(std::slice::from_ref(&param), config(0.0, Some(1.0)), 0).step(0.1, 0.5).unwrap();
        assert_eq!(norm, 6.0);
        // clipped to norm 1, so each of the four elements is 0.5; m = 0.1 * 0.5
        assert!((param.slot().first_moment[0] - 0.05).abs() < 1e-7);
    }

    #[test]
    fn a_gradient_that_is_not_finite_touches_nothing() {
        let param = param(&[2], f32::NAN);
        assert!(AdamW::new(std::slice::from_ref(&param), config(0.0, None), 0).step(0.1, 1.0).is_err());
        assert_eq!(param.values().unwrap(), [1.0, 1.0]);
    }
}
