//! `dead_letters` in groups: what failed, where and why.

use caudal_domain::{BatchId, FileRef, Reason, Stage, TenantId};
use sea_orm::{ConnectionTrait, DbErr, Value};

use super::dialect::Dialect;
use super::selection::{self, Selection};
use super::time::Micros;
use super::{Session, code_of, damaged, file_of, u32_of, u64_of};

/// Names of files shown of a group.
const SAMPLES: usize = 3;
/// Rows that one step of a walk reads.
const ROWS_A_STEP: u32 = 10_000;

/// FAILED files that share a reason and a stage.
#[derive(Clone, Debug)]
pub(crate) struct FailureGroup {
    pub(crate) reason: Reason,
    pub(crate) stage: Stage,
    pub(crate) count: u64,
    pub(crate) first: Micros,
    pub(crate) last: Micros,
    pub(crate) samples: Vec<FileRef>,
    /// What a provider said with one of them; empty for reasons of other kinds.
    pub(crate) detail: String,
}

/// Whose failures, where the columns of `dead_letters` alone decide.
#[derive(Clone, Debug, Default)]
pub(crate) struct Letters {
    pub(crate) tenant: Option<TenantId>,
    pub(crate) batch: Option<BatchId>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) before: Option<Micros>,
}

impl Letters {
    /// A selection of failures, if the columns of `dead_letters` are all it looks at.
    pub(crate) fn of(selection: &Selection) -> Option<Self> {
        let plain = selection.ordinals.is_empty()
            && selection.folder.is_none()
            && selection.glob.is_none()
            && selection.metadata.is_empty()
            && selection.undismissed;
        plain.then(|| Self {
            tenant: Some(selection.tenant),
            batch: selection.batch,
            stages: selection.stages.clone(),
            reasons: selection.reasons.clone(),
            before: selection.changed_before,
        })
    }

    fn conditions(&self, dialect: Dialect, values: &mut Vec<Value>) -> String {
        let mut text = "d.dismissed_at IS NULL".to_owned();
        let mut add = |condition: &str, value: Value| {
            values.push(value);
            text.push_str(&format!(" AND {condition} ${}", values.len()));
        };
        if let Some(tenant) = self.tenant {
            add("d.tenant_id =", tenant.as_uuid().into());
        }
        if let Some(batch) = self.batch {
            add("d.batch_id =", batch.as_uuid().into());
        }
        if let Some(before) = self.before {
            add("d.at <=", before.0.into());
        }
        let mut any = |column: &str, codes: Vec<i64>| {
            if !codes.is_empty() {
                values.push(dialect.numbers(codes));
                let is_among = dialect.is_among(column, values.len());
                text.push_str(&format!(" AND {is_among}"));
            }
        };
        let stages = self.stages.iter().map(|stage| stage.code().into());
        // The sums keep the planner on the order of the groups.
        any("d.stage + 0", stages.collect());
        let reasons = self.reasons.iter().map(|reason| reason.number().into());
        any("d.reason + 0", reasons.collect());
        text
    }
}

/// Groups in the order of their reasons and stages, without samples: of a batch by key, of a tenant by index
/// `dead_letters_groups`, of all by `dead_letters_all`.
pub(crate) async fn groups<C: ConnectionTrait>(
    session: &Session<'_, C>,
    letters: &Letters,
) -> Result<Vec<FailureGroup>, DbErr> {
    let mut values = Vec::new();
    let conditions = letters.conditions(session.dialect, &mut values);
    let sql = format!(
        "SELECT d.reason, d.stage, count(*) AS n, min(d.at) AS first, max(d.at) AS last FROM dead_letters AS d \
         WHERE {conditions} GROUP BY d.reason, d.stage ORDER BY d.reason, d.stage"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        let reason = u16::try_from(u32_of(&row, "reason")?)
            .ok()
            .and_then(Reason::from_number);
        found.push(FailureGroup {
            reason: reason.ok_or_else(|| damaged("reason"))?,
            stage: code_of(&row, "stage", Stage::from_code)?,
            count: u64_of(&row, "n")?,
            first: Micros(row.try_get("", "first")?),
            last: Micros(row.try_get("", "last")?),
            samples: Vec::new(),
            detail: String::new(),
        });
    }
    Ok(found)
}

/// Names some files of a group.
pub(crate) async fn add_samples<C: ConnectionTrait>(
    session: &Session<'_, C>,
    letters: &Letters,
    group: &mut FailureGroup,
) -> Result<(), DbErr> {
    let of_all = Letters {
        stages: Vec::new(),
        reasons: Vec::new(),
        ..letters.clone()
    };
    let mut values = Vec::new();
    let conditions = of_all.conditions(session.dialect, &mut values);
    values.push(i64::from(group.reason.number()).into());
    values.push(i64::from(group.stage.code()).into());
    let sql = format!(
        "SELECT d.tenant_id, d.batch_id, d.ordinal, d.detail FROM dead_letters AS d WHERE {conditions} AND d.reason = ${} \
         AND d.stage = ${} LIMIT {SAMPLES}",
        values.len() - 1,
        values.len()
    );
    for row in session.rows(sql, values).await? {
        group.samples.push(file_of(&row)?);
        if group.reason.is_for_operators() {
            group.detail = row.try_get("", "detail")?;
        }
    }
    Ok(())
}

/// The same for a selection that looks at more: by a walk over it.
pub(crate) async fn groups_by_walk<C: ConnectionTrait>(
    session: &Session<'_, C>,
    chosen: &Selection,
) -> Result<Vec<FailureGroup>, DbErr> {
    let mut found: Vec<FailureGroup> = Vec::new();
    let mut from = None;
    loop {
        let step = selection::next(session, chosen, from, ROWS_A_STEP, ROWS_A_STEP).await?;
        for row in step.rows {
            let Some(reason) = row.reason else { continue };
            let known = found
                .iter_mut()
                .find(|group| group.reason == reason && group.stage == row.stage);
            match known {
                Some(group) => {
                    group.count += 1;
                    group.first = group.first.min(row.changed_at);
                    group.last = group.last.max(row.changed_at);
                    if group.samples.len() < SAMPLES {
                        group.samples.push(row.file);
                    }
                }
                None => found.push(FailureGroup {
                    reason,
                    stage: row.stage,
                    count: 1,
                    first: row.changed_at,
                    last: row.changed_at,
                    samples: vec![row.file],
                    detail: String::new(),
                }),
            }
        }
        match step.next {
            Some(next) => from = Some(next),
            None => break,
        }
    }
    found.sort_by_key(|group| (group.reason.number(), group.stage.code()));
    Ok(found)
}
