//! The two files that a length-controlled win rate needs beside the annotations. They are not part of this program,
//! because their licence (CC BY-NC 4.0) is not ours: `df_gamed.csv` and `instruction_difficulty.csv` of the Hugging
//! Face data set `tatsu-lab/alpaca_eval`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use crate::jsonl::{self, InputError};

/// An annotation of a baseline that was told to be brief or verbose. It keeps the weight of length from absorbing
/// quality.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GamedRow {
    /// The preference for it, from 0 to 1.
    pub preference: f64,
    /// The difference of lengths, in standard deviations.
    pub std_delta_len: f64,
    /// The difficulty of its instruction.
    pub difficulty: f64,
}

/// A row of `df_gamed.csv`.
#[derive(Debug, Deserialize)]
struct Row {
    index: usize,
    preference: f64,
    std_delta_len: f64,
    instruction_difficulty: f64,
    not_gamed_baseline: String,
}

/// The difficulty of each instruction, by its number.
pub type Difficulty = BTreeMap<usize, f64>;

/// Reads `df_gamed.csv` (or a compressed one): the annotations, and the difficulties that it carries along.
///
/// # Errors
/// When it cannot be read, or a row is not of that form, with its line.
pub fn read_gamed(path: &Path) -> Result<(Vec<GamedRow>, Difficulty), InputError> {
    let text = jsonl::read_text(path)?;
    let mut rows = Vec::new();
    let mut difficulty = Difficulty::new();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for row in reader.deserialize::<Row>() {
        let row = row.map_err(|error| csv_error(path, &error))?;
        if row.not_gamed_baseline != "False" {
            let problem = format!("not_gamed_baseline of index {} is not False", row.index);
            return Err(InputError::File { path: path.to_owned(), problem });
        }
        difficulty.entry(row.index).or_insert(row.instruction_difficulty);
        let Row { preference, std_delta_len, instruction_difficulty: difficulty, .. } = row;
        if !(0.0..=1.0).contains(&preference) || !std_delta_len.is_finite() || !difficulty.is_finite() {
            let problem = format!("a number of index {} is out of range", row.index);
            return Err(InputError::File { path: path.to_owned(), problem });
        }
        rows.push(GamedRow { preference, std_delta_len, difficulty });
    }
    if rows.is_empty() {
        return Err(InputError::File { path: path.to_owned(), problem: "it has no rows".into() });
    }
    Ok((rows, difficulty))
}

/// Reads `instruction_difficulty.csv`: two columns, the number of an instruction and its difficulty.
///
/// # Errors
/// When it cannot be read, or a row is not of that form, with its line.
pub fn read_difficulty(path: &Path) -> Result<Difficulty, InputError> {
    let text = jsonl::read_text(path)?;
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let rows = reader.deserialize::<(usize, f64)>().map(|row| row.map_err(|error| csv_error(path, &error)));
    let difficulty = rows.collect::<Result<Difficulty, _>>()?;
    if difficulty.is_empty() {
        return Err(InputError::File { path: path.to_owned(), problem: "it has no rows".into() });
    }
    Ok(difficulty)
}

fn csv_error(path: &Path, error: &csv::Error) -> InputError {
    let path = path.to_owned();
    match error.kind() {
        csv::ErrorKind::Deserialize { pos: Some(position), err } => {
            InputError::Line { path, line: usize::try_from(position.line()).unwrap_or(0), problem: err.to_string() }
        }
        _ => InputError::File { path, problem: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    const HEADER: &str = "model,index,preference,std_delta_len,instruction_difficulty,not_gamed_baseline\n";

    #[test]
    fn files_are_read_with_their_official_columns() {
        let file = written(&format!("{HEADER}a,0,0.25,-1.5,0.5,False\nb,0,0.75,2,0.5,False\nb,1,1,0,-0.5,False\n"));
        let (rows, difficulty) = read_gamed(file.path()).unwrap();
        assert_eq!(rows[0], GamedRow { preference: 0.25, std_delta_len: -1.5, difficulty: 0.5 });
        assert_eq!((rows.len(), difficulty), (3, Difficulty::from([(0, 0.5), (1, -0.5)])));
        let file = written(",instruction_difficulty\n0,0.5\n1,-0.5\n");
        assert_eq!(read_difficulty(file.path()).unwrap(), Difficulty::from([(0, 0.5), (1, -0.5)]));
    }

    #[test]
    fn other_files_are_refused() {
        for (text, problem) in [
            ("index,preference\n0,1\n".to_owned(), "missing field `std_delta_len`"),
            (format!("{HEADER}a,0,x,0,0,False\n"), ":2: field 2: invalid float literal"),
            (format!("{HEADER}a,0,0,0,0,True\n"), "not_gamed_baseline of index 0 is not False"),
            (format!("{HEADER}a,3,1.5,0,0,False\n"), "a number of index 3 is out of range"),
            (HEADER.to_owned(), "it has no rows"),
        ] {
            let message = read_gamed(written(&text).path()).unwrap_err().to_string();
            assert!(message.contains(problem), "{message}");
        }
        let message = read_difficulty(written("index,difficulty\n0,hard\n").path()).unwrap_err().to_string();
        assert!(message.contains(":2: "), "{message}");
    }
}
