//! What a run computes: its steps, the sizes of its micro-batches, its arithmetic.

use orpo_model::Decoder;

use super::{Counter, Load, Steps, Work};
use crate::data::{BatchSize, Example, collate};
use crate::recipe::Recipe;
use crate::reference;
use crate::run::{Data, Plan};

/// All that a run computes.
#[derive(Debug)]
pub struct Workload {
    /// Its steps.
    pub steps: Steps,
    /// Every micro-batch that is trained on.
    pub trained: Vec<Load>,
    /// The micro-batches of an evaluation, and those that the reference model looks at.
    pub evaluated: Vec<Load>,
    /// Floating-point operations of all training.
    pub training: f64,
    /// Those of evaluations and of the reference model.
    pub evaluation: f64,
}

impl Workload {
    /// That of `recipe`, which trains `model` (an outline is enough) on `data` by `plan`.
    pub fn of(recipe: &Recipe, model: &Decoder, data: &Data, mut plan: Plan) -> Self {
        let counter = Counter::new(model);
        let examples = &data.train.examples;
        let validation = data.validation.as_ref().map_or(&[][..], |validation| &validation.examples);
        let sizes = loads(examples);
        let work: Vec<Work> = examples.iter().map(|example| counter.of(example)).collect();

        let mut epochs = 0.0;
        let mut trained: Vec<Load> = Vec::new();
        let mut training = 0.0;
        let mut evaluations = 0;
        for step in 0..plan.total_steps() {
            let planned = plan.step(step);
            for indices in &planned.micro_batches {
                trained.push(indices.iter().map(|index| sizes[*index]).sum());
                training += indices.iter().map(|index| work[*index].training).sum::<f64>();
            }
            let is_last = step + 1 == plan.total_steps();
            evaluations += usize::from(is_last || recipe.training.eval_steps.is_due(step + 1, planned.ends_epoch));
            epochs = planned.epoch;
        }

        let of_validation = loads(validation);
        let mut evaluated = micro_batches(&of_validation, recipe.batch_size());
        let validating: f64 = validation.iter().map(|example| counter.of(example).evaluation).sum();
        let mut evaluation = evaluations as f64 * validating;
        if recipe.objective().needs_reference() {
            let all: Vec<Load> = sizes.iter().chain(&of_validation).copied().collect();
            evaluated.extend(micro_batches(&all, BatchSize::Examples(reference::BATCH)));
            evaluation += work.iter().map(|work| work.evaluation).sum::<f64>() + validating;
        }

        let epoch = data.train.mixture.epoch(recipe.seed, 0);
        let (batch_size, max_tokens_per_batch) = match recipe.batch_size() {
            BatchSize::Examples(size) => (Some(size), None),
            BatchSize::Tokens(budget) => (None, Some(budget)),
        };
        let steps = Steps {
            total: plan.total_steps(),
            epochs,
            micro_batches: recipe.training.gradient_accumulation_steps,
            batch_size,
            max_tokens_per_batch,
            tokens_per_epoch: epoch.iter().map(|index| examples[*index].tokens()).sum(),
            packed_tokens_per_epoch: epoch.iter().map(|index| sizes[*index].rows).sum(),
            largest_micro_batch: trained.iter().map(|load| load.rows).max().unwrap_or(0),
        };
        Self { steps, trained, evaluated, training, evaluation }
    }
}

/// The size of every example by itself.
fn loads(examples: &[Example]) -> Vec<Load> {
    examples.iter().map(|example| Load::of(&collate(&[example]))).collect()
}

/// The sizes of micro-batches of examples, in their order.
fn micro_batches(examples: &[Load], size: BatchSize) -> Vec<Load> {
    let order: Vec<usize> = (0..examples.len()).collect();
    let lengths: Vec<usize> = examples.iter().map(|load| load.rows).collect();
    let sum = |indices: Vec<usize>| indices.iter().map(|index| examples[*index]).sum();
    size.split(&order, &lengths).into_iter().map(sum).collect()
}
