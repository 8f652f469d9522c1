//! What every part needs: stages that do nothing, tenants with clients, batches of small files, and stages that are held until
//! everything waits.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use caudal_proto::v1;
use caudal_sdk::{Client, Whose};
use tokio::task::JoinSet;

use crate::mesh::{Crew, Mesh, Plan, Work};
use crate::way::FILE_BYTES;

/// Handlers at once of a stage that does nothing, and what it reads ahead: as the product's quick stages.
pub(super) const SLOTS: usize = 32;
pub(super) const PREFETCH: usize = 512;
/// What the product's slow stages read ahead beyond their slots.
const SLOW_READ_AHEAD: usize = 2;
/// How often a small batch is looked at: a tenant may call two hundred times a second.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How often a stage is looked at.
const STAGE_LOOK_EVERY: Duration = Duration::from_millis(100);
/// What stands still for so long has stopped.
const PATIENCE: Duration = Duration::from_secs(300);
/// Tenants that are made at once.
const MADE_AT_ONCE: usize = 8;
/// The limit of a page of entries.
const LARGEST_PAGE: u32 = 1_000;

/// A stage that does nothing.
pub(super) fn quick(stage: Stage) -> Crew {
    Crew {
        stage,
        replicas: 1,
        work: Work::Null {
            slots: SLOTS,
            prefetch: PREFETCH,
            more: Vec::new(),
        },
    }
}

/// A stage that waits so long for each file.
pub(super) fn waits(stage: Stage, replicas: usize, slots: usize, wait: Duration) -> Crew {
    let more = vec!["--wait-ms".to_owned(), wait.as_millis().to_string()];
    Crew {
        stage,
        replicas,
        work: Work::Null {
            slots,
            prefetch: slots + SLOW_READ_AHEAD,
            more,
        },
    }
}

/// The stages of documents, all of which do nothing but those that are given.
pub(super) fn documents(others: &[Crew]) -> Plan {
    let route = caudal_domain::route(caudal_domain::MediaKind::Document);
    let crew = |stage: &Stage| {
        let other = others.iter().find(|crew| crew.stage == *stage);
        other.cloned().unwrap_or_else(|| quick(*stage))
    };
    let mut crews: Vec<Crew> = route.iter().map(crew).collect();
    let beside = others.iter().filter(|crew| !route.contains(&crew.stage));
    crews.extend(beside.cloned());
    Plan {
        crews,
        has_store: false,
    }
}

/// A tenant, and the key of a member.
#[derive(Debug, Clone)]
pub(super) struct Tenant {
    /// As the database keys its rows.
    pub(super) id: uuid::Uuid,
    key: String,
}

impl Tenant {
    pub(super) async fn client(&self, mesh: &Mesh) -> anyhow::Result<Client> {
        mesh.client_with(&self.key).await
    }
}

/// Makes tenants of these weights, in their order.
pub(super) async fn tenants(mesh: &Mesh, weights: &[u32]) -> anyhow::Result<Vec<Tenant>> {
    let operator = mesh.operator().await?;
    let mut making = JoinSet::new();
    let mut made = Vec::with_capacity(weights.len());
    for (number, weight) in weights.iter().enumerate() {
        if making.len() >= MADE_AT_ONCE
            && let Some(tenant) = making.join_next().await
        {
            made.push(tenant??);
        }
        making.spawn(tenant(operator.clone(), number, *weight));
    }
    while let Some(tenant) = making.join_next().await {
        made.push(tenant??);
    }
    made.sort_unstable_by_key(|(number, _)| *number);
    Ok(made.into_iter().map(|(_, tenant)| tenant).collect())
}

async fn tenant(operator: Client, number: usize, weight: u32) -> anyhow::Result<(usize, Tenant)> {
    let wanted = v1::Tenant {
        display_name: format!("tenant {number}"),
        weight,
        ..v1::Tenant::default()
    };
    let name = operator.create_tenant(wanted).await?.name;
    let id = name.trim_start_matches("tenants/").parse()?;
    let key = v1::CreateApiKeyRequest {
        display_name: "bench".to_owned(),
        role: v1::KeyRole::Member.into(),
        ..v1::CreateApiKeyRequest::default()
    };
    let key = operator.create_api_key(&Whose::Tenant(name), key).await?;
    let tenant = Tenant {
        id,
        key: key.secret,
    };
    Ok((number, tenant))
}

/// A whole batch of small files, all confirmed; its name. Their names end so.
pub(super) async fn drop_files(client: &Client, files: u32, ends: &str) -> anyhow::Result<String> {
    let batch = client.create_batch(v1::Batch::default()).await?.name;
    for from in (0..files).step_by(LARGEST_PAGE as usize) {
        let entry = |number| v1::Entry {
            path: format!(
                "folder-{:03}/file-{number:07}.{ends}",
                number / LARGEST_PAGE
            ),
            kind: Some(v1::entry::Kind::File(v1::FileEntry {
                size: FILE_BYTES,
                ..v1::FileEntry::default()
            })),
        };
        let entries: Vec<v1::Entry> = (from..files.min(from + LARGEST_PAGE)).map(entry).collect();
        let count = u32::try_from(entries.len())?;
        let added = client.add_entries(&batch, entries).await?;
        ensure!(added.new_count == count, "{added:?}");
        let ordinals = added.first_ordinal..added.first_ordinal + count;
        let taken = client
            .confirm_uploads(&batch, crate::way::confirmations(ordinals))
            .await?;
        let is_taken =
            |one: &v1::Confirmation| matches!(one.result, Some(v1::confirmation::Result::State(_)));
        ensure!(taken.iter().all(is_taken), "a confirmation was refused");
    }
    let wait = v1::MissingFiles::Wait;
    client.complete_batch(&batch, wait, files).await?;
    Ok(batch)
}

/// How long a batch of so many small files takes, from its making to its end.
pub(super) async fn time_of(client: &Client, files: u32) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    let batch = drop_files(client, files, "txt").await?;
    ended(client, &batch).await?;
    Ok(begun.elapsed())
}

/// Waits until a batch has ended, in whatever way.
pub(super) async fn ended(client: &Client, batch: &str) -> anyhow::Result<v1::Batch> {
    let begun = Instant::now();
    loop {
        let now = client.get_batch(batch).await?;
        if matches!(
            now.state(),
            v1::BatchState::Succeeded | v1::BatchState::Failed | v1::BatchState::Cancelled
        ) {
            return Ok(now);
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the batch stands still: {now:?}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Takes what is left of a batch back, and waits for its end.
pub(super) async fn take_back(client: &Client, batch: &str) -> anyhow::Result<()> {
    client.cancel_batch(batch).await?;
    ended(client, batch).await?;
    Ok(())
}

/// Nothing new is begun at a stage until [`go_on`].
pub(super) async fn hold(operator: &Client, stage: Stage) -> anyhow::Result<()> {
    set_pause(operator, stage, Some(v1::StagePause::default())).await
}

/// What was held goes on.
pub(super) async fn go_on(operator: &Client, stage: Stage) -> anyhow::Result<()> {
    set_pause(operator, stage, None).await
}

/// So many files may be out at a stage at once.
pub(super) async fn set_window(operator: &Client, stage: Stage, files: u32) -> anyhow::Result<()> {
    let wanted = v1::Stage {
        max_files: files,
        ..v1::Stage::default()
    };
    set(operator, stage, wanted, "max_files").await
}

async fn set_pause(
    operator: &Client,
    stage: Stage,
    pause: Option<v1::StagePause>,
) -> anyhow::Result<()> {
    let wanted = v1::Stage {
        pause,
        ..v1::Stage::default()
    };
    set(operator, stage, wanted, "pause").await
}

async fn set(operator: &Client, stage: Stage, wanted: v1::Stage, path: &str) -> anyhow::Result<()> {
    let name = stage.name().to_owned();
    let wanted = v1::Stage { name, ..wanted };
    operator.update_stage(wanted, vec![path.to_owned()]).await?;
    Ok(())
}

/// Waits until so many files wait for a stage or are out there.
pub(super) async fn until_waiting(
    operator: &Client,
    stage: Stage,
    files: u32,
) -> anyhow::Result<()> {
    until_stage(operator, stage, |there| there >= files).await
}

/// Waits until nothing waits for a stage or is out there.
pub(super) async fn until_none_waits(operator: &Client, stage: Stage) -> anyhow::Result<()> {
    until_stage(operator, stage, |there| there == 0).await
}

async fn until_stage(
    operator: &Client,
    stage: Stage,
    is_so: impl Fn(u32) -> bool,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let stages = operator.list_stages().await?.stages;
        let found = stages.iter().find(|one| one.name == stage.name());
        let found = found.with_context(|| format!("no {stage}"))?;
        if is_so(found.waiting + found.dispatched) {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "what waits for {stage} does not change as it should: {found:?}"
        );
        tokio::time::sleep(STAGE_LOOK_EVERY).await;
    }
}

/// In seconds, to the millisecond.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e3).round() / 1e3
}

/// Waits until so many files of a batch are done.
pub(super) async fn until_processed(
    client: &Client,
    batch: &str,
    files: u32,
) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let now = client.get_batch(batch).await?;
        if now.counts.unwrap_or_default().processed >= files {
            return Ok(());
        }
        ensure!(
            begun.elapsed() < PATIENCE,
            "the batch stands still: {batch}"
        );
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
