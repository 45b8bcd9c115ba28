//! Series over steps.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::decimate::decimate;
use super::{Caption, GRID, SCALE, SOFT, Style, draw, number, padded, text};

/// The points of one series, at most: two a CSS pixel.
const POINTS: usize = 600;
/// A longer series is drawn twice: faintly as it was logged, and smoothed.
const LONG: usize = 100;

/// One series.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its points in the order of x; those that are not finite are left out.
    pub points: Vec<(f64, f64)>,
    /// How it looks.
    pub style: Style,
    /// Whether every point is marked: for the few points of evaluations.
    pub marked: bool,
}

/// Several series over the same axis.
#[derive(Debug, Clone)]
pub struct Chart {
    /// What it is.
    pub caption: Caption,
    /// What x counts.
    pub x_label: String,
    /// The unit of y, where it has one.
    pub y_label: String,
    /// The series.
    pub lines: Vec<Line>,
    /// The ends of the axes, where several charts share them.
    pub ranges: Option<Ranges>,
}

/// The ends of both axes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Ranges {
    x: [f64; 2],
    y: [f64; 2],
}

impl Ranges {
    /// Around all points of these series.
    pub fn around<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> Self {
        let points = || lines.clone().flat_map(|line| &line.points);
        let [left, right] = padded(points().map(|point| point.0));
        Self { x: [left.max(0.0), right], y: padded(points().map(|point| point.1)) }
    }
}

/// The chart as an SVG element.
pub fn svg(chart: &Chart) -> String {
    let Ranges { x, y } = chart.ranges.unwrap_or_else(|| Ranges::around(chart.lines.iter()));
    draw([420, 230], &chart.caption, |area| {
        let mut mesh = ChartBuilder::on(area)
            .margin(8 * SCALE)
            .x_label_area_size(34 * SCALE)
            .y_label_area_size(if chart.y_label.is_empty() { 50 } else { 66 } * SCALE)
            .build_cartesian_2d(x[0]..x[1], y[0]..y[1])?;
        mesh.configure_mesh()
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .x_desc(&chart.x_label)
            .y_desc(&chart.y_label)
            .axis_desc_style(text(12, SOFT, HPos::Center, VPos::Top))
            .label_style(text(12, SOFT, HPos::Center, VPos::Center))
            .axis_style(GRID.stroke_width(2))
            .bold_line_style(GRID.stroke_width(2))
            .light_line_style(TRANSPARENT)
            .set_all_tick_mark_size(4 * SCALE)
            .draw()?;
        for line in &chart.lines {
            let finite: Vec<_> = line.points.iter().copied().filter(|point| point.1.is_finite()).collect();
            let logged = decimate(&finite, POINTS);
            let solid = line.style.solid().key();
            let is_noisy = !line.marked && finite.len() > LONG;
            if is_noisy {
                mesh.draw_series(LineSeries::new(logged.iter().copied(), solid.mix(0.3).stroke_width(2)))?;
            }
            let points = if is_noisy { decimate(&smoothed(&finite), POINTS) } else { logged };
            let width = if line.marked { 2 } else { 4 };
            mesh.draw_series(LineSeries::new(points.iter().copied(), line.style.key().stroke_width(width)))?;
            if line.marked || points.len() == 1 {
                mesh.draw_series(points.iter().map(|&point| Circle::new(point, 6, solid.filled())))?;
            }
        }
        Ok(())
    })
}

/// The mean of the points around each one, a fiftieth of the series together; fewer at the ends.
fn smoothed(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let half = (points.len() / 100).max(1);
    let mut sums = vec![0.0];
    for point in points {
        sums.push(sums[sums.len() - 1] + point.1);
    }
    let mean = |(index, point): (usize, &(f64, f64))| {
        // As many on either side, so that a slope stays what it is.
        let half = half.min(index).min(points.len() - 1 - index);
        (point.0, (sums[index + half + 1] - sums[index - half]) / (2 * half + 1) as f64)
    };
    points.iter().enumerate().map(mean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> String {
        let caption = Caption { id: "loss".into(), title: "Loss".into(), description: "By step".into() };
        svg(&Chart { caption, x_label: "step".into(), y_label: "nats".into(), lines, ranges: None })
    }

    fn line(points: Vec<(f64, f64)>, series: usize, marked: bool) -> Line {
        Line { points, style: Style::of(series), marked }
    }

    #[test]
    fn a_line_for_a_series_and_a_mark_for_an_evaluation() {
        let train = (1..=1000).map(|step| (f64::from(step), 1.0 / f64::from(step))).collect();
        let svg = chart(vec![line(train, 0, false), line(vec![(500.0, 0.5), (1000.0, 0.4)], 1, true)]);
        let lines: Vec<&str> = svg.split("<polyline").skip(1).filter(|line| line.contains("series-")).collect();
        assert_eq!(lines.len(), 3, "what was logged, the same smoothed, and the evaluations");
        assert!(lines[0].contains("opacity=\"0.3\"") && lines[0].contains("var(--series-0)\""), "{}", lines[0]);
        assert!(!lines[1].contains("opacity") && !lines[1].contains("dasharray"), "{}", lines[1]);
        assert!(lines[2].contains("var(--series-1)\" stroke-dasharray=\"14 7\""), "{}", lines[2]);
        assert_eq!(svg.matches("<circle").count(), 2);
        let points = lines[0].split("points=\"").nth(1).unwrap().split('"').next().unwrap().split_whitespace().count();
        assert!((400..=POINTS).contains(&points), "{points}");
        assert!(svg.contains(">\nstep\n<") && svg.contains(">\nnats\n<") && svg.contains(">\n600\n<"), "{svg}");
    }

    #[test]
    fn smoothing_leaves_slopes_and_takes_out_noise() {
        let slope: Vec<_> = (0..300).map(|step| (f64::from(step), f64::from(step))).collect();
        assert!(smoothed(&slope).iter().all(|(x, y)| (x - y).abs() < 1e-9));
        let noise: Vec<_> = (0..300).map(|step| (f64::from(step), f64::from(step % 2))).collect();
        assert!(smoothed(&noise)[10..290].iter().all(|(_, y)| (y - 0.5).abs() < 0.1));
    }

    #[test]
    fn what_cannot_be_drawn_is_left_out() {
        let svg = chart(vec![line(vec![(1.0, f64::NAN), (2.0, 1.0)], 0, false), line(vec![], 1, false)]);
        assert_eq!(svg.matches("<circle").count(), 1, "a single point is a mark");
        assert!(!svg.contains("NaN"), "{svg}");
    }

    #[test]
    fn shared_ranges_hold_all_lines() {
        let lines = [line(vec![(1.0, -3.0)], 0, false), line(vec![(9.0, 2.0)], 0, false)];
        let Ranges { x, y } = Ranges::around(lines.iter());
        assert!(x[0] >= 0.0 && x[0] < 1.0 && x[1] > 9.0 && y[0] < -3.0 && y[1] > 2.0);
    }
}
