//! Small files of every format that is read, whole and with the faults that real files have, through the whole system.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::process::Command;

use caudal_sdk::v1;
use serde::Deserialize;

use crate::raw::{Files, files};
use crate::{Database, Ground, json};

/// What the generator says is to become of a file.
#[derive(Debug, Deserialize)]
struct Expected {
    path: String,
    state: String,
    #[serde(default)]
    outcome: String,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    warnings: Vec<String>,
    #[serde(default)]
    words: Vec<String>,
    #[serde(default)]
    never: Vec<String>,
    #[serde(default)]
    needs_pdfium: bool,
}

fn generated(folder: &Path) -> Vec<Expected> {
    let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/corpus/generate");
    let status = Command::new("python3")
        .arg(generator)
        .arg(folder)
        .status()
        .unwrap();
    assert!(status.success());
    let table = std::fs::read(folder.join("expected.json")).unwrap();
    serde_json::from_slice(&table).unwrap()
}

/// Every file of a batch, with its warnings and artifacts.
pub(crate) async fn listed(files: &mut Files, batch: &str) -> HashMap<String, v1::File> {
    let mut found = HashMap::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListFilesRequest {
            selector: Some(v1::FileSelector {
                batch: batch.to_owned(),
                ..v1::FileSelector::default()
            }),
            page_size: 100,
            page_token,
            view: v1::FileView::Full.into(),
        };
        let page = files.list_files(request).await.unwrap().into_inner();
        found.extend(page.files.into_iter().map(|file| (file.path.clone(), file)));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return found;
        }
    }
}

/// The text that was read of a file.
async fn text(files: &mut Files, file: &v1::File) -> String {
    let bytes = artifact(files, file, "text.txt").await.unwrap_or_default();
    String::from_utf8(bytes).unwrap()
}

/// An artifact of a file, by the last part of its name.
pub(crate) async fn artifact(files: &mut Files, file: &v1::File, name: &str) -> Option<Vec<u8>> {
    let artifact = file
        .artifacts
        .iter()
        .find(|artifact| artifact.name.ends_with(&format!("/{name}")))?;
    let request = v1::GetArtifactRequest {
        name: file.name.clone(),
        artifact: artifact.name.clone(),
    };
    let found = files.get_artifact(request).await.unwrap().into_inner();
    let answer = reqwest::get(found.url).await.unwrap();
    let status = answer.status();
    let bytes = answer.bytes().await.unwrap();
    assert_eq!(status, 200, "{}: {bytes:?}", file.path);
    Some(bytes.to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_generated_file_ends_as_the_table_says_with_its_warnings_and_words() {
    let ground = Ground::new(Database::Sqlite);
    let folder = ground.folder.path().join("corpus");
    let expected = generated(&folder);
    assert!(expected.len() >= 150, "{}", expected.len());
    let corpus = folder.join("files");
    let stages = "upload,extract-text,image-processing,metadata";
    let arguments = [
        "ingest",
        corpus.to_str().unwrap(),
        "--stages",
        stages,
        "--output",
        "json",
    ];
    let ended = json(&ground.system.caudal(&arguments).unwrap());
    let batch = ended["batch_id"].as_str().unwrap();

    let mut client = files(&ground.system);
    let found = listed(&mut client, &format!("batches/{batch}")).await;
    let has_pdfium =
        std::env::var_os("CAUDAL_PDFIUM").is_some_and(|path| Path::new(&path).is_file());
    let mut wrong = Vec::new();
    for expected in expected
        .iter()
        .filter(|expected| has_pdfium || !expected.needs_pdfium)
    {
        let Some(file) = found.get(&expected.path) else {
            wrong.push(format!("{} is not listed", expected.path));
            continue;
        };
        let state = file
            .state()
            .as_str_name()
            .trim_start_matches("FILE_STATE_")
            .to_owned();
        let outcome = file
            .outcome()
            .as_str_name()
            .trim_start_matches("OUTCOME_")
            .to_owned();
        let reason = file.reason.as_ref().map_or("", |reason| &reason.code);
        let warnings: HashSet<&str> = file
            .warnings
            .iter()
            .map(|warning| warning.code.as_str())
            .collect();
        let wanted: HashSet<&str> = expected.warnings.iter().map(String::as_str).collect();
        let is_right = state == expected.state
            && reason == expected.reason
            && (state != "PROCESSED" || (outcome == expected.outcome && warnings == wanted));
        if !is_right {
            wrong.push(format!(
                "{}: {state} {outcome} {reason} {warnings:?}, expected {expected:?}",
                expected.path
            ));
            continue;
        }
        let text = text(&mut client, file).await;
        for words in expected.words.iter().filter(|words| !text.contains(*words)) {
            wrong.push(format!("{}: no {words:?} in {text:.300?}", expected.path));
        }
        for words in expected.never.iter().filter(|words| text.contains(*words)) {
            wrong.push(format!("{}: {words:?} in {text:.300?}", expected.path));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    ground.system.verify().unwrap();
}
