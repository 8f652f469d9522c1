#![expect(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int32Type, Int64Type};
use arrow_ipc::reader::FileReader;

use super::*;
use crate::chunk::Chunk;

fn about() -> About {
    About {
        text: "text.txt".to_owned(),
        model: "all-minilm-l6-v2".to_owned(),
        pooling: "mean",
        version: "embeddings/9/all-minilm-l6-v2/".to_owned(),
    }
}

fn place(start: usize, end: usize, page: Option<usize>) -> Place<'static> {
    Place {
        chunk: Chunk {
            start,
            end,
            tokens: end - start,
        },
        start_character: start,
        end_character: end,
        page,
        heading: page.map(|_| "Aforo"),
    }
}

/// Two batches of the first and second axis, of a text of eleven bytes.
fn written() -> Bytes {
    let mut table = ChunkTable::new(about());
    table
        .push(&[place(0, 5, Some(1))], &[vec![1.0, 0.0]])
        .unwrap();
    table
        .push(
            &[place(6, 11, None), place(4, 8, Some(2))],
            &[vec![0.0, 1.0], vec![0.6, 0.8]],
        )
        .unwrap();
    assert_eq!(table.dimensions(), 2);
    table.finish().unwrap().unwrap()
}

#[test]
fn each_chunk_is_a_row_and_what_they_share_stands_in_the_metadata() {
    let reader = FileReader::try_new(std::io::Cursor::new(written()), None).unwrap();
    let metadata = reader.schema().metadata.clone();
    for (name, value) in [
        ("text", "text.txt"),
        ("model", "all-minilm-l6-v2"),
        ("pooling", "mean"),
        ("norm", "l2"),
        ("version", "embeddings/9/all-minilm-l6-v2/"),
    ] {
        assert_eq!(metadata.get(name).map(String::as_str), Some(value));
    }
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.unwrap();
        let numbers = batch["chunk"].as_primitive::<Int32Type>();
        let starts = batch["start_byte"].as_primitive::<Int64Type>();
        let pages = batch["page"].as_primitive::<Int32Type>();
        let headings = batch["heading"].as_string::<i32>();
        let vectors = batch["vector"].as_fixed_size_list();
        for row in 0..batch.num_rows() {
            let vector = vectors.value(row);
            rows.push((
                numbers.value(row),
                starts.value(row),
                pages.is_valid(row).then(|| pages.value(row)),
                headings
                    .is_valid(row)
                    .then(|| headings.value(row).to_owned()),
                vector.as_primitive::<Float32Type>().values().to_vec(),
            ));
        }
    }
    let aforo = || Some("Aforo".to_owned());
    assert_eq!(
        rows,
        [
            (0, 0, Some(1), aforo(), vec![1.0, 0.0]),
            (1, 6, None, None, vec![0.0, 1.0]),
            (2, 4, Some(2), aforo(), vec![0.6, 0.8]),
        ]
    );
}

#[test]
fn a_vector_of_another_length_is_refused_and_no_rows_are_no_file() {
    let mut table = ChunkTable::new(about());
    table.push(&[], &[]).unwrap();
    table.push(&[place(0, 5, None)], &[vec![1.0, 2.0]]).unwrap();
    let error = table.push(&[place(6, 11, None)], &[vec![1.0]]).unwrap_err();
    assert!(
        matches!(
            error,
            TableError::OtherDimensions {
                found: 1,
                expected: 2
            }
        ),
        "{error}"
    );
    assert!(ChunkTable::new(about()).finish().unwrap().is_none());
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The example as docs/results.md has it.
fn example() -> String {
    let page = std::fs::read_to_string(repository().join("docs/results.md")).unwrap();
    let (_, after) = page.split_once("```python\n").unwrap();
    after.split_once("```").unwrap().0.to_owned()
}

#[test]
fn the_python_of_the_manual_reads_the_chunks_and_finds_the_nearest() {
    let packages = repository().join("infra/clients/python");
    if !packages.join("pyarrow").is_dir() {
        assert!(
            std::env::var_os("CAUDAL_REQUIRE_PAGE").is_none(),
            "infra/clients/python lacks pyarrow: run `make clients`"
        );
        eprintln!("not run: `make clients` installs pyarrow");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("embeddings.arrow"), written()).unwrap();
    std::fs::write(folder.path().join("text.txt"), "río y mar.").unwrap();
    let ran = Command::new("python3")
        .args(["-c", &example()])
        .current_dir(folder.path())
        .env("PYTHONPATH", packages)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success(),
        "{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    // The model and its length of vectors; then the chunks that are nearest to the first, itself the nearest of all.
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "all-minilm-l6-v2 mean l2 2",
            "1.000 chunk 0, page 1: río y",
            "0.600 chunk 2, page 2: y ma",
            "0.000 chunk 1, page None: mar.",
        ]
    );
}
