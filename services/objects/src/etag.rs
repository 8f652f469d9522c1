//! ETags, with their quotes and without.

use crate::error::ObjectError;

/// The ETag without its quotes, as it is stored and compared.
pub fn bare_etag(etag: &str) -> &str {
    etag.strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(etag)
}

pub(crate) fn quoted(etag: &str) -> String {
    format!("\"{}\"", bare_etag(etag))
}

pub(crate) fn etag_of(key: &str, etag: Option<&str>) -> Result<String, ObjectError> {
    let etag = etag.ok_or_else(|| ObjectError::unavailable(key, "the store named no ETag"))?;
    Ok(bare_etag(etag).to_owned())
}
