//! `stage_versions` and `stages`: what made results, and the newest of each stage.

use std::collections::HashMap;

use caudal_domain::{Stage, StageVersion};
use sea_orm::{ConnectionTrait, DbErr};

use super::time::Micros;
use super::{Session, code_of, damaged, u32_of};

/// Every stage version seen so far, with its number.
pub(crate) async fn all<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<(u32, StageVersion)>, DbErr> {
    let sql = "SELECT v.version_id, v.stage, v.code, v.model, v.options FROM stage_versions AS v";
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        let version = StageVersion {
            stage: code_of(&row, "stage", Stage::from_code)?,
            code: row.try_get("", "code")?,
            model: row.try_get("", "model")?,
            options: row.try_get("", "options")?,
        };
        found.push((u32_of(&row, "version_id")?, version));
    }
    Ok(found)
}

/// The length of the vectors that each stage version was first recorded with, by its number.
pub(crate) async fn dimensions<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<(u32, u32)>, DbErr> {
    let sql =
        "SELECT v.version_id, v.dimensions FROM stage_versions AS v WHERE v.dimensions IS NOT NULL";
    let rows = session.rows(sql, Vec::new()).await?;
    let known = rows.iter().map(|row| {
        let number = u32_of(row, "version_id")?;
        Ok((number, u32_of(row, "dimensions")?))
    });
    known.collect()
}

/// Notes the length of the vectors of a stage version.
pub(crate) async fn set_dimensions<C: ConnectionTrait>(
    session: &Session<'_, C>,
    number: u32,
    dimensions: u32,
) -> Result<(), DbErr> {
    let sql = "UPDATE stage_versions SET dimensions = $2 WHERE version_id = $1";
    let values = vec![
        i32::try_from(number).unwrap_or(i32::MAX).into(),
        i32::try_from(dimensions).unwrap_or(i32::MAX).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Inserts a stage version under a number that no other has.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    number: u32,
    version: &StageVersion,
    now: Micros,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO stage_versions (version_id, stage, code, model, options, first_seen) \
               VALUES ($1, $2, $3, $4, $5, $6)";
    let values = vec![
        i32::try_from(number).unwrap_or(i32::MAX).into(),
        i32::from(version.stage.code()).into(),
        version.code.clone().into(),
        version.model.clone().into(),
        version.options.clone().into(),
        now.0.into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// The newest version that processes of each stage were seen to run.
pub(crate) async fn newest<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<HashMap<Stage, u32>, DbErr> {
    let sql = "SELECT s.name, s.version_id FROM stages AS s WHERE s.version_id IS NOT NULL";
    let mut found = HashMap::new();
    for row in session.rows(sql, Vec::new()).await? {
        let name: String = row.try_get("", "name")?;
        let stage = name.parse::<Stage>().map_err(|_| damaged("name"))?;
        found.insert(stage, u32_of(&row, "version_id")?);
    }
    Ok(found)
}

/// Notes the newest version of a stage.
pub(crate) async fn set_newest<C: ConnectionTrait>(
    session: &Session<'_, C>,
    stage: Stage,
    version: u32,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO stages (name, version_id) VALUES ($1, $2) \
               ON CONFLICT (name) DO UPDATE SET version_id = excluded.version_id";
    let values = vec![
        stage.name().into(),
        i32::try_from(version).unwrap_or(i32::MAX).into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}
