//! Which instructions are followed.

use std::collections::{BTreeMap, BTreeSet};

use crate::report::charts::bars::{self, Bar, Group};
use crate::report::collect::Collected;
use crate::report::evaluation::{Ifeval, Task};
use crate::report::view::{Block, Cell, Figure, Figures, Legend, Row, Section, Table, id};
use crate::results::InstructionCounts;

use super::{at_most, of_task, style};

type Models<'a> = [(&'a str, &'a Ifeval)];
type Counts = BTreeMap<String, InstructionCounts>;

/// The section.
pub fn section(collected: &Collected) -> Option<Section> {
    let models = of_task(collected, |task| match task {
        Task::Ifeval(found) if !found.by_instruction.is_empty() => Some(found),
        _ => None,
    });
    if models.is_empty() {
        return None;
    }
    let (drawn, remark) = at_most(&models, "models");
    let categories = names(&models, |found| &found.by_category);
    let types = names(&models, |found| &found.by_instruction);
    let mut charts = vec![chart(collected, drawn, "All categories", &categories, |found| &found.by_category, |id| id)];
    for category in &categories {
        let of_category = |id: &&String| id.split(':').next() == Some(category);
        let types: BTreeSet<String> = types.iter().filter(of_category).cloned().collect();
        charts.push(chart(
            collected,
            drawn,
            category,
            &types,
            |found| &found.by_instruction,
            |id| id.split_once(':').map_or(id, |(_, name)| name),
        ));
    }
    let figures = Figures {
        title: "Instructions followed, strictly".into(),
        note: format!("Percent of instructions, with Wilson's 95 % intervals.{remark}"),
        legend: drawn.iter().map(|(name, _)| Legend::patch(style(collected, name), name)).collect(),
        charts,
        in_columns: true,
    };
    let tables = vec![
        Block::Table(table("By category, in percent; 95 % intervals are below.", &models, &categories, |f| {
            &f.by_category
        })),
        Block::Table(table("By type, in percent; 95 % intervals are below.", &models, &types, |f| &f.by_instruction)),
    ];
    let details =
        Block::Details { summary: "Tables: strict and loose, by category and by type".into(), blocks: tables };
    Some(Section { id: "ifeval", title: "IFEval by instruction", blocks: vec![Block::Figures(figures), details] })
}

fn names(models: &Models<'_>, counts: fn(&Ifeval) -> &Counts) -> BTreeSet<String> {
    models.iter().flat_map(|(_, found)| counts(found).keys().cloned()).collect()
}

fn chart(
    collected: &Collected,
    models: &Models<'_>,
    title: &str,
    rows: &BTreeSet<String>,
    counts: fn(&Ifeval) -> &Counts,
    label: fn(&str) -> &str,
) -> Figure {
    let group = |row: &String| {
        let bar = |(name, found): &(&str, &Ifeval)| {
            let counts = counts(found).get(row).filter(|counts| counts.n > 0)?;
            let ci95 = Some(counts.strict_ci95.map(|end| 100.0 * end));
            Some(Bar { style: style(collected, name), value: 100.0 * counts.strict, ci95 })
        };
        Group { label: label(row).to_owned(), bars: models.iter().filter_map(bar).collect() }
    };
    let groups: Vec<Group> = rows.iter().map(group).collect();
    let told = models.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let description = format!("Percent of instructions followed strictly by {told}; the numbers are in the table.");
    let caption = Figures::caption(id(&["ifeval", title]), &format!("Instructions followed: {title}"), description);
    let chart = bars::Chart { caption, groups, most: 100.0, mark: None, decimals: 1 };
    Figure { title: title.to_owned(), svg: bars::svg(&chart) }
}

fn table(caption: &str, models: &Models<'_>, rows: &BTreeSet<String>, counts: fn(&Ifeval) -> &Counts) -> Table {
    let mut header = vec!["Instruction".to_owned(), "n".to_owned()];
    header.extend(models.iter().flat_map(|(name, _)| [format!("{name}, strict"), format!("{name}, loose")]));
    let row = |row: &String| {
        let known: Vec<Option<&InstructionCounts>> =
            models.iter().map(|(_, found)| counts(found).get(row).filter(|counts| counts.n > 0)).collect();
        let ns: BTreeSet<usize> = known.iter().flatten().map(|counts| counts.n).collect();
        let ns: Vec<String> = ns.iter().map(usize::to_string).collect();
        let mut cells = vec![Cell::number(ns.join(" or "))];
        cells.extend(known.iter().flat_map(|counts| match counts {
            Some(c) => {
                [Cell::interval(c.strict, c.strict_ci95, 100.0, 1), Cell::interval(c.loose, c.loose_ci95, 100.0, 1)]
            }
            None => [Cell::default(), Cell::default()],
        }));
        Row { head: row.clone(), cells }
    };
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    Table::new(caption, &header, rows.iter().map(row).collect())
}
