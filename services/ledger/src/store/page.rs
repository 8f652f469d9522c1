//! A page of rows handed to one statement: the only place where the databases differ in how they take many rows.
//!
//! Postgres unnests one array a column; SQLite reads one JSON text. Every statement sees the same thing: a common
//! table expression `u` with named columns, so the statements themselves are written once. All key columns stand in
//! the page, because with tenant and batch as single parameters an un-analysed table gives a hash join over the
//! whole batch on Postgres, and a scan on SQLite.

use caudal_domain::{BatchRef, FileRef};
use sea_orm::Value;
use sea_orm::sea_query::ArrayType;
use uuid::Uuid;

use super::dialect::Dialect;

/// Stands for null inside a Postgres array of numbers, which cannot carry one; no stored number is so small.
const NULL_NUMBER: i64 = i64::MIN;

enum Cells {
    Uuid(Vec<Uuid>),
    /// Never null, as keys are: an expression around the column would cost the planner what it knows of it.
    Number(Vec<i64>),
    NullableNumber(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
    Bytes(Vec<Option<Vec<u8>>>),
    /// The same in every row: sent once.
    Alike {
        value: Value,
        sql_type: &'static str,
        rows: usize,
    },
}

impl Cells {
    /// The one value of a column in which all rows are alike.
    fn alike(self) -> Self {
        fn first_of_alike<T: PartialEq>(cells: &[T]) -> Option<&T> {
            let first = cells.first()?;
            (cells.len() > 1 && cells.iter().all(|cell| cell == first)).then_some(first)
        }
        let rows = self.len();
        let (value, sql_type) = match &self {
            Self::Uuid(cells) => (first_of_alike(cells).map(|cell| Value::from(*cell)), "uuid"),
            Self::Number(cells) => (
                first_of_alike(cells).map(|cell| Value::from(*cell)),
                "bigint",
            ),
            Self::NullableNumber(cells) => (
                first_of_alike(cells).map(|cell| Value::from(*cell)),
                "bigint",
            ),
            Self::Text(cells) => (
                first_of_alike(cells).map(|cell| Value::from(cell.clone())),
                "text",
            ),
            Self::Bytes(cells) => (
                first_of_alike(cells).map(|cell| Value::from(cell.clone())),
                "bytea",
            ),
            Self::Alike { .. } => return self,
        };
        match value {
            Some(value) => Self::Alike {
                value,
                sql_type,
                rows,
            },
            None => self,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Uuid(cells) => cells.len(),
            Self::Number(cells) => cells.len(),
            Self::NullableNumber(cells) => cells.len(),
            Self::Text(cells) => cells.len(),
            Self::Bytes(cells) => cells.len(),
            Self::Alike { rows, .. } => *rows,
        }
    }
}

/// Columns of equal length, and how to say them in either database.
#[derive(Default)]
pub(crate) struct Page {
    columns: Vec<(&'static str, Cells)>,
}

impl Page {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A page that names batches: columns `t`, `b`.
    pub(crate) fn of_batches(keys: impl IntoIterator<Item = BatchRef, IntoIter: Clone>) -> Self {
        let keys = keys.into_iter();
        Self::new()
            .uuids("t", keys.clone().map(|key| key.tenant.as_uuid()))
            .uuids("b", keys.map(|key| key.batch.as_uuid()))
    }

    /// A page that names files: columns `t`, `b`, `o`.
    pub(crate) fn of_files(files: impl IntoIterator<Item = FileRef, IntoIter: Clone>) -> Self {
        let files = files.into_iter();
        Self::of_batches(files.clone().map(FileRef::batch_ref))
            .numbers("o", files.map(|file| i64::from(file.ordinal)))
    }

    /// Adds a column of ids.
    pub(crate) fn uuids(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = Uuid>,
    ) -> Self {
        self.columns
            .push((name, Cells::Uuid(cells.into_iter().collect())));
        self
    }

    /// Adds a column of whole numbers, booleans (0, 1) and times.
    pub(crate) fn numbers(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = i64>,
    ) -> Self {
        self.columns
            .push((name, Cells::Number(cells.into_iter().collect())));
        self
    }

    /// Adds a column of numbers that may be null.
    pub(crate) fn nullable_numbers(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = Option<i64>>,
    ) -> Self {
        self.columns
            .push((name, Cells::NullableNumber(cells.into_iter().collect())));
        self
    }

    /// Adds a column of texts. An empty text and null are the same on Postgres: never write an empty one that must not
    /// become null; use `coalesce(u.x, '')` where the column is NOT NULL.
    pub(crate) fn texts(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = Option<String>>,
    ) -> Self {
        self.columns
            .push((name, Cells::Text(cells.into_iter().collect())));
        self
    }

    /// Adds a column of bytes; empty and null are the same, as for texts.
    pub(crate) fn bytes(
        mut self,
        name: &'static str,
        cells: impl IntoIterator<Item = Option<Vec<u8>>>,
    ) -> Self {
        self.columns
            .push((name, Cells::Bytes(cells.into_iter().collect())));
        self
    }

    /// Sends columns once in which all rows are alike. For inserts, whose plan is always the same: the text of the
    /// statement then depends on what is alike, and where a page is joined its keys must stay columns.
    pub(crate) fn alike_once(mut self) -> Self {
        for (_, cells) in &mut self.columns {
            *cells = std::mem::replace(cells, Cells::Number(Vec::new())).alike();
        }
        self
    }

    /// How many rows it has.
    pub(crate) fn len(&self) -> usize {
        self.columns.first().map_or(0, |(_, cells)| cells.len())
    }

    /// The expression `u AS (...)` to stand after WITH, and its values, whose parameters count up from `first`.
    pub(crate) fn bind(self, dialect: Dialect, first: usize) -> (String, Vec<Value>) {
        debug_assert!(
            self.columns
                .iter()
                .all(|(_, cells)| cells.len() == self.len()),
            "columns of unequal length"
        );
        match dialect {
            Dialect::Postgres => self.bind_postgres(first),
            Dialect::Sqlite => self.bind_sqlite(first),
        }
    }

    fn bind_postgres(self, first: usize) -> (String, Vec<Value>) {
        let mut select = Vec::new();
        let mut parameters = Vec::new();
        let mut names = Vec::new();
        let mut values = Vec::new();
        for (offset, (name, cells)) in self.columns.into_iter().enumerate() {
            let parameter = first + offset;
            if let Cells::Alike {
                value, sql_type, ..
            } = cells
            {
                select.push(format!("${parameter}::{sql_type} AS {name}"));
                values.push(value);
                continue;
            }
            names.push(name);
            let (array, sql_type, expression) = match cells {
                Cells::Uuid(cells) => (
                    array(ArrayType::Uuid, cells.into_iter().map(Value::from)),
                    "uuid[]",
                    name.to_owned(),
                ),
                Cells::Number(cells) => (
                    array(ArrayType::BigInt, cells.into_iter().map(Value::from)),
                    "bigint[]",
                    name.to_owned(),
                ),
                Cells::NullableNumber(cells) => (
                    array(
                        ArrayType::BigInt,
                        cells
                            .into_iter()
                            .map(|cell| Value::from(cell.unwrap_or(NULL_NUMBER))),
                    ),
                    "bigint[]",
                    format!("nullif({name}, {NULL_NUMBER}) AS {name}"),
                ),
                Cells::Text(cells) => (
                    array(
                        ArrayType::String,
                        cells
                            .into_iter()
                            .map(|cell| Value::from(cell.unwrap_or_default())),
                    ),
                    "text[]",
                    format!("nullif({name}, '') AS {name}"),
                ),
                Cells::Bytes(cells) => (
                    array(
                        ArrayType::Bytes,
                        cells
                            .into_iter()
                            .map(|cell| Value::from(cell.unwrap_or_default())),
                    ),
                    "bytea[]",
                    format!("nullif({name}, ''::bytea) AS {name}"),
                ),
                Cells::Alike { .. } => continue,
            };
            values.push(array);
            parameters.push(format!("${parameter}::{sql_type}"));
            select.push(expression);
        }
        let text = format!(
            "u AS (SELECT {} FROM unnest({}) AS p({}))",
            select.join(", "),
            parameters.join(", "),
            names.join(", ")
        );
        (text, values)
    }

    fn bind_sqlite(self, first: usize) -> (String, Vec<Value>) {
        let mut select = Vec::new();
        let mut values = vec![Value::from(self.json())];
        let mut position = 0;
        for (name, cells) in self.columns {
            if let Cells::Alike { value, .. } = cells {
                select.push(format!("${} AS {name}", first + values.len()));
                values.push(value);
                continue;
            }
            let cell = format!("e.value ->> {position}");
            position += 1;
            select.push(match cells {
                Cells::Uuid(_) | Cells::Bytes(_) => format!("unhex({cell}) AS {name}"),
                Cells::Number(_)
                | Cells::NullableNumber(_)
                | Cells::Text(_)
                | Cells::Alike { .. } => format!("{cell} AS {name}"),
            });
        }
        // MATERIALIZED puts the page outside and the primary key inside: without it SQLite scans the table for each page.
        let text = format!(
            "u AS MATERIALIZED (SELECT {} FROM json_each(${first}) AS e)",
            select.join(", ")
        );
        (text, values)
    }

    fn json(&self) -> String {
        let mut text = String::with_capacity(self.len() * self.columns.len() * 12 + 2);
        text.push('[');
        for row in 0..self.len() {
            text.push_str(if row == 0 { "[" } else { ",[" });
            let of_rows = self
                .columns
                .iter()
                .map(|(_, cells)| cells)
                .filter(|cells| !matches!(cells, Cells::Alike { .. }));
            for (position, cells) in of_rows.enumerate() {
                if position > 0 {
                    text.push(',');
                }
                push_json_cell(&mut text, cells, row);
            }
            text.push(']');
        }
        text.push(']');
        text
    }
}

fn push_json_cell(text: &mut String, cells: &Cells, row: usize) {
    match cells {
        Cells::Uuid(cells) => {
            let mut buffer = [0_u8; 32];
            text.push('"');
            text.push_str(cells[row].simple().encode_lower(&mut buffer));
            text.push('"');
        }
        Cells::Alike { .. } => {}
        Cells::Number(cells) => text.push_str(&cells[row].to_string()),
        Cells::NullableNumber(cells) => match cells[row] {
            Some(number) => text.push_str(&number.to_string()),
            None => text.push_str("null"),
        },
        Cells::Text(cells) => match &cells[row] {
            Some(cell) => text.push_str(&serde_json::Value::from(cell.as_str()).to_string()),
            None => text.push_str("null"),
        },
        Cells::Bytes(cells) => match &cells[row] {
            Some(cell) => {
                text.push('"');
                text.push_str(&hex::encode(cell));
                text.push('"');
            }
            None => text.push_str("null"),
        },
    }
}

fn array(of: ArrayType, cells: impl Iterator<Item = Value>) -> Value {
    Value::Array(of, Some(Box::new(cells.collect())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_reads_alike_in_both_databases() {
        let page = || {
            Page::new()
                .uuids("t", [Uuid::nil()])
                .nullable_numbers("n", [None])
                .texts("x", [Some("a\"b".into())])
        };
        let (postgres, values) = page().bind(Dialect::Postgres, 2);
        assert_eq!(
            postgres,
            "u AS (SELECT t, nullif(n, -9223372036854775808) AS n, nullif(x, '') AS x FROM unnest($2::uuid[], $3::bigint[], $4::text[]) AS p(t, n, x))"
        );
        assert_eq!(values.len(), 3);
        let (sqlite, values) = page().bind(Dialect::Sqlite, 2);
        assert!(sqlite.starts_with("u AS MATERIALIZED (SELECT unhex(e.value ->> 0) AS t"));
        assert_eq!(
            values,
            vec![Value::from(
                "[[\"00000000000000000000000000000000\",null,\"a\\\"b\"]]".to_owned()
            )]
        );
    }

    #[test]
    fn what_is_alike_in_all_rows_is_sent_once() {
        let page = || {
            Page::new()
                .numbers("o", [1, 2])
                .numbers("g", [7, 7])
                .alike_once()
        };
        let (postgres, values) = page().bind(Dialect::Postgres, 1);
        assert_eq!(
            postgres,
            "u AS (SELECT o, $2::bigint AS g FROM unnest($1::bigint[]) AS p(o))"
        );
        assert_eq!(values[1], Value::from(7_i64));
        let (sqlite, values) = page().bind(Dialect::Sqlite, 1);
        assert_eq!(
            sqlite,
            "u AS MATERIALIZED (SELECT e.value ->> 0 AS o, $2 AS g FROM json_each($1) AS e)"
        );
        assert_eq!(
            values,
            vec![Value::from("[[1],[2]]".to_owned()), Value::from(7_i64)]
        );
    }
}
