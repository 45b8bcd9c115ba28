//! `leaderboard.csv`: a row for each model, in the official columns.

use std::collections::BTreeMap;
use std::path::Path;

use crate::jsonl::InputError;

/// The official columns, in their order; the name of the model comes first and has no heading.
const COLUMNS: [&str; 11] = [
    "win_rate",
    "standard_error",
    "n_wins",
    "n_wins_base",
    "n_draws",
    "n_total",
    "discrete_win_rate",
    "mode",
    "avg_length",
    "length_controlled_winrate",
    "lc_standard_error",
];

/// A table of models. Cells are kept as they stand in a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Leaderboard {
    columns: Vec<String>,
    rows: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for Leaderboard {
    fn default() -> Self {
        Self { columns: COLUMNS.map(str::to_owned).to_vec(), rows: BTreeMap::new() }
    }
}

impl Leaderboard {
    /// Reads a leaderboard, official or ours.
    ///
    /// # Errors
    /// When it is no such table.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Self, InputError> {
        let failed = |problem: String| InputError::File { path: path.to_owned(), problem };
        let mut reader = csv::Reader::from_reader(bytes);
        let header = reader.headers().map_err(|error| failed(error.to_string()))?.clone();
        let columns: Vec<String> = header.iter().skip(1).map(str::to_owned).collect();
        if !columns.iter().any(|column| column == "win_rate") {
            return Err(failed("it is no leaderboard: it has no column `win_rate`".into()));
        }
        let mut rows = BTreeMap::new();
        for record in reader.records() {
            let record = record.map_err(|error| failed(error.to_string()))?;
            let cells = columns.iter().cloned().zip(record.iter().skip(1).map(str::to_owned));
            rows.insert(record[0].to_owned(), cells.filter(|(_, cell)| !cell.is_empty()).collect());
        }
        Ok(Self { columns, rows })
    }

    /// Puts a model's row in, in place of one of the same name.
    pub fn insert(&mut self, name: &str, cells: impl IntoIterator<Item = (&'static str, String)>) {
        let cells: BTreeMap<String, String> =
            cells.into_iter().map(|(column, cell)| (column.to_owned(), cell)).collect();
        for column in COLUMNS {
            if cells.contains_key(column) && !self.columns.iter().any(|known| known == column) {
                self.columns.push(column.to_owned());
            }
        }
        self.rows.insert(name.to_owned(), cells);
    }

    /// Adds the models of another leaderboard, which win over those of the same names.
    pub fn extend(&mut self, other: Self) {
        for column in other.columns {
            if !self.columns.contains(&column) {
                self.columns.push(column);
            }
        }
        self.rows.extend(other.rows);
    }

    /// The file: the best model first, by length-controlled win rate, then by win rate.
    pub fn to_csv(&self) -> String {
        let number = |cells: &BTreeMap<String, String>, column| -> f64 {
            cells.get(column).and_then(|cell| cell.parse().ok()).unwrap_or(f64::NEG_INFINITY)
        };
        let key = |cells| [number(cells, "length_controlled_winrate"), number(cells, "win_rate")];
        let mut rows: Vec<_> = self.rows.iter().collect();
        rows.sort_by(|(_, a), (_, b)| key(b).partial_cmp(&key(a)).unwrap_or(std::cmp::Ordering::Equal));
        let mut writer = csv::Writer::from_writer(Vec::new());
        let mut write = |first: &str, cells: Vec<&str>| {
            writer.write_record(std::iter::once(first).chain(cells)).expect("records of equal length, in memory");
        };
        write("", self.columns.iter().map(String::as_str).collect());
        for (name, cells) in rows {
            write(name, self.columns.iter().map(|column| cells.get(column).map_or("", String::as_str)).collect());
        }
        String::from_utf8(writer.into_inner().expect("in memory")).expect("cells are text")
    }
}

/// A number as Python writes it.
pub(super) fn float(value: f64) -> String {
    format!("{value:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_replaced_and_sorted() {
        let text =
            ",win_rate,mode,length_controlled_winrate,extra\nb,30.0,community,20.5,x\n\"a, b\",50.0,verified,10.0,\n";
        let mut board = Leaderboard::parse(Path::new("f"), text.as_bytes()).unwrap();
        assert_eq!(board.to_csv(), text);
        board.insert("b", [("win_rate", float(40.0)), ("avg_length", "12".into())]);
        let expected =
            ",win_rate,mode,length_controlled_winrate,extra,avg_length\n\"a, b\",50.0,verified,10.0,,\nb,40.0,,,,12\n";
        assert_eq!(board.to_csv(), expected);
        let mut all = Leaderboard::default();
        all.insert("b", [("win_rate", float(1.0))]);
        all.extend(board);
        assert!(all.to_csv().contains("\nb,40.0,"), "{}", all.to_csv());
        assert!(all.to_csv().starts_with(",win_rate,standard_error,n_wins,"));
        let message = Leaderboard::parse(Path::new("f"), b"a,b\n1,2\n").unwrap_err().to_string();
        assert_eq!(message, "cannot use `f`: it is no leaderboard: it has no column `win_rate`");
    }
}
