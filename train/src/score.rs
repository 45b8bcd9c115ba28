//! `orpo-train score`: the metrics of a model on a data set, read and computed as a run does it.

use std::path::PathBuf;

use orpo_model::Decoder;
use orpo_model::adapter::BaseStorage;
use serde_json::{Map, Value};

use crate::checkpoint::Manifest;
use crate::data::{Dataset, Example, Source, Sources};
use crate::error::TrainError;
use crate::evaluate::evaluate;
use crate::recipe::{ObjectiveKind, Recipe, TrainingSection};
use crate::reference::set_references;
use crate::run::{ModelSource, Suspect, is_finite, non_finite, read_dataset, suspects};
use crate::saved::SavedModel;
use crate::telemetry::metric_fields;
use crate::terminal::say;

/// What is scored, and how.
#[derive(Debug, Clone, Default)]
pub struct ScoreOptions {
    /// A directory with a model or an adapter, a run directory, or `hub:owner/name`.
    pub model: PathBuf,
    /// The adapter's base model, if it is not where the adapter says.
    pub base: Option<PathBuf>,
    /// A file, a glob or `hub:owner/name:file`; by default the recipe's `data.validation`.
    pub data: Option<String>,
    /// The recipe; by default that of the model's manifest, or one with every key at its default.
    pub recipe: Option<PathBuf>,
    /// Overrides of its keys: `training.beta=0.2`.
    pub overrides: Vec<String>,
    /// A loss instead of the recipe's; the keys of the recipe's own loss are then ignored.
    pub objective: Option<String>,
    /// A chat template instead of the model's and the recipe's.
    pub chat_template: Option<PathBuf>,
}

/// The metrics under the names that a run gives them, with `objective` and the number of examples `n`.
///
/// # Errors
/// When a file is missing or wrong, nothing can be scored, or a metric is not finite.
pub fn score(options: &ScoreOptions) -> Result<Map<String, Value>, TrainError> {
    let mut saved = SavedModel::open(&options.model, options.base.as_deref())?;
    let recipe = recipe(options, &saved)?;
    let objective = recipe.objective();

    // The directory of a trained model has the template that it was trained with.
    let of_recipe = recipe.data.chat_template.as_ref().filter(|_| options.recipe.is_some());
    let chat = saved.chat(options.chat_template.as_ref().or(of_recipe).map(PathBuf::as_path))?;
    let Some(sources) = &recipe.data.validation else {
        return Err(TrainError::Refused(
            "there is no data to score; give --data, or a recipe with data.validation".into(),
        ));
    };
    let mut notes = Vec::new();
    let dataset = read_dataset(sources, &recipe, &chat, &saved.config, &mut notes);
    let mut dataset = dataset.map_err(|error| match recipe.training.objective {
        ObjectiveKind::Sft if options.data.is_some() => {
            TrainError::Refused(format!("{error}; to score preference pairs, add --objective orpo"))
        }
        _ => error,
    })?;
    notes.iter().for_each(|note| say(note));
    if objective.needs_reference() {
        let start = ModelSource::open(&recipe).map_err(|error| {
            TrainError::Refused(format!(
                "the loss compares with the model that training started from, and {error}; say where it is with --set \
                 model.path=DIR, or add --objective orpo"
            ))
        })?;
        let start = start.load(recipe.seed)?;
        set_references(&start, dataset.examples.iter_mut())?;
    }

    let order = dataset.weighted(recipe.seed);
    let examples: Vec<Example> = order.iter().map(|index| dataset.examples[*index].clone()).collect();
    let decoder = saved.load(recipe.lora.as_ref().map_or(BaseStorage::Source, |lora| lora.base))?;
    let metrics = evaluate(&decoder, &examples, &objective, recipe.batch_size())?;
    if !is_finite(&metrics)
        && let Some(weights) = weights_not_finite(&decoder)?
    {
        return Err(TrainError::invalid(&saved.dir, format!("{weights}, so that nothing can be scored with it")));
    }
    if let Some(what) = non_finite(&suspects_of(&dataset, &order), &decoder, &objective, &metrics)? {
        return Err(TrainError::invalid(&saved.dir, what));
    }
    let mut fields = metric_fields(&metrics, &objective, "");
    fields.insert("objective".into(), serde_json::to_value(recipe.training.objective).expect("a name"));
    fields.insert("n".into(), examples.len().into());
    Ok(fields)
}

fn suspects_of<'a>(dataset: &'a Dataset, order: &[usize]) -> Vec<Suspect<'a>> {
    let mut rows = order.to_vec();
    rows.dedup();
    suspects(dataset, &rows)
}

/// Names the weights that are not finite; none if all are.
fn weights_not_finite(decoder: &Decoder) -> Result<Option<String>, TrainError> {
    const NAMED: usize = 3;
    let mut names = Vec::new();
    for param in decoder.params().iter().chain(&decoder.adapter_params()) {
        if !param.with_values(|values| values.iter().all(|value| value.is_finite()))? {
            names.push(format!("`{}`", param.name()));
        }
    }
    let more = names.len().saturating_sub(NAMED);
    let shown = names[..names.len() - more].join(", ");
    Ok(match (names.len(), more) {
        (0, _) => None,
        (1, _) => Some(format!("its weight {shown} is not finite")),
        (_, 0) => Some(format!("its weights {shown} are not finite")),
        _ => Some(format!("its weights {shown} and {more} more are not finite")),
    })
}

/// The recipe that says how data is read and what the loss is. Its `data.validation` is what is scored.
fn recipe(options: &ScoreOptions, saved: &SavedModel) -> Result<Recipe, TrainError> {
    // Recipes have paths relative to their file; those of a manifest are relative to nothing.
    let (path, mut table) = match (&options.recipe, &saved.manifest) {
        (Some(path), _) => (path.clone(), Recipe::table(path)?),
        (None, Some(manifest)) => (Manifest::FILE.into(), as_table(&manifest.recipe)),
        (None, None) => (PathBuf::from("score"), as_table(&standard(saved))),
    };
    if let Some(objective) = &options.objective {
        let training = table.entry("training").or_insert_with(|| toml::Table::new().into());
        if let Some(training) = training.as_table_mut() {
            training.retain(|key, _| !TrainingSection::LOSS_KEYS.contains(&key));
            training.insert("objective".into(), objective.clone().into());
        }
    }
    let mut recipe = Recipe::with_overrides(&path, table, &options.overrides)?;
    if let Some(data) = &options.data {
        recipe.data.validation = Some(Sources(vec![like_the_recipes(&recipe, data)]));
    }
    Ok(recipe)
}

fn as_table(recipe: &Recipe) -> toml::Table {
    toml::Table::try_from(recipe).expect("a recipe is plain data")
}

/// A recipe for a model of which nothing is known.
fn standard(saved: &SavedModel) -> Recipe {
    let mut recipe = Recipe::standard(&saved.dir);
    recipe.data.max_length = recipe.data.max_length.min(saved.config.max_position_embeddings);
    recipe
}

/// `data` with the layout and columns that all sources of the recipe share.
fn like_the_recipes(recipe: &Recipe, data: &str) -> Source {
    let mut sources = recipe.data.train.0.iter().chain(recipe.data.validation.iter().flat_map(|sources| &sources.0));
    let first = sources.next();
    let shared = first.filter(|first| sources.all(|s| s.format == first.format && s.columns == first.columns));
    let source = Source::new(data);
    match shared {
        Some(shared) => Source { format: shared.format, columns: shared.columns.clone(), ..source },
        None => source,
    }
}
