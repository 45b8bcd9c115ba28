//! The paper's numbers, and how far the measured ones can be compared with them.

use crate::report::collect::Collected;
use crate::report::published::{self, Published};
use crate::report::view::{Block, Cell, Row, Section, Table, fixed};

/// The section, where something was measured that the paper measured, too.
pub fn section(collected: &Collected) -> Option<Section> {
    let notes = comparability(collected);
    let blocks = vec![Block::Table(paper()), Block::Notes { items: notes.clone() }];
    (!notes.is_empty()).then_some(Section { id: "published", title: "Published numbers", blocks })
}

/// The paper's rows.
fn paper() -> Table {
    let cell = |value: Option<f64>| value.map_or_else(Cell::default, |value| Cell::number(fixed(value, 2)));
    let row = |published: &Published| {
        let Published { model, ifeval, alpaca, length_controlled, mt_bench } = published;
        let mut cells: Vec<Cell> = (0..4).map(|index| cell(ifeval.map(|numbers| numbers[index]))).collect();
        cells.extend([
            cell(alpaca.map(|[first, _]| first)),
            cell(alpaca.map(|[_, second]| second)),
            cell(*length_controlled),
            cell(*mt_bench),
        ]);
        Row { head: (*model).to_owned(), cells }
    };
    let header = [
        "Model",
        "IFEval prompt strict, %",
        "IFEval prompt loose, %",
        "IFEval instruction strict, %",
        "IFEval instruction loose, %",
        "AlpacaEval 1.0, %",
        "AlpacaEval 2.0, %",
        "AlpacaEval 2.0 length-controlled, %",
        "MT-Bench, 1 to 10",
    ];
    let caption = "Published, not measured here: the ORPO paper (arXiv 2403.07691), and the AlpacaEval leaderboard for the \
                   length-controlled win rate.";
    Table { published: true, ..Table::new(caption, &header, published::ROWS.iter().map(row).collect()) }
}

/// What the measured numbers rest on, each remark with the models that it is true of.
fn comparability(collected: &Collected) -> Vec<String> {
    let mut remarks: Vec<(String, Vec<&str>)> = Vec::new();
    for subject in &collected.evaluations {
        let Some(remark) = published::comparability(&subject.evaluation) else { continue };
        let names = subject.models.iter().map(|(_, name)| name.as_str());
        match remarks.iter_mut().find(|(known, _)| *known == remark) {
            Some((_, known)) => known.extend(names),
            None => remarks.push((remark, names.collect())),
        }
    }
    remarks.into_iter().map(|(remark, names)| format!("{}: {remark}", names.join(", "))).collect()
}
