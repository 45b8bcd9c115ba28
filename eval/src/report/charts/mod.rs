//! Charts as SVG text, one kind a file, drawn by `plotters`.
//!
//! A chart has no colours of its own: it is drawn with keys, which [`finish`] turns into the page's CSS variables, so that
//! the same chart is right on light and dark paper. Where a series is a line it has a pattern of dashes, too, for people
//! and printers without colour.

pub mod bars;
mod decimate;
pub mod lines;
pub mod radar;

use std::fmt::Write as _;
use std::sync::LazyLock;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use regex::{Captures, Regex};

/// How many series can be told apart; `report.css` has a colour for each.
pub const SERIES: usize = 8;

/// Patterns of dashes in units of the drawing, by series; the first is solid.
const DASHES: [&str; 4] = ["", "14 7", "4 6", "16 6 4 6"];

/// Units of the drawing in one CSS pixel: plotters knows whole units only, and half a pixel can be seen.
const SCALE: i32 = 2;

/// How one series looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// The colour's number.
    colour: u8,
    /// The pattern's number.
    dash: u8,
}

impl Style {
    /// The look of the series with this number. Colours, and patterns, repeat.
    pub fn of(series: usize) -> Self {
        Self { colour: (series % SERIES) as u8, dash: (series % DASHES.len()) as u8 }
    }

    /// The same without dashes: for what is not a line.
    pub fn solid(self) -> Self {
        Self { dash: 0, ..self }
    }

    fn key(self) -> RGBColor {
        RGBColor(1, self.colour, self.dash)
    }

    /// A short line in this style, for legends.
    pub fn swatch(self) -> String {
        let Self { colour, dash } = self;
        let dash = DASHES[usize::from(dash)];
        let dash = if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
        format!(
            "<svg class=\"swatch\" viewBox=\"0 0 56 20\" aria-hidden=\"true\"><line x1=\"2\" y1=\"10\" x2=\"54\" y2=\"10\" \
             stroke=\"var(--series-{colour})\" stroke-width=\"6\"{dash}/></svg>"
        )
    }

    /// A filled square in this colour, for legends of bars.
    pub fn patch(self) -> String {
        format!(
            "<svg class=\"swatch\" viewBox=\"0 0 20 20\" aria-hidden=\"true\"><rect x=\"2\" y=\"2\" width=\"16\" \
             height=\"16\" fill=\"var(--series-{})\"/></svg>",
            self.colour
        )
    }
}

/// What is not a series.
const INK: RGBColor = RGBColor(2, 0, 0);
const SOFT: RGBColor = RGBColor(2, 1, 0);
const GRID: RGBColor = RGBColor(2, 2, 0);

/// What a chart is called, and what it shows, for those who do not see it.
#[derive(Debug, Clone)]
pub struct Caption {
    /// Its identifier in the page.
    pub id: String,
    /// A few words.
    pub title: String,
    /// A sentence.
    pub description: String,
}

/// Draws on an area of so many CSS pixels and returns the SVG element.
fn draw(
    [width, height]: [i32; 2],
    caption: &Caption,
    paint: impl FnOnce(&DrawingArea<SVGBackend<'_>, plotters::coord::Shift>) -> Result<(), Problem>,
) -> String {
    let mut svg = String::new();
    let size = ((width * SCALE) as u32, (height * SCALE) as u32);
    {
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        // Writing into a string does not fail, and the ranges are checked before.
        paint(&area).expect("a chart can be drawn into a string");
        area.present().expect("a string can be written to");
    }
    finish(&svg, size, caption)
}

/// Why plotters would fail.
type Problem = DrawingAreaErrorKind<std::io::Error>;

/// Gives the drawing its title, and its colours the names of the page's.
fn finish(svg: &str, (width, height): (u32, u32), Caption { id, title, description }: &Caption) -> String {
    static KEY: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r#" (stroke|fill)="\#(01|02)([0-9A-F]{2})([0-9A-F]{2})""#).expect("the pattern is valid")
    });
    let body = svg.split_once('>').map_or("", |(_, body)| body);
    let named = KEY.replace_all(body, |key: &Captures<'_>| {
        let number = |index: usize| usize::from(u8::from_str_radix(&key[index], 16).unwrap_or(0));
        let name = match &key[2] {
            "01" => format!("series-{}", number(3)),
            _ => ["ink", "soft", "grid"][number(3).min(2)].to_owned(),
        };
        let mut attributes = format!(" {}=\"var(--{name})\"", &key[1]);
        if &key[1] == "stroke" && !DASHES[number(4) % DASHES.len()].is_empty() {
            let _ = write!(attributes, " stroke-dasharray=\"{}\"", DASHES[number(4) % DASHES.len()]);
        }
        attributes
    });
    let named = named.replace(" opacity=\"1\"", "").replace("font-family=\"sans-serif\" ", "");
    format!(
        "<svg class=\"chart\" role=\"img\" aria-labelledby=\"{id}-title {id}-description\" viewBox=\"0 0 {width} {height}\">\n\
         <title id=\"{id}-title\">{}</title>\n<desc id=\"{id}-description\">{}</desc>{named}",
        escape(title),
        escape(description)
    )
}

/// Text as it may stand in an element.
pub fn escape(text: &str) -> String {
    minijinja::HtmlEscape(text).to_string()
}

/// Text of so many CSS pixels, placed by this point of it.
fn text(size: i32, colour: RGBColor, horizontal: HPos, vertical: VPos) -> TextStyle<'static> {
    // The SVG backend divides by this.
    let units = f64::from(size * SCALE) * 1.24;
    ("sans-serif", units).into_font().color(&colour).pos(Pos::new(horizontal, vertical))
}

/// At most so many characters of a label, the last of which says that more follow.
fn shorten(label: &str, most: usize) -> String {
    if label.chars().count() <= most {
        return label.to_owned();
    }
    label.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

/// A number on an axis: four digits at most, exponents only where they are shorter.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if size < 1e-12 {
        return "0".into();
    }
    if !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.1e}");
        return text.replace(".0e", "e");
    }
    let decimals = (3 - size.log10().floor() as i32).clamp(0, 6) as usize;
    let text = format!("{value:.decimals$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A range around values, with a margin; something around a single value, and around none.
fn padded(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let (low, high) =
        values.filter(|v| v.is_finite()).fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
    if low > high {
        return [0.0, 1.0];
    }
    let margin = if high > low { 0.05 * (high - low) } else { (0.1 * low.abs()).max(1e-9) };
    [low - margin, high + margin]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_become_the_names_of_colours_and_text_stays_text() {
        let caption = Caption { id: "c".into(), title: "a < b".into(), description: "\"d\"".into() };
        let svg = draw([10, 10], &caption, |area| {
            area.draw(&PathElement::new([(0, 0), (5, 5)], Style::of(1).key()))?;
            area.draw(&Circle::new((5, 5), 2, Style::of(9).solid().key().filled()))?;
            area.draw(&Text::new("<script> fill=\"#010000\"", (0, 0), text(10, SOFT, HPos::Left, VPos::Top)))
        });
        assert!(
            svg.starts_with("<svg class=\"chart\" role=\"img\" aria-labelledby=\"c-title c-description\""),
            "{svg}"
        );
        assert!(svg.contains("<title id=\"c-title\">a &lt; b</title>"), "{svg}");
        assert!(svg.contains("stroke=\"var(--series-1)\" stroke-dasharray=\"14 7\""), "{svg}");
        assert!(svg.contains("fill=\"var(--series-1)\"") && svg.contains("fill=\"var(--soft)\""), "{svg}");
        assert!(svg.contains("&lt;script&gt; fill=&quot;#010000&quot;"), "{svg}");
        assert!(!svg.contains("<script") && !svg.contains("\"#"), "{svg}");
        assert_eq!(svg.matches("</svg>").count(), 1);
    }

    #[test]
    fn numbers_are_short() {
        let values = [0.0, 0.1 + 0.2, -2.50, 1234.5, 0.00008, 300_000.0, 100.0, 0.0625, 1e-17, 20000.0];
        let texts = values.map(number);
        assert_eq!(texts, ["0", "0.3", "-2.5", "1234", "8e-5", "3e5", "100", "0.0625", "0", "20000"]);
    }

    #[test]
    fn a_range_is_never_empty() {
        assert_eq!(padded([].into_iter()), [0.0, 1.0]);
        assert_eq!(padded([f64::NAN].into_iter()), [0.0, 1.0]);
        for values in [vec![0.0], vec![3.0, 3.0], vec![-1.0, 1.0]] {
            let [low, high] = padded(values.iter().copied());
            assert!(low < high && values.iter().all(|v| (low..=high).contains(v)), "{values:?}");
        }
    }
}
