//! The sections of the page, each a function from what was collected; one without data is `None`.

pub mod headline;
pub mod ifeval;
pub mod lineage;
pub mod mt_bench;
pub mod published;
pub mod summary;
pub mod training;
pub mod win_rates;

use super::charts::{SERIES, Style};
use super::collect::Collected;
use super::evaluation::Task;
use super::view::Section;

/// Those with data, in the order of the page. The samples and the lineage follow.
pub fn all(collected: &Collected) -> Vec<Section> {
    let sections = [
        summary::section(collected),
        training::section(collected),
        ifeval::section(collected),
        win_rates::section(collected),
        mt_bench::section(collected),
        published::section(collected),
    ];
    sections.into_iter().flatten().collect()
}

/// The look of a model; a training run looks like the model of its name.
fn style(collected: &Collected, name: &str) -> Style {
    let runs = collected.runs.iter().map(|(name, _)| name).filter(|name| !collected.names.contains(name));
    let mut names = collected.names.iter().chain(runs);
    Style::of(names.position(|other| other == name).unwrap_or(0))
}

/// What a chart shows of many things, and a remark on the rest.
fn at_most<'a, T>(things: &'a [T], what: &str) -> (&'a [T], String) {
    if things.len() <= SERIES {
        return (things, String::new());
    }
    let remark = format!(" The charts show the first {SERIES} of {} {what}; the tables have all.", things.len());
    (&things[..SERIES], remark)
}

/// The evaluations of one task that `pick` knows, with the name of their (first) model.
fn of_task<'a, T: 'a>(collected: &'a Collected, pick: impl Fn(&'a Task) -> Option<T>) -> Vec<(&'a str, T)> {
    let subjects = collected.evaluations.iter();
    subjects.filter_map(|subject| Some((subject.name(), pick(&subject.evaluation.task)?))).collect()
}
