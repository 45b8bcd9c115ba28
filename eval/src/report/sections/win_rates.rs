//! Who is preferred: AlpacaEval against its baseline, and comparisons of two models.

use crate::judge::way::Measure;
use crate::report::charts::Style;
use crate::report::charts::bars::{self, Bar, Group};
use crate::report::collect::{Collected, Subject};
use crate::report::evaluation::{Alpaca, Compare, Task};
use crate::report::view::{Block, Cell, Figure, Figures, Legend, Row, Section, Table, fixed};

use super::{at_most, style};

/// The measures, and the colours that tell them apart.
const RAW: usize = 0;
const ADJUSTED: usize = 2;
const CONTROLLED: usize = 1;

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    let subjects = || collected.evaluations.iter();
    let alpaca: Vec<(&Subject, &Alpaca)> = subjects()
        .filter_map(|subject| match &subject.evaluation.task {
            Task::Alpaca(found) => Some((subject, found)),
            _ => None,
        })
        .collect();
    let compare: Vec<(&Subject, &Compare)> = subjects()
        .filter_map(|subject| match &subject.evaluation.task {
            Task::Compare(found) => Some((subject, &**found)),
            _ => None,
        })
        .collect();
    let mut blocks = Vec::new();
    if !alpaca.is_empty() {
        blocks.push(Block::Figures(alpaca_charts(collected, &alpaca)));
        blocks.push(Block::Table(alpaca_table(&alpaca)));
        let missing = |(subject, found): &(&Subject, &Alpaca)| {
            let reason = found.lc_missing.as_ref()?;
            Some(format!("{}: no length-controlled win rate: {reason}", subject.name()))
        };
        let items: Vec<String> = alpaca.iter().filter_map(missing).collect();
        if !items.is_empty() {
            blocks.push(Block::Notes { items });
        }
    }
    if !compare.is_empty() {
        blocks.push(Block::Figures(compare_chart(&compare)));
        blocks.push(Block::Table(compare_table(&compare)));
    }
    let of_alpaca = alpaca.iter().map(|(subject, _)| (subject.name().to_owned(), *subject));
    let of_compare = compare.iter().map(|(subject, _)| (sides(subject), *subject));
    let bias = |(name, subject): (String, &Subject)| Some(format!("{name}: {}", subject.evaluation.bias()?));
    let items: Vec<String> = of_alpaca.chain(of_compare).filter_map(bias).collect();
    if !items.is_empty() {
        blocks.push(Block::Notes { items });
    }
    (!blocks.is_empty()).then_some(Section { id: "win-rates", title: "Win rates", blocks })
}

/// The bars of one evaluation, of those measures that it has, in percent.
fn group(subject: &Subject, label: String, measures: &[(&str, usize, f64)]) -> Group {
    let bar = |(name, series, factor): &(&str, usize, f64)| {
        let metric = subject.evaluation.metric(name)?;
        let ci95 = metric.ci95.map(|ends| ends.map(|end| factor * end));
        Some(Bar { style: Style::of(*series), value: factor * metric.value?, ci95 })
    };
    Group { label, bars: measures.iter().filter_map(bar).collect() }
}

fn alpaca_charts(collected: &Collected, evaluations: &[(&Subject, &Alpaca)]) -> Figures {
    let (drawn, remark) = at_most(evaluations, "models");
    let measures = [("win_rate", RAW, 1.0), ("length_controlled_winrate", CONTROLLED, 1.0)];
    let groups = drawn.iter().map(|(subject, _)| group(subject, subject.name().to_owned(), &measures)).collect();
    let description = "Win rates against the baseline in percent; the numbers are in the table.".to_owned();
    let caption = Figures::caption("win-rates-alpaca".into(), "AlpacaEval win rates", description);
    let rates = bars::Chart { caption, groups, most: 100.0, mark: Some(50.0), decimals: 1 };
    let mut charts = vec![Figure { title: "Win rate, %".into(), svg: bars::svg(&rates) }];

    let most = drawn.iter().filter_map(|(_, found)| found.avg_length).fold(0.0, f64::max);
    if most > 0.0 {
        let length = |(subject, found): &(&Subject, &Alpaca)| {
            let bar = |value| Bar { style: style(collected, subject.name()).solid(), value, ci95: None };
            Group { label: subject.name().to_owned(), bars: found.avg_length.map(bar).into_iter().collect() }
        };
        let description = "Mean length of the answers in characters; the numbers are in the table.".to_owned();
        let caption = Figures::caption("win-rates-lengths".into(), "Lengths of the answers", description);
        let groups = drawn.iter().map(length).collect();
        let lengths = bars::Chart { caption, groups, most: round_up(most), mark: None, decimals: 0 };
        charts.push(Figure { title: "Mean length, characters".into(), svg: bars::svg(&lengths) });
    }
    Figures {
        title: "AlpacaEval, against its baseline".into(),
        note: format!(
            "With 95 % intervals; the line is at an even chance. Judges like long answers: the length-controlled win \
                       rate is what is left without that.{remark}"
        ),
        legend: vec![
            Legend::patch(Style::of(RAW), "win rate"),
            Legend::patch(Style::of(CONTROLLED), "length-controlled"),
        ],
        charts,
        in_columns: false,
    }
}

/// An end for an axis of four parts: the least one whose parts are round.
fn round_up(value: f64) -> f64 {
    const ROUND: [f64; 9] = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0];
    let part = value / 4.0;
    let unit = 10f64.powf(part.log10().floor());
    let round = ROUND.iter().find(|&&round| round * unit >= part).copied().unwrap_or(10.0);
    4.0 * round * unit
}

fn alpaca_table(evaluations: &[(&Subject, &Alpaca)]) -> Table {
    let header = [
        "Model",
        "win rate, %",
        "discrete, %",
        "length-controlled, %",
        "wins",
        "losses",
        "draws",
        "unscored",
        "mean length",
        "judge",
    ];
    let row = |(subject, found): &(&Subject, &Alpaca)| {
        let evaluation = &subject.evaluation;
        let rate = |name| evaluation.metric(name).map_or_else(Cell::default, |metric| Cell::metric(&metric, 1.0, 2));
        let mut cells = ["win_rate", "discrete_win_rate", "length_controlled_winrate"].map(rate).to_vec();
        let counts = &found.counts;
        let numbers = [counts.n_wins, counts.n_wins_base, counts.n_draws, evaluation.common.counts.unscored];
        cells.extend(numbers.map(|number| Cell::number(number.to_string())));
        cells.push(found.avg_length.map_or_else(Cell::default, |length| Cell::number(fixed(length, 0))));
        let annotator = evaluation.judge("annotator").unwrap_or("unknown");
        let measure = evaluation.judge("measure").filter(|measure| *measure != Measure::Weighted.to_string());
        cells.push(match measure {
            Some(measure) => Cell::words(format!("{annotator} ({measure})")),
            None => Cell::words(annotator),
        });
        Row { head: subject.name().to_owned(), cells }
    };
    Table::new("AlpacaEval; the smaller numbers are 95 % intervals.", &header, evaluations.iter().map(row).collect())
}

fn sides(subject: &Subject) -> String {
    let names: Vec<&str> = subject.models.iter().map(|(_, name)| name.as_str()).collect();
    names.join(" vs ")
}

fn compare_chart(evaluations: &[(&Subject, &Compare)]) -> Figures {
    let (drawn, remark) = at_most(evaluations, "comparisons");
    let measures = [
        ("win_rate", RAW, 100.0),
        ("length_controlled_win_rate", CONTROLLED, 100.0),
        ("win_rate_adjusted", ADJUSTED, 100.0),
    ];
    let groups = drawn.iter().map(|(subject, _)| group(subject, sides(subject), &measures)).collect();
    let description = "Win rates of the first model in percent; the numbers are in the table.".to_owned();
    let caption = Figures::caption("win-rates-compare".into(), "Comparisons of two models", description);
    let chart = bars::Chart { caption, groups, most: 100.0, mark: Some(50.0), decimals: 1 };
    let legend = [(RAW, "win rate"), (CONTROLLED, "length-controlled"), (ADJUSTED, "inconsistent pairs as ties")];
    Figures {
        title: "Comparisons of two models".into(),
        note: format!("The win rate of the first model, ties as a half, with bootstrap 95 % intervals.{remark}"),
        legend: legend.iter().map(|&(series, label)| Legend::patch(Style::of(series), label)).collect(),
        charts: vec![Figure { title: "Win rate of the first model, %".into(), svg: bars::svg(&chart) }],
        in_columns: false,
    }
}

fn compare_table(evaluations: &[(&Subject, &Compare)]) -> Table {
    let header = [
        "Comparison",
        "win rate, %",
        "adjusted, %",
        "length-controlled, %",
        "wins",
        "losses",
        "ties",
        "undecided",
        "sign test p",
        "mean lengths",
        "judge",
    ];
    let row = |(subject, found): &(&Subject, &Compare)| {
        let evaluation = &subject.evaluation;
        let rate = |name| evaluation.metric(name).map_or_else(Cell::default, |metric| Cell::metric(&metric, 100.0, 1));
        let mut cells = ["win_rate", "win_rate_adjusted", "length_controlled_win_rate"].map(rate).to_vec();
        let numbers = [found.n_wins, found.n_losses, found.n_ties, evaluation.common.counts.unscored];
        cells.extend(numbers.map(|number| Cell::number(number.to_string())));
        let p = |p: f64| Cell::number(if p < 1e-4 { "< 0.0001".into() } else { fixed(p, 4) });
        cells.push(found.sign_test_p.map_or_else(Cell::default, p));
        let lengths = |lengths: [f64; 2]| Cell::number(lengths.map(|length| fixed(length, 0)).join(" / "));
        cells.push(found.avg_length.map_or_else(Cell::default, lengths));
        let is_checklist = evaluation.common.judge.as_ref().is_some_and(|judge| judge.get("checklist").is_some());
        let judge = evaluation.judge("model").unwrap_or(if is_checklist { "checklist" } else { "unknown" });
        cells.push(Cell::words(judge));
        Row { head: sides(subject), cells }
    };
    let caption = "Comparisons, from the first model's side; the smaller numbers are 95 % intervals.";
    Table::new(caption, &header, evaluations.iter().map(row).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_above_its_values() {
        assert_eq!([4.0, 1100.0, 2049.0, 98.0].map(round_up), [4.0, 1200.0, 3000.0, 100.0]);
    }
}
