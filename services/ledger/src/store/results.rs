//! `stage_results`, `stage_versions`, `attempts` and `dead_letters`: what stages did to a file.

use std::collections::{HashMap, HashSet};

use caudal_domain::{FileRef, Generation, Reason, Stage, StageVersion, Token};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};

use super::page::Page;
use super::time::Micros;
use super::{Session, code_of, damaged, file_of, signed, u32_of, u64_of};

/// An object a stage wrote, as it stands in `stage_results.artifacts`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredArtifact {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) media_type: String,
}

/// What a stage used up.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Used {
    pub(crate) bytes: u64,
    pub(crate) pages: u64,
    pub(crate) tokens: u64,
    pub(crate) calls: u64,
}

/// One row of `stage_results`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResultRow {
    pub(crate) file: FileRef,
    pub(crate) generation: Generation,
    pub(crate) stage: Stage,
    /// `None` when skipped.
    pub(crate) version: Option<u32>,
    /// sha256; upload stage only.
    pub(crate) content: Option<[u8; 32]>,
    /// Upload stage only.
    pub(crate) media_type: Option<String>,
    pub(crate) token: Token,
    pub(crate) nonce: String,
    pub(crate) artifacts: Vec<StoredArtifact>,
    /// A JSON object.
    pub(crate) facts: String,
    pub(crate) warnings: Vec<caudal_domain::Warning>,
    pub(crate) used: Used,
    pub(crate) skipped: bool,
    pub(crate) at: Micros,
}

const COLUMNS: &str = "r.tenant_id, r.batch_id, r.ordinal, r.generation, r.stage, r.version_id, r.content, r.media_type, \
    r.token, r.nonce, r.artifacts, r.facts, r.warnings, r.used_bytes, r.used_pages, r.used_tokens, r.used_calls, \
    r.skipped, r.at";

impl ResultRow {
    /// The row that says that the batch's options left a stage out.
    pub(crate) fn skipped(
        file: FileRef,
        generation: Generation,
        stage: Stage,
        token: Token,
        at: Micros,
    ) -> Self {
        Self {
            file,
            generation,
            stage,
            version: None,
            content: None,
            media_type: None,
            token,
            nonce: String::new(),
            artifacts: Vec::new(),
            facts: "{}".to_owned(),
            warnings: Vec::new(),
            used: Used::default(),
            skipped: true,
            at,
        }
    }

    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let version: Option<i32> = row.try_get("", "version_id")?;
        let content: Option<Vec<u8>> = row.try_get("", "content")?;
        let artifacts: String = row.try_get("", "artifacts")?;
        let warnings: String = row.try_get("", "warnings")?;
        Ok(Self {
            file: file_of(row)?,
            generation: Generation::new(u32_of(row, "generation")?),
            stage: code_of(row, "stage", Stage::from_code)?,
            version: version
                .map(|version| u32::try_from(version).map_err(|_| damaged("version_id")))
                .transpose()?,
            content: content
                .map(|bytes| bytes.try_into().map_err(|_| damaged("content")))
                .transpose()?,
            media_type: row.try_get("", "media_type")?,
            token: Token::new(u64_of(row, "token")?),
            nonce: row.try_get("", "nonce")?,
            artifacts: serde_json::from_str(&artifacts).map_err(|_| damaged("artifacts"))?,
            facts: row.try_get("", "facts")?,
            warnings: serde_json::from_str(&warnings).map_err(|_| damaged("warnings"))?,
            used: Used {
                bytes: u64_of(row, "used_bytes")?,
                pages: u64_of(row, "used_pages")?,
                tokens: u64_of(row, "used_tokens")?,
                calls: u64_of(row, "used_calls")?,
            },
            skipped: row.try_get("", "skipped")?,
            at: Micros(row.try_get("", "at")?),
        })
    }
}

/// Inserts results.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[ResultRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = Page::of_files(rows.iter().map(|row| row.file))
        .numbers("g", rows.iter().map(|row| i64::from(row.generation.get())))
        .numbers("stage", rows.iter().map(|row| i64::from(row.stage.code())))
        .nullable_numbers("version", rows.iter().map(|row| row.version.map(i64::from)))
        .bytes(
            "content",
            rows.iter()
                .map(|row| row.content.map(|content| content.to_vec())),
        )
        .texts("media_type", rows.iter().map(|row| row.media_type.clone()))
        .numbers("token", rows.iter().map(|row| signed(row.token.get())))
        .texts("nonce", rows.iter().map(|row| Some(row.nonce.clone())))
        .texts(
            "artifacts",
            rows.iter().map(|row| Some(json(&row.artifacts))),
        )
        .texts("facts", rows.iter().map(|row| Some(row.facts.clone())))
        .texts("warnings", rows.iter().map(|row| Some(json(&row.warnings))))
        .numbers("used_bytes", rows.iter().map(|row| signed(row.used.bytes)))
        .numbers("used_pages", rows.iter().map(|row| signed(row.used.pages)))
        .numbers(
            "used_tokens",
            rows.iter().map(|row| signed(row.used.tokens)),
        )
        .numbers("used_calls", rows.iter().map(|row| signed(row.used.calls)))
        .numbers("skipped", rows.iter().map(|row| i64::from(row.skipped)))
        .numbers("at", rows.iter().map(|row| row.at.0));
    let (page, values) = page.bind(session.dialect, 1);
    let skipped = session.dialect.boolean("u.skipped");
    let sql = format!(
        "WITH {page} INSERT INTO stage_results (tenant_id, batch_id, ordinal, generation, stage, version_id, content, \
         media_type, token, nonce, artifacts, facts, warnings, used_bytes, used_pages, used_tokens, used_calls, skipped, at) \
         SELECT u.t, u.b, u.o, u.g, u.stage, u.version, u.content, u.media_type, u.token, coalesce(u.nonce, ''), \
         u.artifacts, u.facts, u.warnings, u.used_bytes, u.used_pages, u.used_tokens, u.used_calls, {skipped}, u.at FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|_| "[]".to_owned())
}

/// All results of these files and generations, in the order of their stages' recording.
pub(crate) async fn of_generations<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[(FileRef, Generation)],
) -> Result<HashMap<FileRef, Vec<ResultRow>>, DbErr> {
    if files.is_empty() {
        return Ok(HashMap::new());
    }
    let page = Page::of_files(files.iter().map(|(file, _)| *file)).numbers(
        "g",
        files
            .iter()
            .map(|(_, generation)| i64::from(generation.get())),
    );
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT {COLUMNS} FROM u JOIN stage_results AS r ON r.tenant_id = u.t AND r.batch_id = u.b \
         AND r.ordinal = u.o AND r.generation = u.g"
    );
    let mut found: HashMap<FileRef, Vec<ResultRow>> = HashMap::new();
    for row in session.rows(sql, values).await? {
        let result = ResultRow::read(&row)?;
        found.entry(result.file).or_default().push(result);
    }
    for results in found.values_mut() {
        results.sort_by_key(|result| (result.token, result.stage.code()));
    }
    Ok(found)
}

/// All results of one file, of every generation, in the order of their recording; by key.
pub(crate) async fn of_file<C: ConnectionTrait>(
    session: &Session<'_, C>,
    file: FileRef,
) -> Result<Vec<ResultRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM stage_results AS r WHERE r.tenant_id = $1 AND r.batch_id = $2 AND r.ordinal = $3"
    );
    let values = vec![
        file.tenant.as_uuid().into(),
        file.batch.as_uuid().into(),
        i32::try_from(file.ordinal).unwrap_or(i32::MAX).into(),
    ];
    let rows = session.rows(sql, values).await?;
    let mut found: Vec<ResultRow> = rows.iter().map(ResultRow::read).collect::<Result<_, _>>()?;
    found.sort_by_key(|result| (result.generation, result.token, result.stage.code()));
    Ok(found)
}

/// Where a report that was taken leaves its token: a good one in `stage_results`, a bad one in `attempts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trace {
    Result,
    Attempt,
}

/// Which of these (file, token) pairs left such a trace: their reports had been taken.
pub(crate) async fn already_recorded<C: ConnectionTrait>(
    session: &Session<'_, C>,
    trace: Trace,
    pairs: &[(FileRef, Token)],
) -> Result<HashSet<(FileRef, Token)>, DbErr> {
    let mut found = HashSet::new();
    if pairs.is_empty() {
        return Ok(found);
    }
    let table = match trace {
        Trace::Result => "stage_results",
        Trace::Attempt => "attempts",
    };
    let page = Page::of_files(pairs.iter().map(|(file, _)| *file))
        .numbers("token", pairs.iter().map(|(_, token)| signed(token.get())));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT r.tenant_id, r.batch_id, r.ordinal, r.token FROM u JOIN {table} AS r \
         ON r.tenant_id = u.t AND r.batch_id = u.b AND r.ordinal = u.o AND r.token = u.token"
    );
    for row in session.rows(sql, values).await? {
        found.insert((file_of(&row)?, Token::new(u64_of(&row, "token")?)));
    }
    Ok(found)
}

/// One row of `attempts`: a failure or a kill.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptRow {
    pub(crate) file: FileRef,
    pub(crate) token: Token,
    pub(crate) stage: Stage,
    pub(crate) reason: Reason,
    pub(crate) detail: String,
    pub(crate) trace_id: String,
    pub(crate) ended_at: Micros,
}

/// Inserts failures and kills.
pub(crate) async fn insert_attempts<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[AttemptRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = attempt_page(rows).texts("trace", rows.iter().map(|row| Some(row.trace_id.clone())));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO attempts (tenant_id, batch_id, ordinal, token, stage, reason, detail, trace_id, ended_at) \
         SELECT u.t, u.b, u.o, u.token, u.stage, u.reason, coalesce(u.detail, ''), coalesce(u.trace, ''), u.at FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Inserts dead letters: files that became FAILED.
pub(crate) async fn insert_dead_letters<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[AttemptRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let (page, values) = attempt_page(rows).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO dead_letters (tenant_id, batch_id, ordinal, stage, reason, token, detail, at) \
         SELECT u.t, u.b, u.o, u.stage, u.reason, u.token, coalesce(u.detail, ''), u.at FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Deletes the dead letters of files that left FAILED (protocol 11.1); their attempts stay.
pub(crate) async fn delete_dead_letters<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<(), DbErr> {
    if files.is_empty() {
        return Ok(());
    }
    let (page, values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} DELETE FROM dead_letters WHERE (tenant_id, batch_id, ordinal) IN (SELECT u.t, u.b, u.o FROM u)"
    );
    session.execute(sql, values).await?;
    Ok(())
}

fn attempt_page(rows: &[AttemptRow]) -> Page {
    Page::of_files(rows.iter().map(|row| row.file))
        .numbers("token", rows.iter().map(|row| signed(row.token.get())))
        .numbers("stage", rows.iter().map(|row| i64::from(row.stage.code())))
        .numbers(
            "reason",
            rows.iter().map(|row| i64::from(row.reason.number())),
        )
        .texts("detail", rows.iter().map(|row| Some(row.detail.clone())))
        .numbers("at", rows.iter().map(|row| row.ended_at.0))
}

/// The last recorded failure or kill of each of these files.
pub(crate) async fn last_attempts<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<HashMap<FileRef, String>, DbErr> {
    if files.is_empty() {
        return Ok(HashMap::new());
    }
    let page = Page::of_files(files.iter().copied());
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT a.tenant_id, a.batch_id, a.ordinal, a.detail FROM u JOIN attempts AS a ON a.tenant_id = u.t \
         AND a.batch_id = u.b AND a.ordinal = u.o ORDER BY a.token"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        found.insert(file_of(&row)?, row.try_get("", "detail")?);
    }
    Ok(found)
}

/// Every stage version seen so far, with its number.
pub(crate) async fn versions<C: ConnectionTrait>(
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

/// Inserts a stage version under a number that no other has.
pub(crate) async fn insert_version<C: ConnectionTrait>(
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
