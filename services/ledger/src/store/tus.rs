//! `tus_uploads`: uploads that come in pieces through gateways.

use caudal_domain::{BatchId, TenantId};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;

use super::time::Micros;
use super::{Session, code_of, damaged, signed, tenant_of, u64_of, uuid_of};

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TusState {
    /// Bytes are missing.
    Open = 1,
    /// All bytes are in the store, and are being made the file.
    Whole = 2,
    /// Nothing is left to do.
    Done = 3,
}

impl TusState {
    fn from_code(code: u8) -> Option<Self> {
        [Self::Open, Self::Whole, Self::Done]
            .into_iter()
            .find(|state| *state as u8 == code)
    }
}

/// One row of `tus_uploads`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TusRow {
    pub(crate) tenant: TenantId,
    pub(crate) id: Uuid,
    pub(crate) batch: Option<BatchId>,
    pub(crate) ordinal: Option<u32>,
    pub(crate) length: Option<u64>,
    pub(crate) received: u64,
    pub(crate) state: TusState,
    /// The fence: rises with each right to write that is given.
    pub(crate) lock: u64,
    /// One that is whole keeps the time when the right to write was given back.
    pub(crate) locked_until: Option<Micros>,
    pub(crate) expires_at: Micros,
    /// What gateways must know, encoded.
    pub(crate) facts: Vec<u8>,
}

const COLUMNS: &str = "t.tenant_id, t.upload_id, t.batch_id, t.ordinal, t.length, t.received, t.state, t.lock_number, \
    t.locked_until, t.expires_at, t.facts";

impl TusRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let ordinal: Option<i32> = row.try_get("", "ordinal")?;
        let length: Option<i64> = row.try_get("", "length")?;
        Ok(Self {
            tenant: tenant_of(row)?,
            id: uuid_of(row, "upload_id")?,
            batch: row
                .try_get::<Option<Uuid>>("", "batch_id")?
                .map(BatchId::from_uuid),
            ordinal: ordinal
                .map(|ordinal| u32::try_from(ordinal).map_err(|_| damaged("ordinal")))
                .transpose()?,
            length: length
                .map(|length| u64::try_from(length).map_err(|_| damaged("length")))
                .transpose()?,
            received: u64_of(row, "received")?,
            state: code_of(row, "state", TusState::from_code)?,
            lock: u64_of(row, "lock_number")?,
            locked_until: row.try_get::<Option<i64>>("", "locked_until")?.map(Micros),
            expires_at: Micros(row.try_get("", "expires_at")?),
            facts: row.try_get("", "facts")?,
        })
    }

    /// When somebody must look after it: one that is whole as soon as nobody writes any more.
    fn due_at(&self) -> Micros {
        match (self.state, self.locked_until) {
            (TusState::Whole, Some(until)) => until,
            _ => self.expires_at,
        }
    }
}

/// One upload by key.
pub(crate) async fn get<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<TusRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tus_uploads AS t WHERE t.tenant_id = $1 AND t.upload_id = $2"
    );
    let row = session
        .row(sql, vec![tenant.as_uuid().into(), id.into()])
        .await?;
    row.map(|row| TusRow::read(&row)).transpose()
}

/// One upload by key, locked until the transaction ends.
pub(crate) async fn lock<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    id: Uuid,
) -> Result<Option<TusRow>, DbErr> {
    let lock = session.dialect.for_update();
    let sql = format!(
        "SELECT {COLUMNS} FROM tus_uploads AS t WHERE t.tenant_id = $1 AND t.upload_id = $2{lock}"
    );
    let row = session
        .row(sql, vec![tenant.as_uuid().into(), id.into()])
        .await?;
    row.map(|row| TusRow::read(&row)).transpose()
}

/// Writes an upload that was looked for under a lock, or was not there.
pub(crate) async fn put<C: ConnectionTrait>(
    session: &Session<'_, C>,
    row: &TusRow,
) -> Result<(), DbErr> {
    let sql = "INSERT INTO tus_uploads (tenant_id, upload_id, batch_id, ordinal, length, received, state, lock_number, \
               locked_until, expires_at, due_at, facts) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
               ON CONFLICT (tenant_id, upload_id) DO UPDATE SET ordinal = excluded.ordinal, length = excluded.length, \
               received = excluded.received, state = excluded.state, lock_number = excluded.lock_number, \
               locked_until = excluded.locked_until, expires_at = excluded.expires_at, due_at = excluded.due_at, \
               facts = excluded.facts";
    let ordinal = row
        .ordinal
        .map(|ordinal| i32::try_from(ordinal).unwrap_or(i32::MAX));
    let values: Vec<Value> = vec![
        row.tenant.as_uuid().into(),
        row.id.into(),
        row.batch.map(|batch| batch.as_uuid()).into(),
        ordinal.into(),
        row.length.map(signed).into(),
        signed(row.received).into(),
        i32::from(row.state as u8).into(),
        signed(row.lock).into(),
        row.locked_until.map(|until| until.0).into(),
        row.expires_at.0.into(),
        row.due_at().0.into(),
        row.facts.clone().into(),
    ];
    session.execute(sql, values).await?;
    Ok(())
}

/// Forgets an upload.
pub(crate) async fn delete<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    id: Uuid,
) -> Result<(), DbErr> {
    let sql = "DELETE FROM tus_uploads WHERE tenant_id = $1 AND upload_id = $2";
    session
        .execute(sql, vec![tenant.as_uuid().into(), id.into()])
        .await?;
    Ok(())
}

/// What a tenant has under way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnderWay {
    pub(crate) uploads: u64,
    /// Bytes that stand in no manifest, and so in no quota.
    pub(crate) bytes: u64,
}

/// What a tenant has under way; by index `tus_uploads_open`.
pub(crate) async fn under_way<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
) -> Result<UnderWay, DbErr> {
    let sql = "SELECT COUNT(*) AS uploads, CAST(COALESCE(SUM(CASE WHEN t.ordinal IS NULL \
               THEN COALESCE(t.length, t.received) ELSE 0 END), 0) AS bigint) AS bytes \
               FROM tus_uploads AS t WHERE t.tenant_id = $1 AND t.state < 3";
    let row = session.row(sql, vec![tenant.as_uuid().into()]).await?;
    let Some(row) = row else {
        return Ok(UnderWay::default());
    };
    Ok(UnderWay {
        uploads: u64_of(&row, "uploads")?,
        bytes: u64_of(&row, "bytes")?,
    })
}

/// Uploads of all tenants that somebody must look after and nobody does; by index `tus_uploads_due`.
pub(crate) async fn due<C: ConnectionTrait>(
    session: &Session<'_, C>,
    now: Micros,
    limit: u32,
) -> Result<Vec<TusRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM tus_uploads AS t WHERE t.due_at <= $1 ORDER BY t.due_at LIMIT {limit}"
    );
    session
        .rows(sql, vec![now.0.into()])
        .await?
        .iter()
        .map(TusRow::read)
        .collect()
}
