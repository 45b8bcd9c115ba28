//! The page as data: sections of blocks, which the template turns into HTML.

use serde::Serialize;

use super::charts::{Caption, Style};
use crate::stats::Metric;

/// A section of the page.
#[derive(Debug, Serialize)]
pub struct Section {
    /// Its anchor.
    pub id: &'static str,
    /// Its heading.
    pub title: &'static str,
    /// What it holds.
    pub blocks: Vec<Block>,
}

/// A part of a section. All text is plain; only charts and swatches are markup, made in [`super::charts`].
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Block {
    /// A paragraph.
    Text {
        /// The paragraph.
        text: String,
    },
    /// A list of remarks.
    Notes {
        /// The remarks.
        items: Vec<String>,
    },
    /// Charts side by side.
    Figures(Figures),
    /// A table.
    Table(Table),
    /// Something that is folded.
    Details {
        /// What is seen of it.
        summary: String,
        /// What it holds.
        blocks: Vec<Block>,
    },
    /// Names and values.
    Terms {
        /// The pairs.
        items: Vec<(String, String)>,
    },
    /// Text as it is, such as a command.
    Code {
        /// What it is, where that is not said already.
        label: String,
        /// The text.
        text: String,
    },
}

/// Charts that belong together, under one heading and with one legend.
#[derive(Debug, Serialize)]
pub struct Figures {
    /// The heading.
    pub title: String,
    /// How to read them.
    pub note: String,
    /// What the series are.
    pub legend: Vec<Legend>,
    /// The charts.
    pub charts: Vec<Figure>,
    /// Whether they are of different heights, and are set below each other in columns instead of in rows.
    pub in_columns: bool,
}

/// A series in a legend.
#[derive(Debug, Serialize)]
pub struct Legend {
    /// How it looks, as an SVG element.
    swatch: String,
    /// What it is.
    label: String,
}

impl Legend {
    /// Of lines.
    pub fn line(style: Style, label: &str) -> Self {
        Self { swatch: style.swatch(), label: label.to_owned() }
    }

    /// Of bars.
    pub fn patch(style: Style, label: &str) -> Self {
        Self { swatch: style.patch(), label: label.to_owned() }
    }
}

/// One chart.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What stands above it.
    pub title: String,
    /// The SVG element.
    pub svg: String,
}

/// A table whose first column names the rows.
#[derive(Debug, Serialize)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// The names of the columns, the first one's included.
    pub header: Vec<String>,
    /// The rows.
    pub rows: Vec<Row>,
    /// Whether the numbers are others' and not measured here.
    pub published: bool,
}

/// A row of a table.
#[derive(Debug, Serialize)]
pub struct Row {
    /// Its name.
    pub head: String,
    /// The other cells.
    pub cells: Vec<Cell>,
}

/// A cell: a value, and something smaller below it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Cell {
    /// The value; empty where there is none.
    pub text: String,
    /// What is to be known about it, such as its interval.
    pub detail: String,
    /// Whether it is text and no number.
    pub is_text: bool,
}

impl Table {
    /// A table of this program's own findings.
    pub fn new(caption: impl Into<String>, header: &[&str], rows: Vec<Row>) -> Self {
        let header = header.iter().map(|&name| name.to_owned()).collect();
        Self { caption: caption.into(), header, rows, published: false }
    }
}

impl Cell {
    /// A number.
    pub fn number(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }

    /// Words.
    pub fn words(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_text: true, ..Self::default() }
    }

    /// A number with its interval, both multiplied.
    pub fn interval(value: f64, [low, high]: [f64; 2], factor: f64, decimals: usize) -> Self {
        let [value, low, high] = [value, low, high].map(|number| fixed(number * factor, decimals));
        Self { text: value, detail: format!("{low} to {high}"), ..Self::default() }
    }

    /// A metric with its interval, or without a value the reason for that.
    pub fn metric(metric: &Metric, factor: f64, decimals: usize) -> Self {
        match (metric.value.zip(metric.ci95), metric.reason) {
            (Some((value, ci95)), _) => Self::interval(value, ci95, factor, decimals),
            (None, Some(reason)) => Self { detail: reason.to_string(), ..Self::default() },
            (None, None) => Self::default(),
        }
    }
}

/// A number with this many decimals. Every number on the page goes through here and is rounded once.
pub fn fixed(value: f64, decimals: usize) -> String {
    let text = format!("{value:.decimals$}");
    match text.strip_prefix('-') {
        Some(size) if size.chars().all(|c| matches!(c, '0' | '.')) => size.to_owned(),
        _ => text,
    }
}

impl Figures {
    /// A caption of a chart in these figures.
    pub fn caption(id: String, title: &str, description: String) -> Caption {
        Caption { id, title: title.to_owned(), description }
    }
}

/// An identifier made of words.
pub fn id(words: &[&str]) -> String {
    let part = |word: &&str| word.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect::<String>();
    words.iter().map(part).collect::<Vec<_>>().join("-").to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Missing;

    #[test]
    fn a_metric_without_a_value_is_empty_and_says_why() {
        let cell = Cell::metric(&Metric::missing(0, Missing::NothingScored), 100.0, 1);
        assert_eq!((cell.text.as_str(), cell.detail.as_str()), ("", "nothing was scored"));
        let cell = Cell::metric(&Metric::new(0.5, 0.1, [0.25, 0.75], 4), 100.0, 1);
        assert_eq!((cell.text.as_str(), cell.detail.as_str()), ("50.0", "25.0 to 75.0"));
    }

    #[test]
    fn zero_has_no_sign() {
        assert_eq!([-0.04, 0.04, -0.06, -10.0].map(|value| fixed(value, 1)), ["0.0", "0.0", "-0.1", "-10.0"]);
    }
}
