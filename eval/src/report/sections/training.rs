//! What training did: the paper's figure of log-probabilities, and every other metric by run.

use crate::report::charts::lines::{self, Line, Ranges};
use crate::report::charts::{Style, number};
use crate::report::collect::Collected;
use crate::report::training::{Run, Series};
use crate::report::view::{Block, Cell, Figure, Figures, Legend, Row, Section, Table, id};

use super::{at_most, style};

/// What is drawn, under TRL's names, with its title and its unit.
const METRICS: [(&str, &str, &str); 9] = [
    ("loss", "Loss", ""),
    ("nll_loss", "Negative log-likelihood", "nats per token"),
    ("log_odds_chosen", "Log odds of chosen against rejected", "nats"),
    ("log_odds_ratio", "Log sigmoid of the log odds", "nats"),
    (MARGIN, "Reward margin", "nats"),
    ("rewards/accuracies", "Accuracy: chosen more probable than rejected", "share of pairs"),
    ("learning_rate", "Learning rate", ""),
    ("grad_norm", "Gradient norm", ""),
    ("tokens_per_sec", "Tokens per second", "tokens per second"),
];
const MARGIN: &str = "rewards/margins";
const CHOSEN: &str = "logps/chosen";
const REJECTED: &str = "logps/rejected";

type Named = (String, Run);

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    if collected.runs.is_empty() {
        return None;
    }
    let (runs, remark) = at_most(&collected.runs, "runs");
    let blocks = [log_probabilities(runs), metrics(collected, runs, &remark), last(&collected.runs)];
    Some(Section { id: "training", title: "Training", blocks: blocks.into_iter().flatten().collect() })
}

/// Chosen and rejected log-probabilities, a chart for each run, on the same axes.
fn log_probabilities(runs: &[Named]) -> Option<Block> {
    let [chosen, rejected] = [Style::of(0), Style::of(1)];
    let of_a_run = |(name, run): &Named| {
        let lines: Vec<Line> = [(CHOSEN, chosen), (REJECTED, rejected)]
            .into_iter()
            .flat_map(|(metric, style)| lines_of(run, metric, style))
            .collect();
        (!lines.is_empty()).then(|| (name.clone(), lines))
    };
    let panels: Vec<(String, Vec<Line>)> = runs.iter().filter_map(of_a_run).collect();
    if panels.is_empty() {
        return None;
    }
    let ranges = Ranges::around(panels.iter().flat_map(|(_, lines)| lines));
    let chart = |(index, (name, lines)): (usize, (String, Vec<Line>))| {
        let last =
            |line: Option<&Line>| line.and_then(|l| l.points.last()).map_or("none".into(), |point| number(point.1));
        let ends = |style| last(lines.iter().rfind(|line| line.style == style));
        let description = format!(
            "Mean log-probability per token by step for {name}: chosen answers end at {}, rejected ones at {}.",
            ends(chosen),
            ends(rejected)
        );
        let caption =
            Figures::caption(id(&["logps", &index.to_string()]), &format!("Log-probabilities, {name}"), description);
        let y_label = "nats per token".into();
        let chart = lines::Chart { caption, x_label: "step".into(), y_label, lines, ranges: Some(ranges) };
        Figure { title: name, svg: lines::svg(&chart) }
    };
    let charts = panels.into_iter().enumerate().map(chart).collect();
    let note = "Mean log-probability per token, on the same axes. Plain fine-tuning (SFT) raises that of the rejected answers \
                together with that of the chosen ones; ORPO separates them. Faint lines are as logged, strong ones moving means; dots are \
                evaluations on validation pairs.";
    Some(Block::Figures(Figures {
        title: "Chosen and rejected answers".into(),
        note: note.into(),
        legend: vec![Legend::line(chosen, "chosen"), Legend::line(rejected, "rejected")],
        charts,
        in_columns: false,
    }))
}

/// A chart for each metric, with a line for each run.
fn metrics(collected: &Collected, runs: &[Named], remark: &str) -> Option<Block> {
    let of_a_metric = |(metric, title, unit): &(&str, &str, &str)| {
        let lines: Vec<Line> =
            runs.iter().flat_map(|(name, run)| lines_of(run, metric, style(collected, name))).collect();
        if lines.is_empty() {
            return None;
        }
        let has_line = |(_, run): &&Named| !lines_of(run, metric, Style::of(0)).is_empty();
        let names: Vec<&str> = runs.iter().filter(has_line).map(|(name, _)| name.as_str()).collect();
        let description = format!("{title} by step for {}.", names.join(", "));
        let caption = Figures::caption(id(&["training", metric]), title, description);
        let chart = lines::Chart { caption, x_label: "step".into(), y_label: (*unit).to_owned(), lines, ranges: None };
        Some(Figure { title: (*title).to_owned(), svg: lines::svg(&chart) })
    };
    let charts: Vec<Figure> = METRICS.iter().filter_map(of_a_metric).collect();
    if charts.is_empty() {
        return None;
    }
    Some(Block::Figures(Figures {
        title: "Metrics by step".into(),
        note: format!(
            "Lines are training: faint as logged (thinned where there are many steps, with all extremes), strong as a moving mean \
             over a fiftieth of the run. Dots are evaluations.{remark}"
        ),
        legend: runs.iter().map(|(name, _)| Legend::line(style(collected, name), name)).collect(),
        charts,
        in_columns: false,
    }))
}

/// A run's lines for a metric: of training, and of evaluations. A margin that is 0 throughout is that of a loss without
/// rewards (beta 0), and says nothing.
fn lines_of(run: &Run, metric: &str, style: Style) -> Vec<Line> {
    let says_something = |points: &&Series| metric != MARGIN || points.iter().any(|point| point.1.abs() > 0.0);
    let line = |series: Option<&Series>, marked| {
        series.filter(says_something).map(|points| Line { points: points.clone(), style, marked })
    };
    [line(run.train.get(metric), false), line(run.eval.get(metric), true)].into_iter().flatten().collect()
}

/// Where every run ended.
fn last(runs: &[Named]) -> Option<Block> {
    const LAST: [(&str, &str); 6] = [
        ("loss", "loss"),
        ("nll_loss", "nll"),
        ("log_odds_chosen", "log odds"),
        ("rewards/accuracies", "accuracy"),
        (CHOSEN, "log-probability, chosen"),
        (REJECTED, "log-probability, rejected"),
    ];
    let row = |(name, run): &Named| {
        let end = |series: Option<&Series>| series.and_then(|points| points.last().copied());
        let step = run.train.values().chain(run.eval.values()).filter_map(|points| end(Some(points))).map(|p| p.0);
        let cell = |(metric, _): &(&str, &str)| {
            let [train, eval] =
                [end(run.train.get(*metric)), end(run.eval.get(*metric))].map(|p| p.map(|p| number(p.1)));
            let detail = eval.map(|eval| format!("validation {eval}")).unwrap_or_default();
            Cell { text: train.unwrap_or_default(), detail, is_text: false }
        };
        let mut cells = vec![Cell::number(number(step.fold(0.0, f64::max)))];
        cells.extend(LAST.iter().map(cell));
        Row { head: name.clone(), cells }
    };
    let header: Vec<&str> = ["Run", "steps"].into_iter().chain(LAST.iter().map(|(_, name)| *name)).collect();
    let caption = "Last logged values of training, and of the last evaluation below them.";
    Some(Block::Table(Table::new(caption, &header, runs.iter().map(row).collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_without_rewards_is_no_chart() {
        let run = |margins: [f64; 2]| Run {
            train: [(MARGIN.to_owned(), vec![(1.0, margins[0]), (2.0, margins[1])])].into(),
            ..Run::default()
        };
        let shown = |runs: Vec<Named>| {
            let collected = Collected { runs, ..Collected::default() };
            match metrics(&collected, &collected.runs, "") {
                Some(Block::Figures(figures)) => figures.charts[0].svg.clone(),
                _ => String::new(),
            }
        };
        assert_eq!(shown(vec![("sft".into(), run([0.0, 0.0]))]), "");
        let both = shown(vec![("sft".into(), run([0.0, 0.0])), ("orpo".into(), run([0.0, 0.5]))]);
        assert!(both.contains("Reward margin by step for orpo."), "{both}");
    }
}
