//! The examples that a run trains on and is evaluated on.

use orpo_chat::{ChatError, ChatTokenizer, GenerationPromptFault};
use orpo_model::{Decoder, ModelConfig};

use crate::checkpoint::DataLineage;
use crate::data::{DataFile, Dataset, Example, Overlap, Sources, Tokeniser, duplicates, overlap, untrained_terminator};
use crate::error::TrainError;
use crate::recipe::{ObjectiveKind, Recipe};
use crate::reference::set_references;
use crate::run::ModelSource;
use crate::terminal::counted;

/// Name of the file in the run directory that lists every row that is not used, one line of JSON each: `{"source", "row",
/// "reason"}`.
pub const DROPPED_FILE: &str = "dropped.jsonl";

/// What a run trains on and is evaluated on.
#[derive(Debug)]
pub struct Data {
    /// To train on.
    pub train: Dataset,
    /// To be evaluated on, each as often as its weight says.
    pub validation: Option<Validation>,
    /// Where they come from: training data, then validation data.
    pub lineage: Vec<DataLineage>,
    /// Every row that is not used, as lines of JSON.
    pub dropped: String,
    /// What a user should know of it, in lines: what each file holds, and warnings.
    pub notes: Vec<String>,
}

/// The examples of an evaluation.
#[derive(Debug)]
pub struct Validation {
    /// In the order of the files.
    pub examples: Vec<Example>,
    /// File and row of each.
    places: Vec<String>,
}

/// An example with its place in the data, to be named where something is wrong with it.
#[derive(Debug, Clone)]
pub struct Suspect<'a> {
    /// File and row.
    pub place: String,
    /// The example.
    pub example: &'a Example,
}

impl Validation {
    fn new(dataset: &Dataset, seed: u64) -> Self {
        let order = dataset.weighted(seed);
        Self {
            examples: order.iter().map(|index| dataset.examples[*index].clone()).collect(),
            places: order.iter().map(|index| dataset.place(*index)).collect(),
        }
    }

    /// All examples, with their places.
    pub fn suspects(&self) -> Vec<Suspect<'_>> {
        let pairs = self.places.iter().zip(&self.examples);
        pairs.map(|(place, example)| Suspect { place: place.clone(), example }).collect()
    }
}

impl Data {
    /// Reads the recipe's sources.
    ///
    /// # Errors
    /// When a row is not what it should be, a sequence is too long for the model, or no row can be used.
    pub fn load(recipe: &Recipe, source: &ModelSource) -> Result<Self, TrainError> {
        let mut notes = Vec::new();
        let mut read =
            |sources: &Sources| read_dataset(sources, recipe, &source.files.chat, &source.config, &mut notes);
        let train = read(&recipe.data.train)?;
        let validation = recipe.data.validation.as_ref().map(read).transpose()?;
        if train.files.iter().any(|file| file.is_templated) {
            notes.extend(generation_prompt(&source.files.chat)?.map(|warning| format!("warning: {warning}")));
        }
        let mut lineage = lineage_of("train", &train);
        let mut dropped = train.dropped_lines();
        let doubled = duplicates(&train.examples);
        if doubled > 0 {
            notes.push(format!(
                "duplicates in the training data: {} with the prompt and the responses of an earlier one",
                counted(doubled, "row")
            ));
        }
        let validation = validation.map(|validation| {
            notes.extend(leak(overlap(&train.examples, &validation.examples), validation.examples.len()));
            lineage.extend(lineage_of("validation", &validation));
            dropped += &validation.dropped_lines();
            Validation::new(&validation, recipe.seed)
        });
        Ok(Self { train, validation, lineage, dropped, notes })
    }

    /// Sets the log-probabilities of every pair under the reference model, which is `decoder` with its first weights.
    ///
    /// # Errors
    /// From the model's operations.
    pub fn set_references(&mut self, decoder: &Decoder) -> Result<(), TrainError> {
        let train = self.train.examples.iter_mut();
        let validation = self.validation.iter_mut().flat_map(|validation| &mut validation.examples);
        set_references(decoder, train.chain(validation))
    }

    /// The training examples at `indices`.
    pub fn train_at(&self, indices: &[usize]) -> Vec<&Example> {
        indices.iter().map(|index| &self.train.examples[*index]).collect()
    }

    /// The training examples at `indices`, with their places.
    pub fn suspects_at(&self, indices: &[usize]) -> Vec<Suspect<'_>> {
        suspects(&self.train, indices)
    }
}

/// The examples of `dataset` at `indices`, with their places.
pub fn suspects<'a>(dataset: &'a Dataset, indices: &[usize]) -> Vec<Suspect<'a>> {
    let suspect = |i: &usize| Suspect { place: dataset.place(*i), example: &dataset.examples[*i] };
    indices.iter().map(suspect).collect()
}

/// Reads `sources` as `recipe` says, for a model of this shape; `notes` gets what a user should know of them.
///
/// # Errors
/// When a row is not what it should be, a sequence does not fit the model, or no row can be used.
pub fn read_dataset(
    sources: &Sources,
    recipe: &Recipe,
    chat: &ChatTokenizer,
    config: &ModelConfig,
    notes: &mut Vec<String>,
) -> Result<Dataset, TrainError> {
    let tokeniser = Tokeniser::new(chat, recipe.tokenise_options()).with_vocab_size(config.vocab_size);
    let documents = recipe.training.objective == ObjectiveKind::Sft;
    let dataset = Dataset::load(sources, &recipe.data.selection(), &tokeniser, documents).map_err(naming_the_key)?;
    notes.push(dataset.describe());
    notes.extend(untrained_terminator(&dataset.examples, chat.eos_ids()).map(|warning| format!("warning: {warning}")));
    let (limit, vocab_size) = (config.max_position_embeddings, config.vocab_size);
    for (index, example) in dataset.examples.iter().enumerate() {
        let sides = || std::iter::once(&example.chosen).chain(&example.rejected);
        if let Some(id) = sides().flat_map(|side| &side.ids).find(|id| **id as usize >= vocab_size) {
            return Err(TrainError::Refused(format!(
                "{}: token id {id} is not below the model's vocab_size = {vocab_size}; its tokenizer has more tokens than \
                 its embedding has rows, so take the tokenizer of this model or a model with a larger embedding",
                dataset.place(index)
            )));
        }
        let longest = sides().map(|side| side.ids.len()).max().unwrap_or(0);
        if longest > limit {
            return Err(TrainError::Refused(format!(
                "{}: {longest} tokens, but the model has max_position_embeddings = {limit}; set data.max_length to at \
                 most {limit}, or data.drop_long_prompts to less",
                dataset.place(index)
            )));
        }
    }
    Ok(dataset)
}

/// What evaluation data that is trained on, at least in part, means.
fn leak(Overlap { prompts, examples }: Overlap, all: usize) -> Option<String> {
    let with_responses = match examples {
        0 => String::new(),
        _ => format!(", {examples} of them with the same responses"),
    };
    (prompts > 0).then(|| {
        format!("warning: {prompts} of {all} evaluation prompts also occur in the training data{with_responses}")
    })
}

/// What is wrong with a chat template that does not do what it is asked about the assistant's turn, with the tokens.
fn generation_prompt(chat: &ChatTokenizer) -> Result<Option<String>, TrainError> {
    let shown = |tokens: &[String]| tokens.iter().map(|token| format!("[{token}]")).collect::<String>();
    Ok(chat.generation_prompt_fault()?.map(|fault| match fault {
        GenerationPromptFault::AlwaysOpened { tokens, .. } => format!(
            "the chat template opens the assistant's turn at the end of every conversation, so that each response is trained \
             with {} after it; write the header only {{% if add_generation_prompt %}}",
            shown(&tokens)
        ),
        GenerationPromptFault::NeverOpened { tokens, .. } => format!(
            "the chat template does not open the assistant's turn where a reply is asked for, so that each response is \
             trained, and each served reply begins, with {}; write the header at the end {{% if add_generation_prompt %}}",
            shown(&tokens)
        ),
    }))
}

/// A missing template with the key that gives one.
fn naming_the_key(error: TrainError) -> TrainError {
    match error {
        TrainError::Chat(ChatError::NoTemplate { dir }) => TrainError::NoTemplate { dir },
        error => error,
    }
}

/// How a data set came to be, file by file.
fn lineage_of(split: &str, dataset: &Dataset) -> Vec<DataLineage> {
    let file = |file: &DataFile| DataLineage {
        split: split.into(),
        path: file.path.clone(),
        sha256: file.sha256.clone(),
        layout: file.layout.into(),
        weight: file.weight,
        rows_used: file.examples.len(),
        rows_dropped: file.dropped.iter().map(|(why, rows)| (why.to_string(), rows.len())).collect(),
    };
    dataset.files.iter().map(file).collect()
}
