//! `stage_results`: what stages made of a file.

use super::page::Page;
use super::time::Micros;
use super::{Session, code_of, damaged, file_of, signed, tenant_of, u32_of, u64_of};
use caudal_domain::{BatchId, FileRef, Generation, Stage, TenantId, Token};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use uuid::Uuid;

/// An object a stage wrote, as it stands in `stage_results.artifacts`; by short names, for there are a few a file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StoredArtifact {
    #[serde(rename = "n", alias = "name")]
    pub(crate) name: String,
    #[serde(rename = "s", alias = "size")]
    pub(crate) size: u64,
    #[serde(rename = "t", alias = "media_type")]
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

/// Which execution made what a result refers to. Of a result that was taken over it is always the first maker's, never
/// a link of a chain, because it spells the objects' keys even when the maker's rows are gone.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Maker {
    pub(crate) file: FileRef,
    pub(crate) generation: Generation,
    pub(crate) token: Token,
    pub(crate) nonce: String,
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
    /// Whether the stage made text that can be embedded.
    pub(crate) has_text: bool,
    /// `None`: this file's own work under `token` and `nonce`.
    pub(crate) taken_from: Option<Maker>,
    pub(crate) at: Micros,
}

const COLUMNS: &str = "r.tenant_id, r.batch_id, r.ordinal, r.generation, r.stage, r.version_id, r.content, r.media_type, \
    r.token, r.nonce, r.artifacts, CAST(r.facts AS text) AS facts, r.warnings, r.used_bytes, r.used_pages, r.used_tokens, r.used_calls, \
    r.skipped, r.has_text, r.source_batch, r.source_ordinal, r.source_generation, r.source_token, r.source_nonce, r.at";

impl ResultRow {
    /// Which execution made its artifacts.
    pub(crate) fn maker(&self) -> Maker {
        self.taken_from.clone().unwrap_or_else(|| Maker {
            file: self.file,
            generation: self.generation,
            token: self.token,
            nonce: self.nonce.clone(),
        })
    }

    /// The row by which another generation, or another file of the same content, refers to this result (protocol 11.3,
    /// 13.3). `token` is one under which nothing was dispatched, so that no late report can be taken for this result.
    pub(crate) fn taken_over(
        &self,
        file: FileRef,
        generation: Generation,
        token: Token,
        at: Micros,
    ) -> Self {
        Self {
            file,
            generation,
            token,
            nonce: String::new(),
            taken_from: (!self.skipped).then(|| self.maker()),
            at,
            ..self.clone()
        }
    }

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
            has_text: false,
            taken_from: None,
            at,
        }
    }

    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let version: Option<i32> = row.try_get("", "version_id")?;
        let content: Option<Vec<u8>> = row.try_get("", "content")?;
        let artifacts: String = row.try_get("", "artifacts")?;
        let warnings: String = row.try_get("", "warnings")?;
        let file = file_of(row)?;
        Ok(Self {
            file,
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
            has_text: row.try_get("", "has_text")?,
            taken_from: maker_of(row, file.tenant)?,
            at: Micros(row.try_get("", "at")?),
        })
    }
}

fn maker_of(row: &QueryResult, tenant: TenantId) -> Result<Option<Maker>, DbErr> {
    let Some(batch) = row.try_get::<Option<Uuid>>("", "source_batch")? else {
        return Ok(None);
    };
    Ok(Some(Maker {
        file: FileRef::new(
            tenant,
            BatchId::from_uuid(batch),
            u32_of(row, "source_ordinal")?,
        ),
        generation: Generation::new(u32_of(row, "source_generation")?),
        token: Token::new(u64_of(row, "source_token")?),
        nonce: row
            .try_get::<Option<String>>("", "source_nonce")?
            .unwrap_or_default(),
    }))
}

/// Inserts results; those that refer to another's work go in a wider statement.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[ResultRow],
) -> Result<(), DbErr> {
    let (taken_over, own): (Vec<&ResultRow>, Vec<&ResultRow>) =
        rows.iter().partition(|row| row.taken_from.is_some());
    if !own.is_empty() {
        insert_page(session, result_page(&own), "", "").await?;
    }
    if !taken_over.is_empty() {
        let makers: Vec<Maker> = taken_over.iter().map(|row| row.maker()).collect();
        let page = result_page(&taken_over)
            .uuids(
                "source_batch",
                makers.iter().map(|maker| maker.file.batch.as_uuid()),
            )
            .numbers(
                "source_ordinal",
                makers.iter().map(|maker| i64::from(maker.file.ordinal)),
            )
            .numbers(
                "source_generation",
                makers.iter().map(|maker| i64::from(maker.generation.get())),
            )
            .numbers(
                "source_token",
                makers.iter().map(|maker| signed(maker.token.get())),
            )
            .texts(
                "source_nonce",
                makers.iter().map(|maker| Some(maker.nonce.clone())),
            );
        insert_page(
            session,
            page,
            ", source_batch, source_ordinal, source_generation, source_token, source_nonce",
            ", u.source_batch, u.source_ordinal, u.source_generation, u.source_token, u.source_nonce",
        )
        .await?;
    }
    Ok(())
}

async fn insert_page<C: ConnectionTrait>(
    session: &Session<'_, C>,
    page: Page,
    more_columns: &str,
    more_values: &str,
) -> Result<(), DbErr> {
    let (page, values) = page.alike_once().bind(session.dialect, 1);
    let skipped = session.dialect.boolean("u.skipped");
    let has_text = session.dialect.boolean("u.has_text");
    let facts = session.dialect.json("u.facts");
    let sql = format!(
        "WITH {page} INSERT INTO stage_results (tenant_id, batch_id, ordinal, generation, stage, version_id, content, \
         media_type, token, nonce, artifacts, facts, warnings, used_bytes, used_pages, used_tokens, used_calls, skipped, \
         has_text, at{more_columns}) \
         SELECT u.t, u.b, u.o, u.g, u.stage, u.version, u.content, u.media_type, u.token, coalesce(u.nonce, ''), \
         u.artifacts, {facts}, u.warnings, u.used_bytes, u.used_pages, u.used_tokens, u.used_calls, {skipped}, \
         {has_text}, u.at{more_values} FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

fn result_page(rows: &[&ResultRow]) -> Page {
    Page::of_files(rows.iter().map(|row| row.file))
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
        .numbers("has_text", rows.iter().map(|row| i64::from(row.has_text)))
        .numbers("at", rows.iter().map(|row| row.at.0))
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

/// The results that a reader is shown: those of the newest generation that was finished, while a newer one is under
/// way (protocol 11.3: the old final record stays until the new one is written), else those of the current one.
pub(crate) async fn served<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[(FileRef, Generation)],
) -> Result<HashMap<FileRef, Vec<ResultRow>>, DbErr> {
    let mut found = of_generations(session, files).await?;
    let unfinished: Vec<FileRef> = files
        .iter()
        .filter(|(file, generation)| {
            let finished = found
                .get(file)
                .is_some_and(|results| results.iter().any(|row| row.stage == Stage::Metadata));
            *generation > Generation::FIRST && !finished
        })
        .map(|(file, _)| *file)
        .collect();
    let finished = newest_generation_with(session, &unfinished, Stage::Metadata).await?;
    let finished: Vec<(FileRef, Generation)> = finished.into_iter().collect();
    found.extend(of_generations(session, &finished).await?);
    Ok(found)
}

/// The newest generation of each file in which a stage left a result of its own or another's; a range of the key.
async fn newest_generation_with<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
    stage: Stage,
) -> Result<HashMap<FileRef, Generation>, DbErr> {
    let mut found = HashMap::new();
    if files.is_empty() {
        return Ok(found);
    }
    let (page, values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    // One scalar for each file: a group over the join would have its rows in order, and read all that come before.
    let sql = format!(
        "WITH {page} SELECT u.t AS tenant_id, u.b AS batch_id, CAST(u.o AS integer) AS ordinal, \
         (SELECT max(r.generation) FROM stage_results AS r WHERE r.tenant_id = u.t AND r.batch_id = u.b \
         AND r.ordinal = u.o AND r.stage + 0 = {}) AS generation FROM u",
        stage.code()
    );
    for row in session.rows(sql, values).await? {
        let generation: Option<i32> = row.try_get("", "generation")?;
        if let Some(generation) = generation {
            let generation = u32::try_from(generation).map_err(|_| damaged("generation"))?;
            found.insert(file_of(&row)?, Generation::new(generation));
        }
    }
    Ok(found)
}

/// The content that each file was last verified to have, whatever the generation.
pub(crate) async fn verified_contents<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<HashMap<FileRef, ResultRow>, DbErr> {
    let newest: Vec<(FileRef, Generation)> = newest_generation_with(session, files, Stage::Upload)
        .await?
        .into_iter()
        .collect();
    let results = of_generations(session, &newest).await?;
    let upload = |results: Vec<ResultRow>| {
        results
            .into_iter()
            .find(|result| result.stage == Stage::Upload)
    };
    Ok(results
        .into_iter()
        .filter_map(|(file, results)| upload(results).map(|result| (file, result)))
        .collect())
}

/// Content by tenant: nothing is ever taken over across tenants.
pub(crate) type TenantContent = (TenantId, [u8; 32]);

/// For each content a file of the tenant that holds it: one whose current generation has a verified upload. By index
/// `stage_results_held`.
pub(crate) async fn holders<C: ConnectionTrait>(
    session: &Session<'_, C>,
    contents: &[TenantContent],
) -> Result<HashMap<TenantContent, FileRef>, DbErr> {
    let mut found = HashMap::new();
    if contents.is_empty() {
        return Ok(found);
    }
    let page = Page::new()
        .uuids("t", contents.iter().map(|(tenant, _)| tenant.as_uuid()))
        .bytes(
            "content",
            contents.iter().map(|(_, content)| Some(content.to_vec())),
        );
    let (page, values) = page.bind(session.dialect, 1);
    let batch = session.dialect.uuid_text("r.batch_id");
    // One scalar, so that both databases stop at the first holder: content that thousands of files share costs no more.
    // The generation is one too, so that nobody begins with the files.
    let sql = format!(
        "WITH {page} SELECT u.t AS tenant_id, u.content, (SELECT {batch} || '/' || r.ordinal FROM stage_results AS r \
         WHERE r.tenant_id = u.t AND r.content = u.content AND r.stage = 1 AND r.generation = (SELECT w.generation \
         FROM file_work AS w WHERE w.tenant_id = r.tenant_id AND w.batch_id = r.batch_id AND w.ordinal = r.ordinal) \
         LIMIT 1) AS holder FROM u"
    );
    for row in session.rows(sql, values).await? {
        let Some(holder) = row.try_get::<Option<String>>("", "holder")? else {
            continue;
        };
        let tenant = tenant_of(&row)?;
        let content: Vec<u8> = row.try_get("", "content")?;
        let content: [u8; 32] = content.try_into().map_err(|_| damaged("content"))?;
        let file = holder
            .split_once('/')
            .and_then(|(batch, ordinal)| {
                let batch = Uuid::try_parse(batch).ok()?;
                Some(FileRef::new(
                    tenant,
                    BatchId::from_uuid(batch),
                    ordinal.parse().ok()?,
                ))
            })
            .ok_or_else(|| damaged("holder"))?;
        found.insert((tenant, content), file);
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// One execution of a stage, as its result names it.
pub(crate) type Execution = (FileRef, Generation, Token);

/// Which of these executions left the result of `stage`; by key.
pub(crate) async fn recorded<C: ConnectionTrait>(
    session: &Session<'_, C>,
    stage: Stage,
    executions: &[Execution],
) -> Result<HashSet<Execution>, DbErr> {
    let mut found = HashSet::new();
    if executions.is_empty() {
        return Ok(found);
    }
    let page = Page::of_files(executions.iter().map(|(file, _, _)| *file))
        .numbers(
            "g",
            executions
                .iter()
                .map(|(_, generation, _)| i64::from(generation.get())),
        )
        .numbers(
            "token",
            executions.iter().map(|(_, _, token)| signed(token.get())),
        )
        .numbers("stage", executions.iter().map(|_| i64::from(stage.code())));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT r.tenant_id, r.batch_id, r.ordinal, r.generation, r.token FROM u JOIN stage_results AS r \
         ON r.tenant_id = u.t AND r.batch_id = u.b AND r.ordinal = u.o AND r.generation = u.g AND r.stage = u.stage \
         AND r.token = u.token"
    );
    for row in session.rows(sql, values).await? {
        let generation = Generation::new(u32_of(&row, "generation")?);
        let token = Token::new(u64_of(&row, "token")?);
        found.insert((file_of(&row)?, generation, token));
    }
    Ok(found)
}
