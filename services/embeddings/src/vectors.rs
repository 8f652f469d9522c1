//! The vectors of a file as one block of bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Rows of little-endian 32-bit floats, all of one length.
#[derive(Debug)]
pub(crate) struct VectorMatrix {
    bytes: BytesMut,
    rows: usize,
    expected_rows: usize,
    dimensions: usize,
}

/// A row that does not fit the ones before it: the provider changed its mind between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a vector has {found} dimensions, the ones before it {expected}")]
pub(crate) struct OtherDimensions {
    found: usize,
    expected: usize,
}

impl VectorMatrix {
    /// An empty matrix that will have `rows` rows.
    pub(crate) fn with_rows(rows: usize) -> Self {
        Self {
            bytes: BytesMut::new(),
            rows: 0,
            expected_rows: rows,
            dimensions: 0,
        }
    }

    /// Adds rows.
    pub(crate) fn push(&mut self, vectors: &[Vec<f32>]) -> Result<(), OtherDimensions> {
        for vector in vectors {
            if self.rows == 0 {
                self.dimensions = vector.len();
                self.bytes
                    .reserve(self.expected_rows * vector.len() * size_of::<f32>());
            }
            if vector.len() != self.dimensions {
                return Err(OtherDimensions {
                    found: vector.len(),
                    expected: self.dimensions,
                });
            }
            for &number in vector {
                self.bytes.put_f32_le(number);
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// Length of a row; 0 without rows.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// The block.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn rows_are_little_endian_floats_one_after_the_other() {
        let mut matrix = VectorMatrix::with_rows(2);
        matrix.push(&[vec![1.0, -2.5]]).unwrap();
        matrix.push(&[vec![0.0, 3.0]]).unwrap();
        assert_eq!(matrix.dimensions(), 2);
        let expected: Vec<u8> = [1.0f32, -2.5, 0.0, 3.0]
            .into_iter()
            .flat_map(f32::to_le_bytes)
            .collect();
        assert_eq!(matrix.into_bytes(), expected);
    }

    #[test]
    fn a_row_of_another_length_is_refused() {
        let mut matrix = VectorMatrix::with_rows(2);
        matrix.push(&[vec![1.0, 2.0]]).unwrap();
        assert!(matrix.push(&[vec![1.0]]).is_err());
    }
}
