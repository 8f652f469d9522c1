//! Vectors as a column of an Arrow table: all artifacts hold them alike.

use std::sync::Arc;

use arrow_array::{ArrayRef, FixedSizeListArray, Float32Array};
use arrow_schema::{ArrowError, DataType, Field};

/// A length that is so near to 1 is 1: providers send few digits.
const OFF_BY: f32 = 1e-3;

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

    /// Which norm of each of these vectors is 1: `l2`, or `none`.
    #[must_use]
    pub fn norm_of(vectors: &[Vec<f32>]) -> &'static str {
        let is_unit = |vector: &Vec<f32>| {
            let length: f32 = vector.iter().map(|part| part * part).sum::<f32>().sqrt();
            (length - 1.0).abs() <= OFF_BY
        };
        if vectors.iter().all(is_unit) {
            "l2"
        } else {
            "none"
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_norm_is_that_which_all_vectors_have() {
        let unit = vec![0.6, 0.8];
        assert_eq!(
            VectorColumn::norm_of(&[unit.clone(), vec![1.0004, 0.0]]),
            "l2"
        );
        for other in [vec![0.6, 0.9], vec![0.0, 0.0], vec![f32::NAN, 1.0]] {
            assert_eq!(VectorColumn::norm_of(&[unit.clone(), other]), "none");
        }
    }
}
