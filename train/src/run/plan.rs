//! Which examples make which step of a run, and at which learning rate.

use orpo_model::Decoder;

use crate::check::Parameters;
use crate::data::{BatchSize, Batching, Dataset, Mixture, packed_rows};
use crate::error::TrainError;
use crate::optim::Schedule;
use crate::recipe::Recipe;
use crate::terminal::counted;

/// The steps of a run. How many micro-batches an epoch has may change from epoch to epoch where a token budget makes
/// them, so that the steps are found epoch by epoch.
#[derive(Debug)]
pub struct Plan {
    /// The learning rate, and how many steps there are.
    pub schedule: Schedule,
    batching: Batching,
    mixture: Mixture,
    /// Rows that each example takes.
    lengths: Vec<usize>,
    epoch: usize,
    /// Steps of the epochs before `epoch`.
    before: usize,
    /// The steps of `epoch`.
    steps: Vec<Vec<Vec<usize>>>,
}

/// One optimiser step.
#[derive(Debug, Clone, PartialEq)]
pub struct PlannedStep {
    /// Indices of the examples of each micro-batch.
    pub micro_batches: Vec<Vec<usize>>,
    /// Passes over the data after the step.
    pub epoch: f64,
    /// Whether the step is the last of its epoch.
    pub ends_epoch: bool,
}

impl Plan {
    /// The plan of `recipe` over its training examples.
    ///
    /// # Errors
    /// When an example alone is over the recipe's token budget.
    pub fn new(recipe: &Recipe, data: &Dataset) -> Result<Self, TrainError> {
        let t = &recipe.training;
        let batching = Batching {
            size: recipe.batch_size(),
            group_by_length: t.group_by_length,
            accumulation: t.gradient_accumulation_steps,
            seed: recipe.seed,
        };
        let lengths: Vec<usize> = data.examples.iter().map(packed_rows).collect();
        if let BatchSize::Tokens(budget) = batching.size
            && let Some((index, length)) = lengths.iter().enumerate().find(|(_, length)| **length > budget)
        {
            return Err(TrainError::Refused(format!(
                "{}: {length} tokens, more than training.max_tokens_per_batch = {budget}; raise it or lower \
                 data.max_length",
                data.place(index)
            )));
        }
        let mixture = data.mixture.clone();
        let all_epochs = || (0..t.epochs).map(|epoch| batching.epoch(&mixture, &lengths, epoch).len()).sum();
        let schedule = recipe.schedule(t.max_steps.unwrap_or_else(all_epochs));
        let steps = batching.epoch(&mixture, &lengths, 0);
        Ok(Self { schedule, batching, mixture, lengths, epoch: 0, before: 0, steps })
    }

    /// All steps.
    pub fn total_steps(&self) -> usize {
        self.schedule.total_steps
    }

    /// What is going to be trained, in one line.
    pub fn describe(&self, decoder: &Decoder, done: usize) -> String {
        let Parameters { trained, frozen } = Parameters::of(decoder);
        let parameters = match frozen {
            0 => counted(trained, "parameter"),
            _ => format!("{trained} of {} parameters trained", trained + frozen),
        };
        let size = match self.batching.size {
            BatchSize::Examples(size) => counted(size, "example"),
            BatchSize::Tokens(budget) => format!("up to {}", counted(budget, "token")),
        };
        let from = if done > 0 { format!(", going on after step {done}") } else { String::new() };
        format!(
            "{parameters}, {}, {}, {} of {} x {size}{from}",
            counted(self.lengths.len(), "example"),
            counted(self.lengths.iter().sum(), "token"),
            counted(self.total_steps(), "step"),
            self.batching.accumulation,
        )
    }

    /// Step `step`, counted from 0. Steps are asked for in rising order.
    pub fn step(&mut self, step: usize) -> PlannedStep {
        while step >= self.before + self.steps.len() {
            self.before += self.steps.len();
            self.epoch += 1;
            self.steps = self.batching.epoch(&self.mixture, &self.lengths, self.epoch);
        }
        let index = step - self.before;
        PlannedStep {
            micro_batches: self.steps[index].clone(),
            epoch: self.epoch as f64 + (index + 1) as f64 / self.steps.len() as f64,
            ends_epoch: index + 1 == self.steps.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{DataFile, Example, Sequence};

    fn plan(training: &str, lengths: &[usize]) -> Result<Plan, TrainError> {
        let text = format!("output_dir = \"o\"\n[model]\npath = \"m\"\n[data]\ntrain = \"t\"\n[training]\n{training}");
        let sequence = |length: usize| Sequence { ids: vec![0; length], prompt_len: 1 };
        let examples: Vec<Example> =
            (lengths.iter().enumerate()).map(|(i, length)| Example::document(i + 1, sequence(length + 1))).collect();
        let file = DataFile {
            path: "t".into(),
            sha256: String::new(),
            layout: "",
            unit: "line",
            weight: 1.0,
            examples: 0..examples.len(),
            dropped: Default::default(),
            notes: Vec::new(),
            is_templated: false,
            refusal: None,
        };
        let mixture = Mixture::new(vec![(0..examples.len(), 1.0)]);
        Plan::new(&toml::from_str(&text).unwrap(), &Dataset { examples, files: vec![file], mixture })
    }

    #[test]
    fn epochs_follow_one_another() {
        let mut plan = plan("batch_size = 2\ngradient_accumulation_steps = 2\nepochs = 2", &[3; 11]).unwrap();
        assert_eq!(plan.total_steps(), 6);
        let steps: Vec<PlannedStep> = (0..6).map(|step| plan.step(step)).collect();
        assert_eq!(steps.iter().map(|step| step.ends_epoch).collect::<Vec<_>>(), [0, 0, 1, 0, 0, 1].map(|x| x == 1));
        assert_eq!((steps[2].epoch, steps[5].epoch), (1.0, 2.0));
        assert_ne!(steps[0].micro_batches, steps[3].micro_batches);
    }

    #[test]
    fn a_plan_that_begins_in_the_middle_is_the_same() {
        let lengths: Vec<usize> = (0..50).map(|i| 1 + i * 13 % 17).collect();
        let training = "max_tokens_per_batch = 40\ngroup_by_length = true\nepochs = 4";
        let mut whole = plan(training, &lengths).unwrap();
        let steps: Vec<PlannedStep> = (0..whole.total_steps()).map(|step| whole.step(step)).collect();
        assert_eq!(steps.last().unwrap().epoch, 4.0);
        assert_eq!(steps.iter().filter(|step| step.ends_epoch).count(), 4);
        for (first, step) in steps.iter().enumerate() {
            assert_eq!(plan(training, &lengths).unwrap().step(first), *step);
        }
    }

    #[test]
    fn an_example_over_the_budget_is_named() {
        let error = plan("max_tokens_per_batch = 8", &[3, 9]).unwrap_err().to_string();
        assert!(error.contains("`t` line 2: 9 tokens") && error.contains("max_tokens_per_batch = 8"), "{error}");
    }
}
