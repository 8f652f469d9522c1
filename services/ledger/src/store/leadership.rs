//! `leadership`: the one row under which a ledger leads and its groups stand.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbErr};
use uuid::Uuid;

use super::requests::{self, AnsweredRequest, RequestName};
use super::time::Micros;
use super::{Session, signed, u64_of};

/// Takes the leadership if its term has ended, or in any case: the epoch that every group of this ledger then stands
/// under. `None`: another ledger leads.
pub(crate) async fn take<C: ConnectionTrait>(
    session: &Session<'_, C>,
    holder: &str,
    address: &str,
    term: Duration,
    whatever_the_term: bool,
) -> Result<Option<u64>, DbErr> {
    let now = session.dialect.now();
    let sql = format!(
        "UPDATE leadership SET epoch = epoch + 1, holder = $1, address = $2, until = {now} + $3 \
         WHERE id = 1 AND (until < {now} OR $4)"
    );
    let values = vec![
        holder.into(),
        address.into(),
        micros_of(term).into(),
        whatever_the_term.into(),
    ];
    if session.execute(sql, values).await? == 0 {
        return Ok(None);
    }
    let row = session
        .row("SELECT epoch FROM leadership WHERE id = 1", Vec::new())
        .await?;
    let row = row
        .ok_or_else(|| DbErr::Custom("the leadership row is missing: run the migrations".into()))?;
    u64_of(&row, "epoch").map(Some)
}

/// Makes the term last on; whether `epoch` still leads. With no group in flight, because
/// groups hold the row shared (protocol 9.1).
pub(crate) async fn renew<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
    term: Duration,
) -> Result<bool, DbErr> {
    let sql = format!(
        "UPDATE leadership SET until = {} + $2 WHERE id = 1 AND epoch = $1",
        session.dialect.now()
    );
    let epoch = signed(epoch);
    Ok(session
        .execute(sql, vec![epoch.into(), micros_of(term).into()])
        .await?
        > 0)
}

/// Ends the term now, so that another ledger takes over at once.
pub(crate) async fn give_back<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
) -> Result<(), DbErr> {
    let sql = format!(
        "UPDATE leadership SET until = {} WHERE id = 1 AND epoch = $1",
        session.dialect.now()
    );
    session.execute(sql, vec![signed(epoch).into()]).await?;
    Ok(())
}

/// Where the ledger that leads is reached; empty when its term has ended unrenewed, for then it may be dead.
pub(crate) async fn leader_address<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<String, DbErr> {
    let sql = format!(
        "SELECT address FROM leadership WHERE id = 1 AND until >= {}",
        session.dialect.now()
    );
    let row = session.row(sql, Vec::new()).await?;
    row.map_or(Ok(String::new()), |row| row.try_get("", "address"))
}

fn micros_of(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// What a group begins with.
pub(crate) struct Beginning {
    /// The database's time.
    pub(crate) now: Micros,
    /// Those of its requests that were answered before.
    pub(crate) answered: Vec<(RequestName, AnsweredRequest)>,
}

/// Begins a group, if `epoch` still leads (protocol 1.1); `None` when another ledger does. The row stays locked, shared,
/// until the transaction ends. In the same statement, for it is one way to the database and back: what `requests` were
/// answered before, by key.
pub(crate) async fn begin<C: ConnectionTrait>(
    session: &Session<'_, C>,
    epoch: u64,
    requests: &[RequestName],
) -> Result<Option<Beginning>, DbErr> {
    let now = session.dialect.now();
    let share = session.dialect.for_share_of("l");
    let mut values = vec![signed(epoch).into()];
    let sql = if requests.is_empty() {
        format!("SELECT {now} AS now FROM leadership AS l WHERE l.id = 1 AND l.epoch = $1{share}")
    } else {
        let columns = requests::ANSWERED_COLUMNS;
        let (page, names) = requests::page_of(requests.iter()).bind(session.dialect, 2);
        values.extend(names);
        format!(
            "WITH {page} SELECT {now} AS now, {columns} FROM leadership AS l LEFT JOIN (u JOIN requests AS r \
             ON r.tenant_id = u.t AND r.request_id = u.id) ON 1 = 1 WHERE l.id = 1 AND l.epoch = $1{share}"
        )
    };
    let rows = session.rows(sql, values).await?;
    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let now = Micros(first.try_get("", "now")?);
    let mut answered = Vec::new();
    if !requests.is_empty() {
        for row in &rows {
            if row.try_get::<Option<Uuid>>("", "request_id")?.is_some() {
                answered.push(requests::read(row)?);
            }
        }
    }
    Ok(Some(Beginning { now, answered }))
}
