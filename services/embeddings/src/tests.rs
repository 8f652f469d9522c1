#![expect(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use caudal_domain::MediaKind;
use caudal_domain::Outcome;
use caudal_providers::{EmbeddingSettings, LocalSettings, Unlimited};

use super::*;
use crate::places::Parts;

fn stage(settings: EmbeddingSettings) -> EmbeddingsStage {
    let provider = EmbeddingProvider::new(settings, Arc::new(Unlimited)).unwrap();
    EmbeddingsStage::new(provider, EmbeddingsSettings::default())
}

fn local(folder: PathBuf) -> EmbeddingsStage {
    stage(EmbeddingSettings::Local(LocalSettings {
        folder,
        threads: 2,
        exact: false,
    }))
}

/// The stage on the installed model, or `None` after saying so; with CAUDAL_REQUIRE_MODEL=1 its absence fails the test.
fn installed() -> Option<EmbeddingsStage> {
    let folder = std::env::var_os("CAUDAL_MODEL_DIR").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../..")
                .join(caudal_providers::DEFAULT_MODEL_FOLDER)
        },
        PathBuf::from,
    );
    let stage = local(folder);
    if let Some(why) = &stage.absent {
        assert!(
            std::env::var("CAUDAL_REQUIRE_MODEL").is_err(),
            "CAUDAL_REQUIRE_MODEL is set: {why}"
        );
        eprintln!("skipped: {why}");
        return None;
    }
    Some(stage)
}

#[test]
fn without_a_provider_the_version_and_the_facts_say_none_and_the_file_is_partial() {
    let empty = PathBuf::from("/nonexistent/model");
    for stage in [stage(EmbeddingSettings::None), local(empty)] {
        assert_eq!(stage.version().model, "none");
        let done = stage.without_provider(stage.absent.as_ref().unwrap());
        assert_eq!(done.facts["model"], "none");
        assert_eq!(done.facts["chunks"], 0);
        assert_eq!(done.warnings[0].code, WarningCode::NoEmbeddingProvider);
        assert_eq!(
            Outcome::judge(MediaKind::Document, &done.warnings),
            Outcome::Partial
        );
        assert!(done.artifacts.is_empty());
    }
}

#[test]
fn each_failure_of_a_provider_has_its_reason_and_keeps_its_pause() {
    let pause = std::time::Duration::from_secs(9);
    let throttled = failure(&ProviderError::Throttled { retry_after: pause });
    assert_eq!(throttled.reason, Reason::ProviderThrottled);
    assert_eq!(throttled.retry_after, Some(pause));
    assert!(throttled.waits.is_some(), "it is no failure of the file");

    let rejected = failure(&ProviderError::Rejected {
        status: 400,
        detail: "no".to_owned(),
    });
    assert_eq!(rejected.reason, Reason::ProviderRejected);
    assert!(!rejected.reason.retryable() && rejected.waits.is_none());
    for state in [
        ProviderError::unavailable("away"),
        ProviderError::Unauthorized {
            detail: "status 401".to_owned(),
        },
        ProviderError::Misbehaves {
            detail: "HTML".to_owned(),
        },
    ] {
        assert!(failure(&state).waits.is_some(), "{state}");
    }
}

/// A text that was read whole, of no pages.
fn plain(text: impl Into<String>) -> ReadText {
    ReadText {
        text: text.into(),
        truncated: false,
        name: "text.txt",
        parts: Parts::default(),
    }
}

/// The vectors of what became of a text.
fn vectors_of(embedded: &Embedded) -> Vec<Vec<f32>> {
    let table = std::io::Cursor::new(embedded.table.clone().unwrap());
    let batches = arrow_ipc::reader::FileReader::try_new(table, None).unwrap();
    batches
        .flat_map(|batch| {
            let batch = batch.unwrap();
            let vectors = batch["vector"].as_fixed_size_list();
            let of_row = |row| {
                let vector = vectors.value(row);
                vector.as_primitive::<Float32Type>().values().to_vec()
            };
            (0..batch.num_rows()).map(of_row).collect::<Vec<_>>()
        })
        .collect()
}

#[tokio::test]
async fn a_text_becomes_one_unit_vector_a_chunk() {
    let Some(stage) = installed() else {
        return;
    };
    let text =
        "The river rises in spring. Its gauge is read every morning at seven.\n\n".repeat(20);
    let embedded = stage.embed_text(1, plain(text.clone())).await.unwrap();
    assert!(embedded.chunks.len() > 1 && !embedded.truncated);
    assert_eq!(embedded.dimensions, 384);
    assert_eq!(stage.version().model, "all-minilm-l6-v2");
    assert_eq!(stage.facts(Some(&embedded))["dimensions"], 384);
    let counted: usize = embedded.chunks.iter().map(|chunk| chunk.tokens).sum();
    assert_eq!(embedded.tokens, counted as u64, "tokens are counted once");
    assert_eq!(
        embedded.read,
        counted as u64 + 2 * embedded.chunks.len() as u64,
        "nothing of a chunk is left unread, and pieces count as the whole does"
    );
    assert!(stage.not_understood(&embedded).is_none());
    let vectors = vectors_of(&embedded);
    assert_eq!(vectors.len(), embedded.chunks.len());
    for vector in vectors {
        let square: f32 = vector.iter().map(|number| number * number).sum();
        assert!(vector.len() == 384 && (square - 1.0).abs() < 1e-4);
    }
}

#[tokio::test]
async fn a_text_that_the_model_cannot_read_says_so_and_has_a_vector_of_its_own() {
    let Some(stage) = installed() else {
        return;
    };
    let base64 = "TG9yZW0gaXBzdW0gZG9sb3Igc2l0IGFtZXQsIGNvbnNlY3RldHVyIGFkaXBpc2NpbmcgZWxpdA\n";
    let mut seen: Vec<Vec<f32>> = Vec::new();
    for text in [
        "🜁🜂🜃🜄 ".repeat(200),
        "🝊🝋🝌 ".repeat(300),
        "น้ำท่วมเมื่อเช้านี้ ".repeat(20),
        "ฝนตกหนักที่ต้นน้ำ ".repeat(20),
        base64.repeat(20),
    ] {
        let embedded = stage.embed_text(1, plain(text)).await.unwrap();
        let warning = stage.not_understood(&embedded).unwrap();
        assert_eq!(warning.code, WarningCode::TextNotUnderstood);
        assert!(warning.words.contains("English"), "{}", warning.words);
        let facts = stage.facts(Some(&embedded));
        assert!(facts["unread_characters"].as_u64() > Some(100), "{facts}");
        assert_eq!(
            Outcome::judge(MediaKind::Document, &[warning]),
            Outcome::Partial
        );
        // Chunks of one of these texts may be alike.
        let vectors = vectors_of(&embedded);
        assert!(vectors.iter().all(|vector| !seen.contains(vector)));
        seen.extend(vectors);
    }
}

#[tokio::test]
async fn one_part_that_the_model_cannot_read_is_told_of_a_long_text_and_a_sign_is_not() {
    let Some(stage) = installed() else {
        return;
    };
    let readable = "The river rises in spring. Its gauge is read every morning at seven.\n\n";
    let with_a_sign = format!(
        "{}Thank you 🜁.\n\n{}",
        readable.repeat(10),
        readable.repeat(10)
    );
    let embedded = stage.embed_text(1, plain(with_a_sign)).await.unwrap();
    assert!(embedded.unread.characters > 0);
    assert!(stage.not_understood(&embedded).is_none());

    let with_a_part = readable.repeat(300) + &"🜁🜂🜃🜄 ".repeat(100);
    let embedded = stage.embed_text(1, plain(with_a_part)).await.unwrap();
    assert!(embedded.unread.characters * 10 < embedded.unread.of);
    let warning = stage.not_understood(&embedded).unwrap();
    assert!(warning.words.contains("chunks"), "{}", warning.words);
}

#[tokio::test]
async fn two_long_words_have_vectors_of_their_own() {
    let Some(stage) = installed() else {
        return;
    };
    let mut vectors = Vec::new();
    for text in ["abcdefghij", "qrstuvwxyz"] {
        let embedded = stage.embed_text(1, plain(text.repeat(30))).await.unwrap();
        vectors.push(vectors_of(&embedded));
    }
    assert_ne!(
        vectors[0], vectors[1],
        "two words of 300 letters have vectors of their own"
    );
}

#[tokio::test]
async fn a_text_of_white_space_has_no_chunks_and_is_complete() {
    let Some(stage) = installed() else {
        return;
    };
    let embedded = stage.embed_text(1, plain(" \n\n ")).await.unwrap();
    assert!(embedded.chunks.is_empty() && !embedded.truncated && embedded.table.is_none());
    assert_eq!((embedded.tokens, embedded.calls), (0, 0));
}

#[tokio::test]
async fn a_text_beyond_the_limit_is_embedded_as_far_as_it_goes_and_says_so() {
    let Some(stage) = installed() else {
        return;
    };
    let settings = EmbeddingsSettings::try_new(20, 0, 3, 1_000_000).unwrap();
    let stage = EmbeddingsStage::new(stage.provider, settings);
    let embedded = stage
        .embed_text(
            1,
            plain("A sentence of seven words stands here. ".repeat(50)),
        )
        .await
        .unwrap();
    assert_eq!(embedded.chunks.len(), 3);
    assert!(embedded.truncated);
    let warning = truncation_warning(&embedded);
    assert_eq!(warning.code, WarningCode::EmbeddingsTruncated);
    assert!(warning.words.contains("3 chunks"), "{}", warning.words);
}
