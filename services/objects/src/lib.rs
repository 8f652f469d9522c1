//! The claim-check store: bytes go to S3 and messages carry keys. Conditional reads and copies, so that what was confirmed
//! is what is read; URLs that fix what may be sent; bounded streams. The keys themselves are built elsewhere
//! (`caudal_domain::keys`); here a key is a `&str`.
//!
//! What is done with every file goes by requests of our own, over one set of connections; the SDK does the rest: buckets,
//! listings, and what frames an upload in parts.
//!
//! ETags are given and taken without their quotes or with them, and given back without ([`bare_etag`]).

mod address;
mod checksums;
mod connect;
mod copy;
mod direct;
mod error;
mod etag;
mod multipart;
mod parts;
mod presign;
mod read;
mod retry;
mod settings;
mod signing;
mod store;
mod stream;
mod tls;
mod transport;
mod urls;
mod xml;

pub use error::{ObjectError, StoreTrouble};
pub use etag::bare_etag;
pub use multipart::{PartTag, UploadedPart};
pub use parts::{MAX_PARTS, MIN_PART_BYTES, PartPlan};
pub use presign::{MAX_VALIDITY, Presigned};
pub use read::{Beginning, Head};
pub use settings::Settings;
pub use store::{DELETE_PAGE, Listed, ListedPage, ObjectStore};
pub use stream::{GetObject, ObjectStream};
pub use transport::InProcess;
pub use urls::MultipartCall;
