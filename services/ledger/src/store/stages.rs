//! `stages`: what operators set for a stage. The newest version of each, which stands there too, is of `versions.rs`.

use caudal_domain::Stage;
use sea_orm::{ConnectionTrait, DbErr};

use super::time::Micros;
use super::{Session, damaged, u32_of};

/// What operators set for a stage; nothing of it where they did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StageRow {
    pub(crate) stage: Stage,
    pub(crate) pause: Option<StagePaused>,
    /// Handlers at once in all its processes.
    pub(crate) max_slots: Option<u32>,
    /// Files out at once.
    pub(crate) max_files: Option<u32>,
}

/// Who paused a stage, the words that they left, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StagePaused {
    pub(crate) who: String,
    pub(crate) note: String,
    pub(crate) at: Micros,
}

impl StageRow {
    /// A stage for which nothing is set.
    pub(crate) fn unset(stage: Stage) -> Self {
        Self {
            stage,
            pause: None,
            max_slots: None,
            max_files: None,
        }
    }
}

/// What is set, of each stage that has a row.
pub(crate) async fn all<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<StageRow>, DbErr> {
    let sql = "SELECT s.name, s.pause_who, s.pause_note, s.pause_at, s.max_slots, s.max_files \
               FROM stages AS s";
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        let name: String = row.try_get("", "name")?;
        let stage = name.parse::<Stage>().map_err(|_| damaged("name"))?;
        let who: Option<String> = row.try_get("", "pause_who")?;
        let pause = match who {
            None => None,
            Some(who) => Some(StagePaused {
                who,
                note: row.try_get("", "pause_note")?,
                at: Micros(row.try_get("", "pause_at")?),
            }),
        };
        let number = |column: &str| -> Result<Option<u32>, DbErr> {
            let number: Option<i32> = row.try_get("", column)?;
            number.map(|_| u32_of(&row, column)).transpose()
        };
        found.push(StageRow {
            stage,
            pause,
            max_slots: number("max_slots")?,
            max_files: number("max_files")?,
        });
    }
    Ok(found)
}

/// Writes what is set for a stage.
pub(crate) async fn set<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &StageRow,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO stages (name, pause_who, pause_note, pause_at, max_slots, max_files) \
               VALUES ($1, $2, $3, $4, $5, $6) \
               ON CONFLICT (name) DO UPDATE SET pause_who = excluded.pause_who, \
               pause_note = excluded.pause_note, pause_at = excluded.pause_at, \
               max_slots = excluded.max_slots, max_files = excluded.max_files";
    let pause = row.pause.as_ref();
    let number =
        |number: Option<u32>| number.map(|number| i32::try_from(number).unwrap_or(i32::MAX));
    let values = vec![
        row.stage.name().into(),
        pause.map(|pause| pause.who.clone()).into(),
        pause.map(|pause| pause.note.clone()).into(),
        pause.map(|pause| pause.at.0).into(),
        number(row.max_slots).into(),
        number(row.max_files).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}
