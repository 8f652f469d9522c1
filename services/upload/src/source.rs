//! Any part of the content, for what is not told at its beginning or its end.

use std::borrow::Cow;

use caudal_objects::{ObjectError, ObjectStore};

use crate::content::{Content, TAIL_BYTES};

/// A content, and where the rest of it is.
pub(crate) struct Source<'a> {
    pub(crate) content: &'a Content,
    /// Where it is kept; none where all of it is known.
    pub(crate) store: Option<Stored<'a>>,
}

/// An object of the store.
pub(crate) struct Stored<'a> {
    pub(crate) objects: &'a ObjectStore,
    pub(crate) key: &'a str,
    pub(crate) etag: &'a str,
}

impl Source<'_> {
    /// The end, at least [`TAIL_BYTES`] of it where there are so many.
    ///
    /// # Errors
    ///
    /// As the store answers.
    pub(crate) async fn tail(&self) -> Result<Cow<'_, [u8]>, ObjectError> {
        if !self.content.tail.is_empty() {
            return Ok(Cow::Borrowed(&self.content.tail));
        }
        let begins = self.content.size.saturating_sub(TAIL_BYTES as u64);
        self.read_at(begins, TAIL_BYTES).await
    }

    /// The bytes from `at` on, at most `length` of them: fewer at the end, and none behind it.
    ///
    /// # Errors
    ///
    /// As the store answers.
    pub(crate) async fn read_at(
        &self,
        at: u64,
        length: usize,
    ) -> Result<Cow<'_, [u8]>, ObjectError> {
        let end = at.saturating_add(length as u64).min(self.content.size);
        if at >= end {
            return Ok(Cow::Borrowed(&[]));
        }
        let known = |bytes: &'_ [u8], begins: u64| {
            let from = usize::try_from(at.checked_sub(begins)?).ok()?;
            let to = usize::try_from(end - begins).ok()?;
            (to <= bytes.len()).then_some((from, to))
        };
        if let Some((from, to)) = known(&self.content.head, 0) {
            return Ok(Cow::Borrowed(&self.content.head[from..to]));
        }
        let tail_begins = self.content.size - self.content.tail.len() as u64;
        if let Some((from, to)) = known(&self.content.tail, tail_begins) {
            return Ok(Cow::Borrowed(&self.content.tail[from..to]));
        }
        let Some(stored) = &self.store else {
            return Ok(Cow::Borrowed(&[]));
        };
        let bytes = stored
            .objects
            .get_range(stored.key, Some(stored.etag), at..end)
            .await?;
        Ok(Cow::Owned(bytes.to_vec()))
    }
}
