//! What a loss on one pair sees, and what it gives back.

/// One response under a model.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Response {
    /// Sum of the log-probabilities of its tokens; for a loss with a reference model that sum's difference to the
    /// reference's (the log-ratio).
    pub logp: f64,
    /// Number of tokens.
    pub tokens: f64,
}

impl Response {
    /// The average per token.
    pub fn mean(&self) -> f64 {
        self.logp / self.tokens
    }
}

/// The two responses to a prompt.
///
/// A loss that compares with a reference model is a function of log-ratios in the place of log-probabilities, and its
/// derivatives with respect to both are the same; so one type serves both, and DPO is CPO on log-ratios.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pair {
    /// The better response.
    pub chosen: Response,
    /// The worse response.
    pub rejected: Response,
}

impl Pair {
    /// Log-ratios to the reference's sums.
    pub fn relative_to(&self, reference: (f64, f64)) -> Self {
        let relative = |response: Response, sum: f64| Response { logp: response.logp - sum, ..response };
        Self { chosen: relative(self.chosen, reference.0), rejected: relative(self.rejected, reference.1) }
    }

    /// Difference of the sums.
    pub fn margin(&self) -> f64 {
        self.chosen.logp - self.rejected.logp
    }

    /// Difference of the averages per token.
    pub fn mean_margin(&self) -> f64 {
        self.chosen.mean() - self.rejected.mean()
    }
}

/// A loss of one pair with its derivatives.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PairTerm {
    /// The loss.
    pub loss: f64,
    /// Derivative with respect to the chosen response's summed log-probability.
    pub grad_chosen: f64,
    /// The same for the rejected response.
    pub grad_rejected: f64,
}

/// A function of one number, and its derivative there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slope {
    pub value: f64,
    pub slope: f64,
}

impl Slope {
    /// The derivative for a function of `scale` times the number.
    pub fn scaled(self, scale: f64) -> Self {
        Self { slope: self.slope * scale, ..self }
    }

    /// The term of a function of the margin.
    pub fn of_margin(self) -> PairTerm {
        PairTerm { loss: self.value, grad_chosen: self.slope, grad_rejected: -self.slope }
    }

    /// The term of a function of the margin of averages.
    pub fn of_mean_margin(self, pair: &Pair) -> PairTerm {
        PairTerm {
            loss: self.value,
            grad_chosen: self.slope / pair.chosen.tokens,
            grad_rejected: -self.slope / pair.rejected.tokens,
        }
    }
}

/// `log(1 / (1 + e^-x))` without overflow.
pub(super) fn log_sigmoid(x: f64) -> f64 {
    at_most(x, 0.0) - (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)` without overflow; `1 - sigmoid(x)` is `sigmoid(-x)`.
pub(super) fn sigmoid(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    if x >= 0.0 { 1.0 / (1.0 + e) } else { e / (1.0 + e) }
}

/// `sigmoid(x)` with its derivative.
pub(super) fn sigmoid_slope(x: f64) -> Slope {
    Slope { value: sigmoid(x), slope: sigmoid(x) * sigmoid(-x) }
}

/// `-(1 - e) log sigmoid(x) - e log sigmoid(-x)`: the cross-entropy of a label that is wrong with probability e.
pub(super) fn logistic(x: f64, label_smoothing: f64) -> Slope {
    let e = label_smoothing;
    Slope { value: -(1.0 - e) * log_sigmoid(x) - e * log_sigmoid(-x), slope: -(1.0 - e) * sigmoid(-x) + e * sigmoid(x) }
}

/// `e^x`, held at e^300 above, so that differences and squares of such numbers stay finite.
pub(super) fn bounded_exp(x: f64) -> f64 {
    at_most(x, 300.0).exp()
}

/// `e^x - 1`, held likewise.
pub(super) fn bounded_exp_m1(x: f64) -> f64 {
    at_most(x, 300.0).exp_m1()
}

/// The smaller of `x` and `limit`; of NaN, which `f64::min` would turn into the limit, NaN.
pub(super) fn at_most(x: f64, limit: f64) -> f64 {
    if x > limit { limit } else { x }
}

/// The larger of `x` and 0; NaN of NaN.
pub(super) fn at_least_zero(x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}
