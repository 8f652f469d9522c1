//! The claim-check store: bytes go to S3 and messages carry keys. Conditional reads and copies, so that what was confirmed
//! is what is read; URLs that fix what may be sent; bounded streams. The keys themselves are built elsewhere
//! (`caudal_domain::keys`); here a key is a `&str`.
//!
//! ETags are given and taken without their quotes or with them, and given back without ([`bare_etag`]).

mod checksums;
mod copy;
mod error;
mod multipart;
mod parts;
mod presign;
mod settings;
mod store;
mod stream;
mod urls;

pub use error::{ObjectError, StoreTrouble};
pub use multipart::{PartTag, UploadedPart};
pub use parts::{MAX_PARTS, MIN_PART_BYTES, PartPlan};
pub use presign::{MAX_VALIDITY, Presigned};
pub use settings::Settings;
pub use store::{Beginning, DELETE_PAGE, Head, Listed, ListedPage, ObjectStore};
pub use stream::{GetObject, ObjectStream};
pub use urls::MultipartCall;

/// The ETag without its quotes, as it is stored and compared.
pub fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(etag)
}
