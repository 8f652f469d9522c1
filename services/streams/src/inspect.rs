//! What a stream holds, for the reconciler: it compares this with the rows of the database.

use std::collections::HashMap;
use std::time::Duration;

use caudal_domain::Stage;
use redis::aio::ConnectionManager;
use redis::{RedisResult, Value};

use crate::entry::{Entry, RawEntry, id_key};
use crate::error::{StreamsError, says_no_group};
use crate::lane::Lane;
use crate::names::Names;

/// Entries asked for in one round trip.
const PAGE: usize = 1_000;
/// Entries, and pending ids, that one look takes in at most. A stream holds a few seconds of work, so this is far above
/// what is ever there; beyond it the view is marked as truncated.
pub const INSPECT_LIMIT: usize = 65_536;

/// Who holds an entry, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// Name of the consumer it was delivered to.
    pub consumer: String,
    /// Time since the delivery.
    pub idle: Duration,
}

/// Where an entry of a view stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing<'a> {
    /// Waits in the stream for a reader.
    Undelivered,
    /// Was delivered and not acknowledged.
    Pending(&'a Pending),
    /// Was acknowledged but not deleted: nobody will ever get it. It counts as absent.
    Spent,
}

/// A look at one stage's streams.
#[derive(Debug, Clone, Default)]
pub struct StreamView {
    /// Entries, those of the express stream first, each stream's in order, delivered or not.
    pub entries: Vec<Entry>,
    /// Holders of the ids that were delivered and not acknowledged.
    pub pending: HashMap<String, Pending>,
    /// Ids that are pending but whose entry is gone: they count as absent and want to be removed.
    pub pending_without_entry: Vec<String>,
    /// The group does not exist on one of the streams.
    pub group_missing: bool,
    /// There was more than [`INSPECT_LIMIT`]: what is not in this view may stand in the stream all the same.
    pub truncated: bool,
    /// Up to which id each stream was delivered, where it has its group.
    last_delivered: HashMap<Lane, (u64, u64)>,
}

impl StreamView {
    /// Where an entry of this view stands.
    pub fn standing(&self, id: &str) -> Standing<'_> {
        if let Some(pending) = self.pending.get(id) {
            return Standing::Pending(pending);
        }
        let (lane, own) = Lane::of_id(id);
        match self.last_delivered.get(&lane) {
            Some(last) if id_key(own) <= *last => Standing::Spent,
            _ => Standing::Undelivered,
        }
    }
}

/// Reads the view. The order in each stream matters: what was delivered up to, then who holds what, then the entries. An entry published
/// in between is then undelivered, and one that is pending without an entry has truly lost it.
pub(crate) async fn inspect(
    manager: &ConnectionManager,
    names: &Names,
    stage: Stage,
) -> Result<StreamView, StreamsError> {
    let mut manager = manager.clone();
    let mut view = StreamView::default();
    let group = Names::group(stage);
    for lane in Lane::ALL {
        let stream = names.stream(stage, lane);
        match last_delivered(&mut manager, &stream, group).await? {
            Some(id) => {
                view.last_delivered.insert(lane, id_key(&id));
                read_pending(&mut manager, (&stream, lane), group, &mut view).await?;
            }
            None => view.group_missing = true,
        }
        read_entries(&mut manager, (&stream, lane), &mut view).await?;
    }
    if !view.truncated {
        let entries: std::collections::HashSet<&str> =
            view.entries.iter().map(|entry| entry.id.as_str()).collect();
        view.pending_without_entry = view
            .pending
            .keys()
            .filter(|id| !entries.contains(id.as_str()))
            .cloned()
            .collect();
    }
    Ok(view)
}

/// The id up to which the group was delivered, or nothing when there is no such stream or group.
async fn last_delivered(
    manager: &mut ConnectionManager,
    stream: &str,
    group: &str,
) -> Result<Option<String>, StreamsError> {
    let answer: RedisResult<Vec<HashMap<String, Value>>> = redis::cmd("XINFO")
        .arg("GROUPS")
        .arg(stream)
        .query_async(manager)
        .await;
    let groups = match answer {
        Ok(groups) => groups,
        Err(error)
            if error
                .detail()
                .is_some_and(|detail| detail.contains("no such key")) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    for mut facts in groups {
        let name: String = field(&mut facts, "name")?;
        if name == group {
            return Ok(Some(field(&mut facts, "last-delivered-id")?));
        }
    }
    Ok(None)
}

fn field(facts: &mut HashMap<String, Value>, name: &str) -> Result<String, StreamsError> {
    let value = facts.remove(name).unwrap_or(Value::Nil);
    redis::from_redis_value(value).map_err(|error| StreamsError::Answer(error.into()))
}

async fn read_pending(
    manager: &mut ConnectionManager,
    (stream, lane): (&str, Lane),
    group: &str,
    view: &mut StreamView,
) -> Result<(), StreamsError> {
    let mut start = "-".to_owned();
    loop {
        let answer: RedisResult<Vec<(String, String, u64, u64)>> = redis::cmd("XPENDING")
            .arg(stream)
            .arg(group)
            .arg(&start)
            .arg("+")
            .arg(PAGE)
            .query_async(manager)
            .await;
        let page = match answer {
            Ok(page) => page,
            Err(error) if says_no_group(&error) => {
                view.group_missing = true;
                view.last_delivered.remove(&lane);
                view.pending.retain(|id, _| Lane::of_id(id).0 != lane);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let Some((last, ..)) = page.last() else {
            return Ok(());
        };
        start = format!("({last}");
        let page_is_full = page.len() == PAGE;
        for (id, consumer, idle_ms, _deliveries) in page {
            view.pending.insert(
                lane.mark(&id),
                Pending {
                    consumer,
                    idle: Duration::from_millis(idle_ms),
                },
            );
        }
        if !page_is_full {
            return Ok(());
        }
        if view.pending.len() >= INSPECT_LIMIT {
            view.truncated = true;
            return Ok(());
        }
    }
}

async fn read_entries(
    manager: &mut ConnectionManager,
    (stream, lane): (&str, Lane),
    view: &mut StreamView,
) -> Result<(), StreamsError> {
    let mut start = "-".to_owned();
    loop {
        let page: Vec<RawEntry> = redis::cmd("XRANGE")
            .arg(stream)
            .arg(&start)
            .arg("+")
            .arg("COUNT")
            .arg(PAGE)
            .query_async(manager)
            .await?;
        let Some(last) = page.last() else {
            return Ok(());
        };
        start = format!("({}", last.id);
        let page_is_full = page.len() == PAGE;
        view.entries.extend(
            page.into_iter()
                .filter_map(|raw| raw.decode_unless_deleted(lane)),
        );
        if !page_is_full {
            return Ok(());
        }
        if view.entries.len() >= INSPECT_LIMIT {
            view.truncated = true;
            return Ok(());
        }
    }
}
