//! What a recipe would do, before anything runs: rows, lengths, parameters, memory, time. Weights are not read, nothing is
//! written.

mod lengths;
mod memory;
mod pace;
mod preview;
mod report;
mod workload;

use crate::checkpoint::CheckpointDir;
use crate::error::TrainError;
use crate::recipe::Recipe;
use crate::run::{Data, MODEL_DIR, ModelSource, Plan, check_output_dir};
use crate::selection::Selection;
use crate::telemetry;

pub use lengths::{Cuts, Lengths, Percentiles};
pub use memory::{Load, MemoryEstimate, estimate};
pub use pace::{Counter, Pace, Work};
pub use preview::{ShownExample, ShownToken, preview};
pub use report::{Parameters, Report, Steps, TimeEstimate, duration, size_of};
pub use workload::Workload;

/// Looks at everything that `recipe` names, as a run would before its first step, and shows the first `shown` examples.
///
/// # Errors
/// When the run could not start: something named in the recipe is missing or wrong.
pub fn check(recipe: &Recipe, shown: usize) -> Result<Report, TrainError> {
    check_output_dir(&recipe.output_dir)?;
    let source = ModelSource::open(recipe)?;
    let model = source.outline()?.with_activation_checkpointing(recipe.training.gradient_checkpointing);
    let data = Data::load(recipe, &source)?;
    let resident = telemetry::memory().resident;
    Selection::new(recipe)?;
    let plan = Plan::new(recipe, &data.train)?;
    let warm_up = plan.warm_up_warning();
    let workload = Workload::of(recipe, &model, &data, plan);

    let parameters = Parameters::of(&model);
    let pace = Pace::measure(&source.config, &data.train.examples)?;
    let updates = pace.update * (workload.steps.total * parameters.trained) as f64;
    let training = workload.training / pace.flops + updates;
    let time = TimeEstimate {
        seconds: training + workload.evaluation / pace.flops,
        seconds_per_step: training / workload.steps.total as f64,
    };
    let has_checkpoint = CheckpointDir::of_run(&recipe.output_dir).latest()?.is_some();
    Ok(Report {
        lengths: Lengths::of(&data.train.examples),
        truncation: Cuts::of(&data.train),
        parameters,
        memory: estimate(&model, &workload.trained, &workload.evaluated, resident),
        steps: workload.steps,
        time,
        holds_run: has_checkpoint || recipe.output_dir.join(MODEL_DIR).exists(),
        preview: preview(&data.train, shown, &source.files.chat, recipe.objective().nll()),
        notes: source.notes.into_iter().chain(data.notes).chain(warm_up).collect(),
        data: data.lineage,
    })
}
