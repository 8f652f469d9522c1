//! What the two databases say differently, but for pages of rows (see [`super::page`]).

use sea_orm::sea_query::ArrayType;
use sea_orm::{DatabaseBackend, Value};

/// Which database the store stands on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Sqlite,
    Postgres,
}

impl Dialect {
    pub(crate) fn of(backend: DatabaseBackend) -> Self {
        match backend {
            DatabaseBackend::Postgres => Self::Postgres,
            _ => Self::Sqlite,
        }
    }

    pub(crate) fn backend(self) -> DatabaseBackend {
        match self {
            Self::Sqlite => DatabaseBackend::Sqlite,
            Self::Postgres => DatabaseBackend::Postgres,
        }
    }

    /// Whether an expression is one of the numbers that a parameter holds: one text, however many they are.
    pub(crate) fn is_among(self, expression: &str, parameter: usize) -> String {
        match self {
            Self::Sqlite => {
                format!("{expression} IN (SELECT e.value FROM json_each(${parameter}) AS e)")
            }
            Self::Postgres => format!("{expression} = ANY(${parameter}::bigint[])"),
        }
    }

    /// The parameter of [`Self::is_among`].
    pub(crate) fn numbers(self, numbers: impl IntoIterator<Item = i64>) -> Value {
        let numbers = numbers.into_iter();
        match self {
            Self::Sqlite => {
                let numbers: Vec<String> = numbers.map(|number| number.to_string()).collect();
                Value::from(format!("[{}]", numbers.join(",")))
            }
            Self::Postgres => Value::Array(
                ArrayType::BigInt,
                Some(Box::new(numbers.map(Value::from).collect())),
            ),
        }
    }

    /// The database's clock, in microseconds since 1970. The only clock that decides anything.
    pub(crate) fn now(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
            Self::Postgres => "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
        }
    }

    /// Locks the rows a SELECT reads until the transaction ends. SQLite has one writer and needs none.
    pub(crate) fn for_update(self) -> &'static str {
        match self {
            Self::Sqlite => "",
            Self::Postgres => " FOR UPDATE",
        }
    }

    /// As [`Self::for_update`], for the rows of one table of a join.
    pub(crate) fn for_update_of(self, table: &str) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!(" FOR UPDATE OF {table}"),
        }
    }

    /// Locks the rows of one table of a join against change, shared with other readers.
    pub(crate) fn for_share_of(self, table: &str) -> String {
        match self {
            Self::Sqlite => String::new(),
            Self::Postgres => format!(" FOR SHARE OF {table}"),
        }
    }

    /// A number as this database's boolean.
    pub(crate) fn boolean(self, expression: &str) -> String {
        match self {
            Self::Sqlite => expression.to_owned(),
            Self::Postgres => format!("({expression} <> 0)"),
        }
    }

    /// A text as what this database keeps JSON in.
    pub(crate) fn json(self, expression: &str) -> String {
        match self {
            Self::Sqlite => expression.to_owned(),
            Self::Postgres => format!("{expression}::jsonb"),
        }
    }

    /// No bytes, for a column that takes no null.
    pub(crate) fn no_bytes(self) -> &'static str {
        match self {
            Self::Sqlite => "x''",
            Self::Postgres => "''::bytea",
        }
    }

    /// Whether two transactions can write at once.
    pub(crate) fn has_two_writers(self) -> bool {
        self == Self::Postgres
    }

    /// An id as text, in any form that is read back as an id.
    pub(crate) fn uuid_text(self, expression: &str) -> String {
        match self {
            Self::Sqlite => format!("hex({expression})"),
            Self::Postgres => format!("{expression}::text"),
        }
    }
}
