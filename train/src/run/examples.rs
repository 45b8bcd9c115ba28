//! The examples that a run trains on and is evaluated on.

use std::collections::BTreeMap;
use std::path::Path;

use orpo_chat::ChatTokenizer;

use crate::checkpoint::{DataLineage, sha256_file};
use crate::data::{
    Dropped, Example, TokeniseOptions, Tokeniser, read_documents, read_preferences, untrained_terminator,
};
use crate::error::TrainError;
use crate::model::Decoder;
use crate::recipe::{ObjectiveKind, Recipe};
use crate::reference::set_references;
use crate::run::ModelSource;

/// What a run trains on and is evaluated on.
#[derive(Debug)]
pub struct Data {
    /// To train on.
    pub train: Vec<Example>,
    /// To be evaluated on.
    pub validation: Option<Vec<Example>>,
    /// Where they come from: training data, then validation data.
    pub lineage: Vec<DataLineage>,
}

impl Data {
    /// Reads the recipe's files.
    ///
    /// # Errors
    /// When a row is not what it should be, a sequence is too long for the model, or no row can be used.
    pub fn load(recipe: &Recipe, source: &ModelSource) -> Result<Self, TrainError> {
        let load = |path| load_examples(path, recipe, &source.files.chat);
        let (train, train_lineage) = load(&recipe.data.train)?;
        let (validation, validation_lineage) = recipe.data.validation.as_deref().map(load).transpose()?.unzip();
        source.check_lengths(train.iter().chain(validation.iter().flatten()))?;
        Ok(Self { train, validation, lineage: std::iter::once(train_lineage).chain(validation_lineage).collect() })
    }

    /// Sets the log-probabilities of every pair under the reference model, which is `decoder` with its first weights.
    ///
    /// # Errors
    /// From the model's operations.
    pub fn set_references(&mut self, decoder: &Decoder) -> Result<(), TrainError> {
        std::iter::once(&mut self.train)
            .chain(&mut self.validation)
            .try_for_each(|examples| set_references(decoder, examples))
    }

    /// The training examples at `indices`.
    pub fn train_at(&self, indices: &[usize]) -> Vec<&Example> {
        indices.iter().map(|index| &self.train[*index]).collect()
    }
}

fn load_examples(
    path: &Path,
    recipe: &Recipe,
    chat: &ChatTokenizer,
) -> Result<(Vec<Example>, DataLineage), TrainError> {
    let documents = recipe.training.objective == ObjectiveKind::Sft;
    let examples = read_examples(path, chat, recipe.tokenise_options(), documents)?;
    let lineage = DataLineage {
        path: path.to_path_buf(),
        sha256: sha256_file(path)?,
        rows_used: examples.used.len(),
        rows_dropped: examples.dropped.iter().map(|(why, lines)| (why.to_string(), lines.len())).collect(),
    };
    Ok((examples.used, lineage))
}

/// A data file's examples, and the lines that cannot be used, by reason.
#[derive(Debug)]
pub struct Examples {
    /// What can be used.
    pub used: Vec<Example>,
    /// Lines that cannot.
    pub dropped: BTreeMap<Dropped, Vec<usize>>,
}

/// Reads and tokenises a file of pairs or of documents; rows that cannot be used are listed on stderr.
///
/// # Errors
/// When a row is not what it should be, or none can be used.
pub fn read_examples(
    path: &Path,
    chat: &ChatTokenizer,
    options: TokeniseOptions,
    documents: bool,
) -> Result<Examples, TrainError> {
    let tokeniser = Tokeniser::new(chat, options);
    let results: Vec<(usize, Result<Example, Dropped>)> = if documents {
        let rows = read_documents(path)?;
        let examples = rows.iter().map(|(line, row)| Ok((*line, tokeniser.document(*line, row)?)));
        examples.collect::<Result<_, TrainError>>()?
    } else {
        let rows = read_preferences(path)?;
        let examples = rows.iter().map(|(line, row)| Ok((*line, tokeniser.pair(*line, row)?)));
        examples.collect::<Result<_, TrainError>>()?
    };
    let mut used = Vec::new();
    let mut dropped: BTreeMap<Dropped, Vec<usize>> = BTreeMap::new();
    for (line, result) in results {
        match result {
            Ok(example) => used.push(example),
            Err(reason) => dropped.entry(reason).or_default().push(line),
        }
    }
    for (reason, lines) in &dropped {
        let list = lines.iter().map(|line| line.to_string()).collect::<Vec<_>>().join(", ");
        eprintln!("`{}`: {} rows dropped ({reason}): lines {list}", path.display(), lines.len());
    }
    if used.is_empty() {
        return Err(TrainError::invalid(path, "no row can be used"));
    }
    if let Some(warning) = untrained_terminator(&used, chat.eos_ids()) {
        eprintln!("warning: `{}`: {warning}", path.display());
    }
    Ok(Examples { used, dropped })
}
