//! The words of a migration that differ between the databases.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseBackend};

/// Runs a script of statements separated by `;`, its words in braces replaced for the connection's database:
///
/// | word | Postgres | SQLite |
/// |---|---|---|
/// | `{uuid}` | `uuid` | `BLOB` (16 bytes) |
/// | `{int}`, `{big}` | `integer`, `bigint` | `INTEGER` |
/// | `{time}` | `bigint` | `INTEGER`; microseconds since 1970 by the database's clock |
/// | `{bool}` | `boolean` | `INTEGER` |
/// | `{text}` | `text` | `TEXT` |
/// | `{exact}` | `text COLLATE "C"` | `TEXT`; compared byte by byte |
/// | `{json}` | `jsonb` | `TEXT` |
/// | `{bytes}` | `bytea` | `BLOB` |
/// | `{fill N}` | `WITH (fillfactor = N)` | nothing |
/// | `{clustered}` | nothing | `WITHOUT ROWID, STRICT` (after a composite key) |
/// | `{strict}` | nothing | `STRICT` |
///
/// Lines that begin with `--postgres ` run on Postgres only, without that word.
///
/// # Errors
/// The database's, for the first statement it refuses.
pub(crate) async fn run_script(manager: &SchemaManager<'_>, script: &str) -> Result<(), DbErr> {
    let connection = manager.get_connection();
    let postgres = connection.get_database_backend() == DatabaseBackend::Postgres;
    for statement in translate(script, postgres).split(';') {
        if !statement.trim().is_empty() {
            connection.execute_unprepared(statement).await?;
        }
    }
    Ok(())
}

fn translate(script: &str, postgres: bool) -> String {
    let mut lines = Vec::new();
    for line in script.lines() {
        match line.trim_start().strip_prefix("--postgres ") {
            Some(only_postgres) if postgres => lines.push(only_postgres.to_owned()),
            Some(_) => {}
            None => lines.push(line.split(" --").next().unwrap_or_default().to_owned()),
        }
    }
    let mut text = lines.join("\n");
    let words: [(&str, &str, &str); 11] = [
        ("{uuid}", "uuid", "BLOB"),
        ("{int}", "integer", "INTEGER"),
        ("{big}", "bigint", "INTEGER"),
        ("{time}", "bigint", "INTEGER"),
        ("{bool}", "boolean", "INTEGER"),
        ("{text}", "text", "TEXT"),
        ("{exact}", "text COLLATE \"C\"", "TEXT"),
        ("{json}", "jsonb", "TEXT"),
        ("{bytes}", "bytea", "BLOB"),
        ("{clustered}", "", "WITHOUT ROWID, STRICT"),
        ("{strict}", "", "STRICT"),
    ];
    for (word, on_postgres, on_sqlite) in words {
        text = text.replace(word, if postgres { on_postgres } else { on_sqlite });
    }
    fill_factors(&text, postgres)
}

fn fill_factors(text: &str, postgres: bool) -> String {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{fill ") {
        let Some(length) = rest[start..].find('}') else {
            break;
        };
        result.push_str(&rest[..start]);
        if postgres {
            let factor = &rest[start + "{fill ".len()..start + length];
            result.push_str(&format!("WITH (fillfactor = {factor})"));
        } else {
            result.push_str("WITHOUT ROWID, STRICT");
        }
        rest = &rest[start + length + 1..];
    }
    result.push_str(rest);
    result
}

#[cfg(test)]
mod tests {
    use super::translate;

    #[test]
    fn each_database_gets_its_own_words() {
        let script = "CREATE TABLE a (t {uuid} NOT NULL, j {json}, PRIMARY KEY (t)) {fill 35};\n--postgres ALTER TABLE a SET (x = 1);";
        assert_eq!(
            translate(script, true),
            "CREATE TABLE a (t uuid NOT NULL, j jsonb, PRIMARY KEY (t)) WITH (fillfactor = 35);\nALTER TABLE a SET (x = 1);"
        );
        assert_eq!(
            translate(script, false),
            "CREATE TABLE a (t BLOB NOT NULL, j TEXT, PRIMARY KEY (t)) WITHOUT ROWID, STRICT;"
        );
    }
}
