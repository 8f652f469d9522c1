//! The artifact: a row a chunk, as an Arrow IPC file.
//!
//! What a row says stands in [`ChunkTable::schema`], what all rows have in common in the schema's metadata. Rows are written as
//! they come, so that beside the finished bytes no vector is kept twice.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, DataType, Field, Schema};
use bytes::Bytes;
use caudal_providers::VectorColumn;

use crate::places::Place;

/// What all rows of a file have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct About {
    /// The name of the artifact whose text the chunks are of.
    pub(crate) text: String,
    /// The model.
    pub(crate) model: String,
    /// How the vectors of a chunk's tokens became one.
    pub(crate) pooling: &'static str,
    /// The version of the stage: the same text would have other rows under another one.
    pub(crate) version: String,
}

/// The rows of a file as they are written.
pub(crate) struct ChunkTable {
    about: About,
    /// None before the first row: the length of vectors is part of the schema.
    file: Option<FileWriter<Vec<u8>>>,
    dimensions: usize,
    /// Which norm of each vector is 1, by those of the first rows.
    norm: &'static str,
    rows: usize,
}

/// Rows that cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The provider changed its mind between two calls.
    #[error("a vector has {found} dimensions, the ones before it {expected}")]
    OtherDimensions {
        /// Of this one.
        found: usize,
        /// Of those before it.
        expected: usize,
    },
    /// The rows are none of this table.
    #[error("the table of chunks: {0}")]
    Arrow(#[from] ArrowError),
}

impl ChunkTable {
    /// A table without rows.
    pub(crate) fn new(about: About) -> Self {
        Self {
            about,
            file: None,
            dimensions: 0,
            norm: "none",
            rows: 0,
        }
    }

    /// Length of a vector; 0 without rows.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Adds a row for each place, with its vector.
    pub(crate) fn push(
        &mut self,
        places: &[Place<'_>],
        vectors: &[Vec<f32>],
    ) -> Result<(), TableError> {
        let Some(first) = vectors.first() else {
            return Ok(());
        };
        if self.file.is_none() {
            self.dimensions = first.len();
            self.norm = VectorColumn::norm_of(vectors);
            let schema = self.schema()?;
            self.file = Some(FileWriter::try_new(Vec::new(), &schema)?);
        }
        if let Some(other) = vectors
            .iter()
            .find(|vector| vector.len() != self.dimensions)
        {
            return Err(TableError::OtherDimensions {
                found: other.len(),
                expected: self.dimensions,
            });
        }
        let rows = self.batch(places, vectors)?;
        if let Some(file) = &mut self.file {
            file.write(&rows)?;
        }
        self.rows += places.len();
        Ok(())
    }

    /// The file; none without rows.
    pub(crate) fn finish(self) -> Result<Option<Bytes>, TableError> {
        match self.file {
            Some(file) => Ok(Some(Bytes::from(file.into_inner()?))),
            None => Ok(None),
        }
    }

    fn schema(&self) -> Result<Schema, ArrowError> {
        let whole = |name: &str| Field::new(name, DataType::Int64, false);
        let fields = vec![
            Field::new("chunk", DataType::Int32, false),
            whole("start_byte"),
            whole("end_byte"),
            whole("start_character"),
            whole("end_character"),
            Field::new("page", DataType::Int32, true),
            Field::new("heading", DataType::Utf8, true),
            Field::new("tokens", DataType::Int32, false),
            VectorColumn::of(self.dimensions)?.field(),
        ];
        let about = &self.about;
        let metadata = [
            ("text", about.text.as_str()),
            ("model", about.model.as_str()),
            ("pooling", about.pooling),
            ("norm", self.norm),
            ("version", about.version.as_str()),
        ];
        Ok(Schema::new_with_metadata(fields, metadata))
    }

    fn batch(&self, places: &[Place<'_>], vectors: &[Vec<f32>]) -> Result<RecordBatch, ArrowError> {
        let numbers: Result<Vec<i32>, ArrowError> =
            (self.rows..self.rows + places.len()).map(signed).collect();
        let offsets = |of: fn(&Place<'_>) -> usize| -> Result<ArrayRef, ArrowError> {
            let offsets: Result<Vec<i64>, ArrowError> =
                places.iter().map(|place| signed(of(place))).collect();
            Ok(Arc::new(Int64Array::from(offsets?)))
        };
        let tokens: Result<Vec<i32>, ArrowError> = places
            .iter()
            .map(|place| signed(place.chunk.tokens))
            .collect();
        let pages: Vec<Option<i32>> = places
            .iter()
            .map(|place| place.page.and_then(|page| i32::try_from(page).ok()))
            .collect();
        let headings: Vec<Option<&str>> = places.iter().map(|place| place.heading).collect();
        RecordBatch::try_new(
            Arc::new(self.schema()?),
            vec![
                Arc::new(Int32Array::from(numbers?)),
                offsets(|place| place.chunk.start)?,
                offsets(|place| place.chunk.end)?,
                offsets(|place| place.start_character)?,
                offsets(|place| place.end_character)?,
                Arc::new(Int32Array::from(pages)),
                Arc::new(StringArray::from(headings)),
                Arc::new(Int32Array::from(tokens?)),
                VectorColumn::of(self.dimensions)?.values(vectors)?,
            ],
        )
    }
}

/// Arrow's numbers have a sign, as most readers want them.
fn signed<T: TryFrom<usize>>(number: usize) -> Result<T, ArrowError> {
    T::try_from(number)
        .map_err(|_| ArrowError::InvalidArgumentError(format!("{number} is too large a number")))
}

impl std::fmt::Debug for ChunkTable {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("ChunkTable")
            .field("about", &self.about)
            .field("dimensions", &self.dimensions)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
