//! Vectors as a column of an Arrow table: all artifacts hold them alike.

use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array};
use arrow_schema::{ArrowError, DataType, Field};

/// The column of vectors of one length.
#[derive(Debug, Clone, Copy)]
pub struct VectorColumn {
    dimensions: i32,
}

impl VectorColumn {
    /// A column of vectors of `dimensions` numbers.
    pub fn of(dimensions: usize) -> Result<Self, ArrowError> {
        let dimensions = i32::try_from(dimensions).map_err(|_| {
            ArrowError::InvalidArgumentError(format!("{dimensions} is too large a number"))
        })?;
        Ok(Self { dimensions })
    }

    /// Its place in a schema, under the name `vector`.
    #[must_use]
    pub fn field(self) -> Field {
        let kind = DataType::FixedSizeList(item(), self.dimensions);
        Field::new("vector", kind, false)
    }

    /// Its values, a vector a row.
    pub fn values(self, vectors: &[Vec<f32>]) -> Result<ArrayRef, ArrowError> {
        let numbers = Arc::new(Float32Array::from(vectors.concat()));
        let rows = FixedSizeListArray::try_new(item(), self.dimensions, numbers, None)?;
        Ok(Arc::new(rows))
    }
}

/// What stands in a vector, under the name that other writers give it too.
fn item() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Float32, true))
}
