//! The vector of a picture as an artifact: an Arrow IPC file of one row, in the form that the vectors of texts have.

use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, Schema};
use bytes::Bytes;
use caudal_providers::VectorColumn;

/// What an Arrow IPC file is registered as.
pub(crate) const MEDIA_TYPE: &str = "application/vnd.apache.arrow.file";

/// The file.
pub(crate) fn table(
    vector: Vec<f32>,
    model: &str,
    side: u32,
    version: &str,
) -> Result<Bytes, ArrowError> {
    let column = VectorColumn::of(vector.len())?;
    let (side, vectors) = (side.to_string(), [vector]);
    let metadata = [
        ("model", model),
        ("norm", VectorColumn::norm_of(&vectors)),
        ("side", side.as_str()),
        ("version", version),
    ];
    let schema = Arc::new(Schema::new_with_metadata(vec![column.field()], metadata));
    let row = RecordBatch::try_new(Arc::clone(&schema), vec![column.values(&vectors)?])?;
    let mut file = FileWriter::try_new(Vec::new(), &schema)?;
    file.write(&row)?;
    Ok(Bytes::from(file.into_inner()?))
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;

    #[test]
    fn a_vector_is_one_row_that_names_its_model() {
        let file = table(vec![0.5, -1.0], "clip", 512, "image-processing/2").unwrap();
        let reader =
            arrow_ipc::reader::FileReader::try_new(std::io::Cursor::new(file), None).unwrap();
        assert_eq!(reader.schema().metadata["model"], "clip");
        let rows: Vec<_> = reader.map(Result::unwrap).collect();
        assert_eq!((rows.len(), rows[0].num_rows()), (1, 1));
        let vector = rows[0]["vector"].as_fixed_size_list().value(0);
        assert_eq!(vector.as_primitive::<Float32Type>().values(), &[0.5, -1.0]);
    }
}
