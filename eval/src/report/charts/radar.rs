//! Scores by category around a circle.

use std::f64::consts::TAU;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Caption, GRID, INK, SCALE, SOFT, Style, draw, number, shorten, text};

/// One thing's scores.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// How it looks.
    pub style: Style,
    /// Its score on each axis, from 0 to the chart's `most`; `None` where it has none.
    pub values: Vec<Option<f64>>,
}

/// Shapes over the same axes.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it is.
    pub caption: Caption,
    /// The axes from the top, clockwise; three at least.
    pub axes: Vec<String>,
    /// The end of every axis; 0 is in the middle.
    pub most: f64,
    /// What is drawn.
    pub shapes: Vec<Shape>,
}

const WIDTH: i32 = 420;
const HEIGHT: i32 = 330;
const RADIUS: f64 = 125.0;
const RINGS: i32 = 5;

/// The chart as an SVG element.
pub fn svg(chart: &Chart) -> String {
    let angle = |axis: usize| TAU * axis as f64 / chart.axes.len() as f64;
    let point = |axis: usize, radius: f64| {
        let scale = f64::from(SCALE);
        let (sin, cos) = angle(axis).sin_cos();
        let x = f64::from(WIDTH) / 2.0 + radius * sin;
        let y = f64::from(HEIGHT) / 2.0 - radius * cos;
        ((x * scale).round() as i32, (y * scale).round() as i32)
    };
    let axes = chart.axes.len();
    draw([WIDTH, HEIGHT], &chart.caption, |area| {
        for ring in 1..=RINGS {
            let radius = RADIUS * f64::from(ring) / f64::from(RINGS);
            area.draw(&PathElement::new((0..=axes).map(|axis| point(axis % axes, radius)).collect::<Vec<_>>(), GRID))?;
        }
        for (axis, label) in chart.axes.iter().enumerate() {
            area.draw(&PathElement::new([point(axis, 0.0), point(axis, RADIUS)], GRID))?;
            let side = match angle(axis).sin() {
                sine if sine > 0.1 => HPos::Left,
                sine if sine < -0.1 => HPos::Right,
                _ => HPos::Center,
            };
            let style = text(12, INK, side, VPos::Center);
            area.draw(&Text::new(shorten(label, 14), point(axis, RADIUS + 12.0), style))?;
        }
        for shape in &chart.shapes {
            let radius = |value: f64| RADIUS * (value / chart.most).clamp(0.0, 1.0);
            let corners: Vec<_> = shape
                .values
                .iter()
                .enumerate()
                .filter_map(|(axis, value)| Some(point(axis, radius((*value)?))))
                .collect();
            if corners.len() > 2 {
                area.draw(&Polygon::new(corners.clone(), shape.style.solid().key().mix(0.08).filled()))?;
                let closed: Vec<_> = corners.iter().chain(corners.first()).copied().collect();
                area.draw(&PathElement::new(closed, shape.style.key().stroke_width(2 * SCALE as u32)))?;
            }
            for corner in corners {
                area.draw(&Circle::new(corner, 6, shape.style.solid().key().filled()))?;
            }
        }
        for ring in 1..=RINGS {
            let share = f64::from(ring) / f64::from(RINGS);
            let (x, y) = point(0, RADIUS * share);
            let style = text(10, SOFT, HPos::Left, VPos::Center);
            area.draw(&Text::new(number(chart.most * share), (x + 3 * SCALE, y + 7 * SCALE), style))?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_distances_from_the_middle() {
        let caption = Caption { id: "r".into(), title: "t".into(), description: "d".into() };
        let axes = ["up", "right", "down", "left"].map(String::from).to_vec();
        let values = vec![Some(10.0), Some(5.0), None, Some(0.0)];
        let shapes = vec![Shape { style: Style::of(2), values }];
        let svg = svg(&Chart { caption, axes, most: 10.0, shapes });
        let (x, y) = (WIDTH, HEIGHT);
        let radius = (RADIUS * f64::from(SCALE)) as i32;
        let closed = format!("points=\"{x},{} {},{y} {x},{y} {x},{} \"", y - radius, x + radius / 2, y - radius);
        assert!(svg.contains(&closed), "{closed} in {svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "what has no score has no mark");
        assert!(svg.contains(">\nright\n<") && svg.contains(">\n10\n<"), "{svg}");
    }
}
