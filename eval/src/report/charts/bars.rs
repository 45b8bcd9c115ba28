//! Horizontal bars with intervals, in groups.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Caption, GRID, INK, SCALE, SOFT, Style, draw, number, shorten, text};
use crate::report::view::fixed;

/// One bar.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bar {
    /// How it looks.
    pub style: Style,
    /// Its length, from 0 to the chart's `most`.
    pub value: f64,
    /// The ends of its 95 % interval, where it has one.
    pub ci95: Option<[f64; 2]>,
}

/// The bars of one thing, one below the other.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The thing.
    pub label: String,
    /// Its bars.
    pub bars: Vec<Bar>,
}

/// Groups over one axis.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it is.
    pub caption: Caption,
    /// The groups from the top.
    pub groups: Vec<Group>,
    /// The end of the axis, which begins at 0.
    pub most: f64,
    /// A value that is worth a line: an even chance, for example.
    pub mark: Option<f64>,
    /// The decimals of the values: those of the table beside the chart.
    pub decimals: usize,
}

const WIDTH: i32 = 420;
const BAR: i32 = 12;
const BETWEEN: i32 = 9;
const AXIS: i32 = 24;
/// The widest character of a label, roughly.
const LETTER: i32 = 8;
const LABEL: usize = 28;

/// The chart as an SVG element.
pub fn svg(chart: &Chart) -> String {
    let labels: Vec<String> = chart.groups.iter().map(|group| shorten(&group.label, LABEL)).collect();
    let longest = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
    let left = (LETTER * longest as i32 + 12).clamp(40, 204);
    let right = WIDTH - 40;
    let heights: Vec<i32> = chart.groups.iter().map(|group| BAR * group.bars.len().max(1) as i32 + BETWEEN).collect();
    let bottom = heights.iter().sum::<i32>() + 4;
    draw([WIDTH, bottom + AXIS], &chart.caption, |area| {
        let x = |value: f64| {
            let share = (value / chart.most).clamp(0.0, 1.0);
            (f64::from(left * SCALE) + share * f64::from((right - left) * SCALE)).round() as i32
        };
        let at = |x: i32, y: i32| (x * SCALE, y * SCALE);
        for tick in 0..=4 {
            let value = chart.most * f64::from(tick) / 4.0;
            area.draw(&PathElement::new([(x(value), 0), (x(value), bottom * SCALE)], GRID.stroke_width(2)))?;
            let style = text(12, SOFT, HPos::Center, VPos::Top);
            area.draw(&Text::new(number(value), (x(value), (bottom + 5) * SCALE), style))?;
        }
        if let Some(mark) = chart.mark {
            area.draw(&PathElement::new([(x(mark), 0), (x(mark), bottom * SCALE)], SOFT.stroke_width(3)))?;
        }
        let mut top = BETWEEN / 2;
        for ((group, label), height) in chart.groups.iter().zip(labels).zip(&heights) {
            let middle = top + (height - BETWEEN) / 2;
            area.draw(&Text::new(label, at(left - 6, middle), text(12, INK, HPos::Right, VPos::Center)))?;
            for (index, bar) in group.bars.iter().enumerate() {
                let y = top + BAR * index as i32;
                let key = bar.style.solid().key();
                let corners = [(x(0.0), y * SCALE + 1), (x(bar.value), (y + BAR) * SCALE - 3)];
                area.draw(&Rectangle::new(corners, key.mix(0.8).filled()))?;
                let line = y * SCALE + (BAR * SCALE) / 2 - 1;
                let [low, high] = bar.ci95.unwrap_or([bar.value; 2]).map(x);
                let whiskers = [
                    [(low, line), (high, line)],
                    [(low, line - 5), (low, line + 5)],
                    [(high, line - 5), (high, line + 5)],
                ];
                for path in whiskers.into_iter().filter(|_| bar.ci95.is_some()) {
                    area.draw(&PathElement::new(path, INK.stroke_width(2)))?;
                }
                let label = (high.max(x(bar.value)) + 5 * SCALE, line);
                let style = text(10, SOFT, HPos::Left, VPos::Center);
                area.draw(&Text::new(fixed(bar.value, chart.decimals), label, style))?;
            }
            top += height;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::view::Cell;

    fn bar(series: usize, value: f64, ci95: [f64; 2]) -> Bar {
        Bar { style: Style::of(series), value, ci95: Some(ci95) }
    }

    #[test]
    fn a_bar_is_as_long_as_its_value() {
        let groups = vec![
            Group { label: "a".into(), bars: vec![bar(0, 100.0, [90.0, 100.0]), bar(1, 50.0, [40.0, 60.0])] },
            Group { label: "<b>".into(), bars: vec![bar(0, 0.0, [0.0, 10.0])] },
        ];
        let caption = Caption { id: "b".into(), title: "t".into(), description: "d".into() };
        let svg = svg(&Chart { caption, groups, most: 100.0, mark: Some(50.0), decimals: 1 });
        let width = |rectangle: &str| -> i32 {
            rectangle.split("width=\"").nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
        };
        let widths: Vec<i32> = svg.split("<rect").skip(1).map(width).collect();
        let full = (WIDTH - 40 - 40) * SCALE;
        assert_eq!(widths, [full, full / 2, 0]);
        assert!(svg.contains("&lt;b&gt;") && svg.contains(">\n50\n<"), "{svg}");
        assert!(svg.contains("<rect") && svg.contains("var(--series-1)"), "{svg}");
    }

    #[test]
    fn a_value_is_the_one_of_the_table() {
        let caption = Caption { id: "b".into(), title: "t".into(), description: "d".into() };
        let groups = vec![Group { label: "a".into(), bars: vec![bar(0, 91.25, [80.0, 95.0])] }];
        let svg = svg(&Chart { caption, groups, most: 100.0, mark: None, decimals: 1 });
        let cell = Cell::interval(0.9125, [0.8, 0.95], 100.0, 1).text;
        assert!(svg.contains(&format!(">\n{cell}\n<")), "{cell} in {svg}");
    }

    #[test]
    fn a_long_label_is_cut() {
        let caption = Caption { id: "b".into(), title: "t".into(), description: "d".into() };
        let groups = vec![Group { label: "x".repeat(60), bars: vec![bar(0, 1.0, [0.5, 1.5])] }];
        let svg = svg(&Chart { caption, groups, most: 2.0, mark: None, decimals: 1 });
        assert!(svg.contains(&format!("{}…", "x".repeat(LABEL - 1))), "{svg}");
    }
}
