//! The pages of both kinds of listing, as clients ask for them.

use s3s::dto::{CommonPrefix, ETag, EncodingType, Object};
use s3s::{S3Error, S3Result, s3_error};

use super::listing::{ListQuery, Listed, list};
use super::store::Store;

/// S3's bound of a page.
const MAX_KEYS: i32 = 1000;

/// What both kinds of listing ask.
pub(super) struct Asked {
    pub(super) prefix: String,
    /// Keys after this one.
    pub(super) after: String,
    pub(super) delimiter: Option<String>,
    pub(super) max_keys: Option<i32>,
    pub(super) encoding: Option<EncodingType>,
}

impl Asked {
    /// The page that is asked for.
    pub(super) fn page_of(self, store: &Store) -> S3Result<Page> {
        let asked = self;
        // An empty one is what rclone sends for none.
        let delimiter = asked.delimiter.filter(|delimiter| !delimiter.is_empty());
        if delimiter
            .as_deref()
            .is_some_and(|delimiter| delimiter != "/")
        {
            return Err(s3_error!(NotImplemented, "the delimiter is / or none"));
        }
        let max_keys = asked.max_keys.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
        let max = usize::try_from(max_keys).map_err(S3Error::internal_error)?;
        let is_folded = delimiter.is_some();
        let query = ListQuery {
            prefix: &asked.prefix,
            after: &asked.after,
            is_folded,
            max,
        };
        let (listed, is_truncated) = list(store, &query)?;
        let next = listed
            .last()
            .filter(|_| is_truncated)
            .map(|last| last.name().to_owned());
        let mut page = Page {
            delimiter,
            encoding: asked.encoding,
            max_keys,
            next,
            contents: Vec::new(),
            common_prefixes: Vec::new(),
        };
        for one in listed {
            match one {
                Listed::Prefix(prefix) => {
                    let prefix = Some(page.encoded(prefix));
                    page.common_prefixes.push(CommonPrefix { prefix });
                }
                Listed::Object {
                    key,
                    size,
                    modified,
                    etag,
                } => {
                    let key = Some(page.encoded(key));
                    page.contents.push(Object {
                        key,
                        size: Some(length(size)?),
                        last_modified: Some(modified.into()),
                        e_tag: Some(ETag::Strong(etag)),
                        ..Object::default()
                    });
                }
            }
        }
        Ok(page)
    }
}

/// What both kinds of listing answer.
pub(super) struct Page {
    pub(super) delimiter: Option<String>,
    pub(super) encoding: Option<EncodingType>,
    pub(super) max_keys: i32,
    /// The last name, when there is more after it.
    pub(super) next: Option<String>,
    pub(super) contents: Vec<Object>,
    pub(super) common_prefixes: Vec<CommonPrefix>,
}

impl Page {
    /// A name as the client wants it: XML cannot hold every letter of a key, and clients that ask for this decode it.
    pub(super) fn encoded(&self, name: String) -> String {
        let is_wanted = self
            .encoding
            .as_ref()
            .is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        if !is_wanted {
            return name;
        }
        let encoded: String = form_urlencoded::byte_serialize(name.as_bytes()).collect();
        encoded.replace("%2F", "/")
    }
}

/// A length as S3's answers have it.
pub(super) fn length(bytes: u64) -> S3Result<i64> {
    i64::try_from(bytes).map_err(S3Error::internal_error)
}
