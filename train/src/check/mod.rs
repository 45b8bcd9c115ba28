//! What a recipe would do, before anything runs: rows, lengths, parameters, memory, time. Weights are not read, nothing is
//! written.

mod lengths;
mod memory;
mod pace;
mod preview;
mod report;

use crate::checkpoint::CheckpointDir;
use crate::data::{BatchSize, Example, collate};
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::run::{Data, MODEL_DIR, ModelSource, Plan};
use crate::selection::Selection;
use crate::telemetry;

pub use lengths::{Cuts, Lengths, Percentiles};
pub use memory::{Load, MemoryEstimate, estimate};
pub use pace::{Counter, Pace, Work};
pub use preview::{ShownExample, ShownToken, preview};
pub use report::{Parameters, Report, Steps, TimeEstimate};

/// Looks at everything that `recipe` names, as a run would before its first step, and shows the first `shown` examples.
///
/// # Errors
/// When the run could not start: something named in the recipe is missing or wrong.
pub fn check(recipe: &Recipe, shown: usize) -> Result<Report, TrainError> {
    let source = ModelSource::open(recipe)?;
    let model = source.outline()?.with_activation_checkpointing(recipe.training.gradient_checkpointing);
    let data = Data::load(recipe, &source)?;
    let resident = telemetry::memory().resident;
    let objective = recipe.objective();
    Selection::new(recipe)?;
    let mut plan = Plan::new(recipe, &data.train)?;

    let examples = &data.train.examples;
    let validation = data.validation.as_ref().map_or(&[][..], |validation| &validation.examples);
    let load = |examples: &[&Example]| Load::of(&collate(examples));
    let counter = Counter::new(&model);
    let sizes: Vec<Load> = examples.iter().map(|example| load(&[example])).collect();
    let work: Vec<Work> = examples.iter().map(|example| counter.of(example)).collect();

    let mut steps = Steps::new(recipe, &plan);
    let mut trained = Vec::new();
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
        steps.epochs = planned.epoch;
    }
    let of_validation: Vec<Load> = validation.iter().map(|example| load(&[example])).collect();
    let mut evaluated = micro_batches(&of_validation, recipe.batch_size());
    let forward = |examples: &[Example]| examples.iter().map(|example| counter.of(example).evaluation).sum::<f64>();
    let mut computed = training + evaluations as f64 * forward(validation);
    if objective.needs_reference() {
        let all: Vec<Load> = sizes.iter().chain(&of_validation).copied().collect();
        evaluated.extend(micro_batches(&all, BatchSize::Examples(crate::reference::BATCH)));
        computed += forward(examples) + forward(validation);
    }
    let epoch = data.train.mixture.epoch(recipe.seed, 0);
    steps.tokens_per_epoch = epoch.iter().map(|index| examples[*index].tokens()).sum();
    steps.packed_tokens_per_epoch = epoch.iter().map(|index| sizes[*index].rows).sum();
    steps.largest_micro_batch = trained.iter().map(|load: &Load| load.rows).max().unwrap_or(0);

    let parameters = Parameters::of(&model);
    let pace = Pace::measure(&source.config, examples)?;
    let seconds = computed / pace.flops + pace.update * (plan.total_steps() * parameters.trained) as f64;
    let per_step = training / pace.flops / plan.total_steps() as f64 + pace.update * parameters.trained as f64;
    let holds_run =
        CheckpointDir::of_run(&recipe.output_dir).latest()?.is_some() || recipe.output_dir.join(MODEL_DIR).exists();
    Ok(Report {
        notes: data.notes,
        lengths: Lengths::of(examples),
        truncation: Cuts::of(&data.train),
        parameters,
        steps,
        memory: estimate(&model, &trained, &evaluated, resident),
        time: TimeEstimate { seconds, seconds_per_step: per_step },
        holds_run,
        preview: preview(&data.train, shown, &source.files.chat, objective.nll())?,
        data: data.lineage,
    })
}

/// The sizes of micro-batches of examples, in their order.
fn micro_batches(examples: &[Load], size: BatchSize) -> Vec<Load> {
    let order: Vec<usize> = (0..examples.len()).collect();
    let lengths: Vec<usize> = examples.iter().map(|load| load.rows).collect();
    let sum = |indices: Vec<usize>| indices.iter().map(|index| examples[*index]).sum();
    size.split(&order, &lengths).into_iter().map(sum).collect()
}
