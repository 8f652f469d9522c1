//! A lexicon of limits: each figure once, with where it comes from. Settings may lower most of them, none raises them.

use std::time::Duration;

const KIB: usize = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

// Pages and messages

/// Entries in one page of `AddEntries`. A call costs 26 µs whatever is in it; beyond a thousand entries nothing is gained
/// and the answer to a wrong page grows.
pub const MAX_ENTRIES_PER_PAGE: usize = 1000;
/// Folders that the paths of one page of `AddEntries` may imply, new or known: each is looked up and counted, and each new
/// one is a row, about as much work as a file. A page of a thousand files whose folders have four parents each that no
/// other file shares has so many.
pub const MAX_FOLDERS_PER_PAGE: usize = 4000;
/// Bytes of the paths of one page of `AddEntries`, those of the folders that they imply included: half of
/// [`MAX_MESSAGE_BYTES`], for the answer names the folders.
pub const MAX_PATH_BYTES_PER_PAGE: usize = 2 << 20;
/// Confirmations in one page of `ConfirmUploads`; as [`MAX_ENTRIES_PER_PAGE`].
pub const MAX_CONFIRMATIONS_PER_PAGE: usize = 1000;
/// Upload targets issued at once: each is a signed URL of about half a kilobyte that begins to expire when it is made.
pub const MAX_TARGETS_PER_PAGE: usize = 200;
/// The largest `page_size` of any list.
pub const MAX_PAGE_SIZE: usize = 1000;
/// The page size where the request says 0, of the lists that do not say another.
pub const DEFAULT_PAGE_SIZE: usize = 100;
/// Files leased, renewed, released or reported in one call of a stage process: all that it may hold, and far below
/// [`MAX_MESSAGE_BYTES`].
pub const MAX_FILES_PER_CALL: usize = 4096;
/// Events in one message of `WatchEvents`.
pub const MAX_EVENTS_PER_MESSAGE: usize = 500;
/// Field violations told of one request: enough to mend a page, small enough for the headers that carry a status.
pub const MAX_VIOLATIONS: usize = 100;
/// The largest gRPC message in and out: what clients of every language accept unless told otherwise.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;
/// Bytes after which a page of a list ends, whatever `page_size` says: half of [`MAX_MESSAGE_BYTES`], so that the last thing
/// of a page may be as large as the rest together.
pub const MAX_PAGE_BYTES: usize = 2 << 20;
/// The largest part of a snapshot: a quarter of [`MAX_MESSAGE_BYTES`], so that a slow line shows something early.
pub const MAX_SNAPSHOT_PART_BYTES: usize = 1 << 20;
/// Ordinals that one selector may list.
pub const MAX_ORDINALS_PER_SELECTOR: usize = 1000;

// Paths and names

/// Bytes in one part of a path: what ext4, NTFS and APFS allow for a name.
pub const MAX_PATH_PART_BYTES: usize = 255;
/// Bytes in a whole path: S3's bound for a key, so that an export can keep the path as its key.
pub const MAX_PATH_BYTES: usize = 1024;
/// Parts in a path: a folder counter touches every folder above a file, so this bounds the cost of one transition.
pub const MAX_PATH_DEPTH: usize = 64;
/// Characters in the display name of a batch.
pub const MAX_DISPLAY_NAME_CHARS: usize = 200;
/// Characters in the name of a tenant or of a key.
pub const MAX_ACCOUNT_NAME_CHARS: usize = 100;
/// Bytes of JSON that a client may attach to a batch.
pub const MAX_BATCH_METADATA_BYTES: usize = 16 * KIB;
/// Bytes of JSON that a client may attach to a file, whose record it becomes part of.
pub const MAX_ENTRY_METADATA_BYTES: usize = 4 * KIB;
/// Bytes in any object key: above about 160 the embedded S3 store cannot name the file that holds the ETag.
pub const MAX_KEY_BYTES: usize = 160;
/// Letters and digits in the nonce of an execution: 8 hex digits tell 4 billion executions of one token apart.
pub const MAX_NONCE_BYTES: usize = 8;
/// Bytes in an artifact's name: what is left of [`MAX_KEY_BYTES`] when every number before it is at its largest.
pub const MAX_ARTIFACT_NAME_BYTES: usize = 18;

// Files and uploads

/// The largest file: S3's largest object. Tenants may have lower limits of their own.
pub const MAX_FILE_BYTES: u64 = 5 * TIB;
/// The most files of one batch; ordinals and counters are 32-bit, the bound keeps a recount to seconds.
pub const MAX_FILES_PER_BATCH: u32 = 10_000_000;
/// The most folders of one batch: as [`MAX_FILES_PER_BATCH`].
pub const MAX_FOLDERS_PER_BATCH: u32 = 10_000_000;
/// Files of more than this go up in parts of this size, or of larger ones: below it, one PUT that fails costs less than the
/// extra calls.
pub const MULTIPART_THRESHOLD_BYTES: u64 = 16 * MIB;
/// How many URLs of parts are given at once: they expire, and the next are asked for when these are used.
pub const MAX_PARTS_PER_TARGET: usize = 64;
/// What one PUT carries: S3's rule.
pub const MAX_PUT_BYTES: u64 = 5 * GIB;
/// How long a batch waits for bytes after the last act of a client: then the store is asked, and what is not there is given
/// up (protocol 12.3).
pub const UPLOAD_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an issued URL is valid. What is sent to it has to begin within that time, and clients ask again where it has not:
/// short, because nobody takes back what a key that was revoked, or a batch that was cancelled, was given.
pub const UPLOAD_URL_VALIDITY: Duration = Duration::from_secs(15 * 60);
/// What a transfer that began while its URL was valid may still take: the slowest single PUT.
pub const UPLOAD_TRANSFER: Duration = Duration::from_secs(50 * 60);
/// An OPEN batch that nobody touched for so long is completed by the system.
pub const BATCH_IDLE_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

// Uploads through gateways (tus)

/// How long the right to write to an upload holds without renewal: what an upload stands still for after its gateway was
/// killed, and clients try again for longer.
pub const TUS_LOCK: Duration = Duration::from_secs(8);
/// How long an upload may rest before it is given up, as [`UPLOAD_DEADLINE`]; and how long one that is done can be asked about.
pub const TUS_LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest lifetime and the longest lock that a gateway may ask for.
pub const MAX_TUS_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// Uploads that one tenant may have under way: each may hold the bytes of a part that nothing else counts.
pub const MAX_TUS_UPLOADS: u32 = 10_000;
/// The least bytes of a part; larger uploads have larger parts, for they have ten thousand at most.
pub const TUS_PART_BYTES: u64 = 8 * MIB;
/// The largest part: a gateway holds one of each upload that it is sent.
pub const MAX_TUS_PART_BYTES: u64 = 32 * MIB;
/// The largest upload: ten thousand of the largest parts hold it. What is larger goes by presigned parts.
pub const MAX_TUS_BYTES: u64 = 312 * GIB;
/// Bytes of the metadata of an upload, as it is sent.
pub const MAX_TUS_METADATA_BYTES: usize = 8 * KIB;
/// Uploads that one concatenation may join.
pub const MAX_TUS_PARTIALS: usize = 100;

// Stages

/// Dispatches packed into one stream entry: an entry costs Redis 6.8 µs, at 32 that is little beside the rest, and one
/// process still does not take all the work (protocol 4.3).
pub const MAX_DISPATCHES_PER_ENTRY: usize = 32;
/// How long a lease holds without renewal (protocol 5.2). A process that pauses longer counts as lost.
pub const LEASE: Duration = Duration::from_secs(12);
/// How often everything held is renewed while one lease lives: two renewals may fail.
pub const RENEWALS_PER_LEASE: u32 = 3;
/// The facts of one stage result as JSON: they travel with later leases; what is larger belongs in an artifact.
pub const MAX_FACTS_BYTES: usize = 64 * KIB;
/// Artifacts of one stage result.
pub const MAX_ARTIFACTS_PER_RESULT: usize = 16;
/// Warnings of one stage result.
pub const MAX_WARNINGS_PER_RESULT: usize = 32;
/// Characters of a failure's detail that are kept.
pub const MAX_DETAIL_CHARS: usize = 500;

// Calls and watching

/// How long the answer to a request id is kept.
pub const REQUEST_ID_RETENTION: Duration = Duration::from_secs(24 * 60 * 60);
/// How long an operation that has ended can still be asked about.
pub const OPERATION_RETENTION: Duration = Duration::from_secs(7 * 24 * 60 * 60);
/// The longest that `WaitOperation` waits: below what gateways give a call.
pub const MAX_OPERATION_WAIT: Duration = Duration::from_secs(20);
/// The longest life of a watch stream; it says goodbye and the client resumes.
pub const MAX_WATCH_AGE: Duration = Duration::from_secs(60 * 60);
/// Values in the caller's metadata by which files are chosen at once.
pub const MAX_METADATA_MATCHES: usize = 4;
/// Names that lead to such a value.
pub const MAX_METADATA_PATH: usize = 8;
/// Characters in which a client says why it left a file out.
pub const MAX_CAUSE_CHARS: usize = 500;
/// A watch of a batch of which nothing else is told says so often that it is alive.
pub const WATCH_SIGN_OF_LIFE: Duration = Duration::from_secs(15);
/// The least time between two messages to one watcher: ten a second is what an eye can follow.
pub const MIN_WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Dispatched rows younger than this are left alone by the reconciler: their dispatch may still be on its way.
pub const RECONCILE_AGE: Duration = Duration::from_secs(5);
/// Batches that a tenant may have OPEN at once, where it has no limit of its own.
pub const OPEN_BATCHES: u64 = 1_000;
/// Bulk operations of a tenant that may run at once, where it has no limit of its own.
pub const RUNNING_OPERATIONS: u64 = 64;
/// Streams that a tenant may have open at once at a gateway, where it has no limit of its own.
pub const STREAMS_AT_ONCE: u32 = 1_000;
/// Lists, counts and failures of files that a tenant may have read at once at a gateway, where it has no limit of its own.
pub const EXPENSIVE_READS_AT_ONCE: u32 = 16;
/// Streams that may be open at once with one upload token at a gateway.
pub const STREAMS_OF_A_TOKEN: u32 = 8;
/// Good keys that a tenant may have, or operators.
pub const MAX_GOOD_KEYS: u64 = 1_000;
/// Good keys that may be there after a rotation: a key that is replaced can be so when there are as many as there may be.
pub const MAX_GOOD_KEYS_ROTATED: u64 = 2 * MAX_GOOD_KEYS;
/// Good upload tokens that a tenant may have.
pub const MAX_GOOD_TOKENS: u64 = 10_000;
/// How long an old key works beside the one that replaces it, where nothing is said, and at most.
pub const KEY_OVERLAP: Duration = Duration::from_secs(60 * 60);
/// The longest overlap of two keys.
pub const MAX_KEY_OVERLAP: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// The longest life of a key that ends by itself: ten years.
pub const MAX_KEY_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);
/// The shortest life of a key.
pub const MIN_KEY_LIFETIME: Duration = Duration::from_secs(60);
/// The longest life of an upload token.
pub const MAX_UPLOAD_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How exactly the last use of a key is known: it is written that seldom.
pub const KEY_USE_EVERY: Duration = Duration::from_secs(10 * 60);
/// The largest weight of a tenant.
pub const MAX_TENANT_WEIGHT: u32 = 100;
