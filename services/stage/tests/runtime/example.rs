//! The page on adding a stage, and the stage that it adds.

use std::path::Path;

use caudal_domain::{Generation, Reason, Stage, artifact_prefix};
use caudal_harness::{S3, eventually};
use caudal_proto::mesh::v1::{Input, InputArtifact};

use crate::fake_ledger::Call;
use crate::language::{Language, ROW, STAGE};
use crate::stand::{Stand, key, objects_in};

const TEXT: &str = "El río que cruza la ciudad y los puentes de la vega";
const TEXT_KEY: &str = "what-extract-text-wrote/text.txt";

pub(crate) async fn the_stage_of_the_page_finds_the_language_of_a_text() {
    let server = S3::start().await.unwrap();
    let store = objects_in(&server).await;
    store
        .put(TEXT_KEY, "text/plain", TEXT.into())
        .await
        .unwrap();

    let stand = Stand::new().await;
    let (with_text, without) = (key(1), key(2));
    let text = InputArtifact {
        name: "text.txt".to_owned(),
        key: TEXT_KEY.to_owned(),
        size: i64::try_from(TEXT.len()).unwrap(),
        media_type: "text/plain".to_owned(),
    };
    let extracted = Input {
        stage: Stage::ExtractText.to_string(),
        artifacts: vec![text],
        ..Input::default()
    };
    {
        let mut state = stand.ledger.state();
        state.inputs.insert(with_text, vec![extracted]);
        for key in [with_text, without] {
            state.paths.insert(key, "carta.txt".to_owned());
        }
    }
    let running = stand
        .run_handler(Language, store.clone(), Stand::settings(2, 16), None)
        .await;
    stand.publish_to(STAGE, &[with_text, without]).await;

    let ended = async |file| {
        let mut end = None;
        eventually("it has ended", async || {
            let calls = stand.ledger.calls();
            end = calls.into_iter().find(|call| match call {
                Call::Done(key, _) | Call::Failed(key, ..) => *key == file,
                _ => false,
            });
            end.is_some()
        })
        .await;
        end.unwrap()
    };
    let Call::Done((file, token), done) = ended(with_text).await else {
        panic!("it has a text")
    };
    let facts: serde_json::Value = serde_json::from_slice(&done.facts).unwrap();
    assert_eq!(facts, serde_json::json!({ "language": "es" }));
    assert_eq!(done.artifacts[0].name, "scores.json");
    let prefix = artifact_prefix(file, Generation(1), STAGE, token, &done.nonce);
    let scores = store
        .get_bytes(&format!("{prefix}scores.json"), 1_000)
        .await
        .unwrap();
    assert_eq!(scores, r#"{"de":0,"en":0,"es":7}"#);
    assert!(matches!(
        ended(without).await,
        Call::Failed(_, reason, _) if reason == Reason::ArtifactMissing.code()
    ));
    running.stop().await;
}

/// The lines of a text without their indentation.
fn lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.join("\n")
}

pub(crate) async fn the_page_shows_code_that_is_compiled() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| std::fs::read_to_string(repository.join(path)).unwrap();
    let sources = [
        "services/stage/examples/language.rs",
        "services/caudal/src/service/stages.rs",
    ]
    .map(|path| lines(&read(path)));
    let page = read("docs/adding-a-stage.md");
    let shown: Vec<String> = page
        .split("```rust\n")
        .skip(1)
        .map(|rest| lines(rest.split("```").next().unwrap()))
        .collect();
    assert_eq!(shown.len(), 3);
    for block in shown {
        let is_compiled = sources.iter().any(|source| source.contains(block.trim()));
        assert!(is_compiled, "no code that is compiled reads:\n{block}");
    }
}

pub(crate) async fn the_row_of_the_page_takes_nothing_that_a_stage_has() {
    for stage in Stage::ALL {
        assert_ne!(stage.name(), ROW.name);
        assert_ne!(stage.profile().port, ROW.port);
    }
}
