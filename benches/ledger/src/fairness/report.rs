//! The table, and the file of all figures.

use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value, json};

use crate::database::Kind;

/// A figure beside its target.
pub(super) struct Row {
    pub(super) what: String,
    pub(super) target: String,
    pub(super) figure: String,
    /// `None` where there is no target.
    pub(super) is_met: Option<bool>,
    /// What it was made of.
    pub(super) figures: Value,
}

/// Rows of all parts and databases.
pub(super) struct Report {
    machine: Value,
    databases: Vec<Kind>,
    rows: Vec<(String, Kind, Row)>,
}

impl Report {
    pub(super) fn new(machine: Value, databases: &[Kind]) -> Self {
        Self {
            machine,
            databases: databases.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, part: &str, kind: Kind, rows: Vec<Row>) {
        let rows = rows.into_iter();
        self.rows
            .extend(rows.map(|row| (part.to_owned(), kind, row)));
    }

    /// As Markdown: a row for each thing that was measured, a column for each database.
    pub(super) fn table(&self) -> String {
        let names: Vec<&str> = self.databases.iter().map(|kind| kind.name()).collect();
        let mut table = format!("| | what | target | {} |\n", names.join(" | "));
        table += &"|---".repeat(3 + names.len());
        table += "|\n";
        let mut told: Vec<&str> = Vec::new();
        for (part, _, row) in &self.rows {
            if told.contains(&row.what.as_str()) {
                continue;
            }
            told.push(&row.what);
            let cells: Vec<String> = self
                .databases
                .iter()
                .map(|kind| self.cell(&row.what, *kind))
                .collect();
            table += &format!(
                "| {part} | {} | {} | {} |\n",
                row.what,
                row.target,
                cells.join(" | ")
            );
        }
        table
    }

    fn cell(&self, what: &str, kind: Kind) -> String {
        let mut rows = self.rows.iter();
        let found = rows.find(|(_, of, row)| *of == kind && row.what == what);
        found.map_or_else(String::new, |(_, _, row)| match row.is_met {
            Some(true) => format!("**{}**", row.figure),
            Some(false) => format!("{}, missed", row.figure),
            None => row.figure.clone(),
        })
    }

    pub(super) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut of_databases = Map::new();
        for kind in &self.databases {
            let rows = self.rows.iter().filter(|(_, of, _)| of == kind);
            let rows: Vec<Value> = rows
                .map(|(part, _, row)| {
                    json!({
                        "part": part, "what": row.what, "target": row.target, "figure": row.figure, "is_met": row.is_met,
                        "figures": row.figures,
                    })
                })
                .collect();
            of_databases.insert(kind.name().to_owned(), rows.into());
        }
        let all = json!({ "machine": self.machine, "databases": of_databases });
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(path, format!("{all:#}\n"))
            .with_context(|| format!("{} cannot be written", path.display()))
    }
}
