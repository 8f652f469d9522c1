//! `folders` and `files`: the tree under a batch.

use std::collections::{HashMap, HashSet};

use caudal_domain::{BatchRef, FileRef, FolderCounts};
use sea_orm::{ConnectionTrait, DbErr, QueryResult};

use super::page::Page;
use super::time::Micros;
use super::{Session, batch_key_of, damaged, file_of, signed, u32_of, u64_of};
use crate::likeness::{FileKind, Likeness};

/// One row of `folders`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FolderRow {
    pub(crate) folder: u32,
    /// Root first, without itself.
    pub(crate) ancestors: Vec<u32>,
    pub(crate) path: String,
    pub(crate) counts: FolderCounts,
}

/// One row of `files`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FileRow {
    pub(crate) file: FileRef,
    pub(crate) folder: u32,
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) declared_sha256: Option<Vec<u8>>,
    pub(crate) metadata: Option<String>,
    pub(crate) modified_at: Option<Micros>,
    pub(crate) created_at: Micros,
    /// The id of the upload token that it was added with.
    pub(crate) added_by: Option<String>,
}

impl FileRow {
    /// What is known of it before anybody has looked into it.
    pub(crate) fn likeness(&self) -> Likeness {
        Likeness {
            kind: FileKind::of_name(&self.name),
            size: self.size,
        }
    }
}

const FOLDER_COLUMNS: &str =
    "d.folder, d.ancestors, d.path, d.total, d.processed, d.failed, d.cancelled";

impl FolderRow {
    fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let packed: Vec<u8> = row.try_get("", "ancestors")?;
        let (numbers, rest) = packed.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(damaged("ancestors"));
        }
        Ok(Self {
            folder: u32_of(row, "folder")?,
            ancestors: numbers
                .iter()
                .map(|number| u32::from_le_bytes(*number))
                .collect(),
            path: row.try_get("", "path")?,
            counts: FolderCounts {
                total: u32_of(row, "total")?,
                processed: u32_of(row, "processed")?,
                failed: u32_of(row, "failed")?,
                cancelled: u32_of(row, "cancelled")?,
            },
        })
    }
}

fn pack(ancestors: &[u32]) -> Vec<u8> {
    ancestors
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

/// The folders of a batch that have one of these paths, by index `folders_path`.
pub(crate) async fn folders_by_path<C: ConnectionTrait>(
    session: &Session<'_, C>,
    batch: BatchRef,
    paths: &[&str],
) -> Result<HashMap<String, FolderRow>, DbErr> {
    let page = Page::of_batches(paths.iter().map(|_| batch))
        .texts("path", paths.iter().map(|path| Some((*path).to_owned())));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT {FOLDER_COLUMNS} FROM u JOIN folders AS d ON d.tenant_id = u.t AND d.batch_id = u.b \
         AND d.path = coalesce(u.path, '')"
    );
    let mut found = HashMap::new();
    for row in session.rows(sql, values).await? {
        let folder = FolderRow::read(&row)?;
        found.insert(folder.path.clone(), folder);
    }
    Ok(found)
}

/// Folders by number.
pub(crate) async fn folders<C: ConnectionTrait>(
    session: &Session<'_, C>,
    keys: &[(BatchRef, u32)],
) -> Result<Vec<(BatchRef, FolderRow)>, DbErr> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let page = Page::of_batches(keys.iter().map(|(batch, _)| *batch))
        .numbers("f", keys.iter().map(|(_, folder)| i64::from(*folder)));
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT d.tenant_id, d.batch_id, {FOLDER_COLUMNS} FROM u JOIN folders AS d ON d.tenant_id = u.t \
         AND d.batch_id = u.b AND d.folder = u.f"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push((batch_key_of(&row)?, FolderRow::read(&row)?));
    }
    Ok(found)
}

/// Folders of a batch from a number on, in order: a range of the key.
pub(crate) async fn folder_range<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
    from: u32,
    limit: u32,
) -> Result<Vec<FolderRow>, DbErr> {
    let sql = format!(
        "SELECT {FOLDER_COLUMNS} FROM folders AS d WHERE d.tenant_id = $1 AND d.batch_id = $2 AND d.folder >= $3 \
         ORDER BY d.folder LIMIT $4"
    );
    let from = i32::try_from(from).unwrap_or(i32::MAX);
    let values = vec![
        tenant.as_uuid().into(),
        batch.as_uuid().into(),
        from.into(),
        i64::from(limit).into(),
    ];
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(FolderRow::read)
        .collect()
}

/// Inserts folders.
pub(crate) async fn insert_folders<C: ConnectionTrait>(
    session: &Session<'_, C>,
    folders: &[(BatchRef, FolderRow)],
) -> Result<(), DbErr> {
    if folders.is_empty() {
        return Ok(());
    }
    let page = Page::of_batches(folders.iter().map(|(batch, _)| *batch))
        .numbers(
            "f",
            folders.iter().map(|(_, folder)| i64::from(folder.folder)),
        )
        .bytes(
            "ancestors",
            folders
                .iter()
                .map(|(_, folder)| Some(pack(&folder.ancestors))),
        )
        .texts(
            "path",
            folders.iter().map(|(_, folder)| Some(folder.path.clone())),
        );
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
         SELECT u.t, u.b, u.f, u.ancestors, u.path, 0, 0, 0, 0 FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Writes the counters of folders that were locked before.
pub(crate) async fn update_folders<C: ConnectionTrait>(
    session: &Session<'_, C>,
    folders: &[(BatchRef, u32, FolderCounts)],
) -> Result<(), DbErr> {
    if folders.is_empty() {
        return Ok(());
    }
    let page = Page::of_batches(folders.iter().map(|(batch, ..)| *batch))
        .numbers("f", folders.iter().map(|(_, folder, _)| i64::from(*folder)))
        .numbers(
            "total",
            folders.iter().map(|(.., counts)| i64::from(counts.total)),
        )
        .numbers(
            "processed",
            folders
                .iter()
                .map(|(.., counts)| i64::from(counts.processed)),
        )
        .numbers(
            "failed",
            folders.iter().map(|(.., counts)| i64::from(counts.failed)),
        )
        .numbers(
            "cancelled",
            folders
                .iter()
                .map(|(.., counts)| i64::from(counts.cancelled)),
        );
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE folders AS d SET total = u.total, processed = u.processed, failed = u.failed, \
         cancelled = u.cancelled FROM u WHERE d.tenant_id = u.t AND d.batch_id = u.b AND d.folder = u.f"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// A file that is in the manifest already.
#[derive(Clone, Debug)]
pub(crate) struct KnownFile {
    pub(crate) folder: u32,
    pub(crate) name: String,
    pub(crate) ordinal: u32,
    pub(crate) size: u64,
    pub(crate) declared_sha256: Option<Vec<u8>>,
    pub(crate) added_by: Option<String>,
}

/// The files of a batch that stand in one of these places (folder, name), by index `files_name`.
pub(crate) async fn known_files<C: ConnectionTrait>(
    session: &Session<'_, C>,
    batch: BatchRef,
    places: &[(u32, &str)],
) -> Result<Vec<KnownFile>, DbErr> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let page = Page::of_batches(places.iter().map(|_| batch))
        .numbers("f", places.iter().map(|(folder, _)| i64::from(*folder)))
        .texts(
            "name",
            places.iter().map(|(_, name)| Some((*name).to_owned())),
        );
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} SELECT f.folder, f.name, f.ordinal, f.size, f.declared_sha256, f.added_by FROM u JOIN files AS f \
         ON f.tenant_id = u.t AND f.batch_id = u.b AND f.folder = u.f AND f.name = u.name"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push(KnownFile {
            folder: u32_of(&row, "folder")?,
            name: row.try_get("", "name")?,
            ordinal: u32_of(&row, "ordinal")?,
            size: u64_of(&row, "size")?,
            declared_sha256: row.try_get("", "declared_sha256")?,
            added_by: row.try_get("", "added_by")?,
        });
    }
    Ok(found)
}

/// Which of these files were added with an upload token. That never changes.
pub(crate) async fn added_with<C: ConnectionTrait>(
    session: &Session<'_, C>,
    token: &str,
    files: &[FileRef],
) -> Result<HashSet<FileRef>, DbErr> {
    if files.is_empty() {
        return Ok(HashSet::new());
    }
    let page = Page::of_files(files.iter().copied());
    let (page, values) = page.bind(session.dialect, 1);
    // Asked for with who added them: a condition on that leads Postgres from the key where there are few files.
    let sql = format!(
        "WITH {page} SELECT f.tenant_id, f.batch_id, f.ordinal, f.added_by FROM u JOIN files AS f \
         ON f.tenant_id = u.t AND f.batch_id = u.b AND f.ordinal = u.o"
    );
    let mut added = HashSet::new();
    for row in session.rows(sql, values).await? {
        let added_by: Option<String> = row.try_get("", "added_by")?;
        if added_by.as_deref() == Some(token) {
            added.insert(file_of(&row)?);
        }
    }
    Ok(added)
}

/// Folder and size of the files of a batch between two ordinals, both included: a range of the key. The order asked for
/// keeps Postgres from the index of names, by which it would read the whole batch.
pub(crate) async fn file_span<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
    (first, last): (u32, u32),
) -> Result<Vec<(u32, u32, u64)>, DbErr> {
    let sql = "SELECT f.ordinal, f.folder, f.size FROM files AS f WHERE f.tenant_id = $1 AND f.batch_id = $2 \
               AND f.ordinal BETWEEN $3 AND $4 ORDER BY f.ordinal";
    let number = |ordinal: u32| i32::try_from(ordinal).unwrap_or(i32::MAX);
    let values = vec![
        tenant.as_uuid().into(),
        batch.as_uuid().into(),
        number(first).into(),
        number(last).into(),
    ];
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push((
            u32_of(&row, "ordinal")?,
            u32_of(&row, "folder")?,
            u64_of(&row, "size")?,
        ));
    }
    Ok(found)
}

/// Inserts files of a manifest page.
pub(crate) async fn insert_files<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRow],
) -> Result<(), DbErr> {
    if files.is_empty() {
        return Ok(());
    }
    let page = Page::of_files(files.iter().map(|row| row.file))
        .numbers("folder", files.iter().map(|row| i64::from(row.folder)))
        .texts("name", files.iter().map(|row| Some(row.name.clone())))
        .numbers("size", files.iter().map(|row| signed(row.size)))
        .bytes(
            "sha256",
            files.iter().map(|row| row.declared_sha256.clone()),
        )
        .texts("metadata", files.iter().map(|row| row.metadata.clone()))
        .nullable_numbers(
            "modified_at",
            files.iter().map(|row| row.modified_at.map(|at| at.0)),
        )
        .numbers("at", files.iter().map(|row| row.created_at.0))
        .texts("added_by", files.iter().map(|row| row.added_by.clone()));
    let (page, values) = page.alike_once().bind(session.dialect, 1);
    let metadata = session.dialect.json("u.metadata");
    let sql = format!(
        "WITH {page} INSERT INTO files (tenant_id, batch_id, ordinal, folder, name, size, declared_sha256, \
         metadata, modified_at, created_at, added_by) SELECT u.t, u.b, u.o, u.folder, u.name, u.size, u.sha256, \
         {metadata}, u.modified_at, u.at, u.added_by FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}
