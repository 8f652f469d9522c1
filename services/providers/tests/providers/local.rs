#![expect(clippy::unwrap_used)]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use caudal_providers::{
    EmbeddingProvider, EmbeddingSettings, LocalSettings, ProviderError, ProviderState, Unlimited,
};

use crate::TENANT;

fn provider(folder: PathBuf, threads: usize) -> EmbeddingProvider {
    EmbeddingProvider::new(
        EmbeddingSettings::Local(LocalSettings {
            folder,
            threads,
            exact: false,
        }),
        Arc::new(Unlimited),
    )
    .unwrap()
}

/// The installed model, or `None` after saying so; with CAUDAL_REQUIRE_MODEL=1 its absence fails the test.
fn installed(threads: usize) -> Option<EmbeddingProvider> {
    let folder = std::env::var_os("CAUDAL_MODEL_DIR").map_or_else(
        || {
            PathBuf::from(env!("CARGO_MANIFEST_DIR"))
                .join("../..")
                .join(caudal_providers::DEFAULT_MODEL_FOLDER)
        },
        PathBuf::from,
    );
    let provider = provider(folder, threads);
    match provider.state() {
        ProviderState::Ready => Some(provider),
        state => {
            assert!(
                std::env::var("CAUDAL_REQUIRE_MODEL").is_err(),
                "CAUDAL_REQUIRE_MODEL is set: {state:?}"
            );
            eprintln!("skipped, no local model: {state:?}");
            None
        }
    }
}

fn texts(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

fn cosine(left: &[f32], right: &[f32]) -> f32 {
    left.iter()
        .zip(right)
        .map(|(left, right)| left * right)
        .sum()
}

#[tokio::test]
async fn a_folder_without_a_model_is_named_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), "{}").unwrap();
    let provider = provider(folder.path().to_owned(), 1);

    let ProviderError::NotConfigured { why } =
        provider.embed(TENANT, &texts(&["a"])).await.unwrap_err()
    else {
        panic!("another error");
    };
    assert!(why.contains(folder.path().to_str().unwrap()), "{why}");
    assert!(
        why.contains("lacks model.safetensors, tokenizer.json;"),
        "{why}"
    );
    assert!(why.contains("make setup"), "{why}");
    assert_eq!(provider.state(), ProviderState::NotConfigured { why });
}

#[tokio::test]
async fn a_broken_model_is_told_apart_from_a_missing_one_and_kills_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.safetensors", "tokenizer.json", "config.json"] {
        std::fs::write(folder.path().join(name), "{ this is no model").unwrap();
    }
    let provider = provider(folder.path().to_owned(), 1);
    for _ in 0..2 {
        let error = provider.embed(TENANT, &texts(&["a"])).await.unwrap_err();
        let ProviderError::NotConfigured { why } = error else {
            panic!("another error");
        };
        assert!(why.contains("config.json"), "{why}");
    }
}

#[tokio::test]
async fn near_synonyms_are_near_and_unrelated_sentences_are_not() {
    let Some(provider) = installed(2) else {
        return;
    };
    let found = provider
        .embed(
            TENANT,
            &texts(&[
                "The invoice must be paid within thirty days.",
                "Payment of the bill is due in a month.",
                "Penguins huddle together to survive the Antarctic winter.",
            ]),
        )
        .await
        .unwrap();
    assert_eq!(provider.model(), "all-minilm-l6-v2");
    assert_eq!(provider.dimensions(), Some(384));
    assert_eq!(provider.max_tokens(), 254);
    assert!(
        found.tokens > 30 && found.calls == 1,
        "{} {}",
        found.tokens,
        found.calls
    );
    for vector in &found.vectors {
        assert_eq!(vector.len(), 384);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-4);
    }
    let near = cosine(&found.vectors[0], &found.vectors[1]);
    let far = cosine(&found.vectors[0], &found.vectors[2]);
    eprintln!("near synonyms {near:.3}, unrelated {far:.3}");
    assert!(near > 0.5, "near {near}");
    assert!(far < 0.2, "far {far}");
}

#[tokio::test]
async fn a_text_has_the_same_vector_whatever_travels_with_it() {
    let Some(provider) = installed(2) else {
        return;
    };
    let long = "A long companion makes the batch wide and full of padding. ".repeat(12);
    let together = provider
        .embed(
            TENANT,
            &texts(&["a short one", &long, "", "水曜日 ünïcödé"]),
        )
        .await
        .unwrap();
    for (index, text) in ["a short one", &long, "", "水曜日 ünïcödé"]
        .into_iter()
        .enumerate()
    {
        let alone = provider.embed(TENANT, &texts(&[text])).await.unwrap();
        let same = cosine(&alone.vectors[0], &together.vectors[index]);
        assert!(same > 0.9999, "{text:?}: {same}");
    }
}

#[tokio::test]
async fn the_counter_counts_beyond_what_the_model_reads() {
    let Some(provider) = installed(1) else {
        return;
    };
    let counter = provider.token_counter().await.unwrap();
    assert_eq!(counter.count("hello world"), 2);
    assert_eq!(counter.count(&"hello ".repeat(1_000)), 1_000);
    let cut = provider
        .embed(TENANT, &texts(&[&"hello ".repeat(1_000)]))
        .await
        .unwrap();
    assert_eq!(cut.tokens, 256);
}

#[tokio::test(flavor = "current_thread")]
async fn the_runtime_goes_on_while_the_model_computes() {
    let Some(provider) = installed(2) else {
        return;
    };
    let chunk =
        "A few dozen chunks of some two hundred tokens a second is what two small cores can do. "
            .repeat(10);
    let chunks = vec![chunk; 48];
    // Loaded before the clock starts.
    provider.embed(TENANT, &chunks[..1]).await.unwrap();

    let turns = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&turns);
    let ticking = tokio::spawn(async move {
        let mut clock = tokio::time::interval(Duration::from_millis(2));
        loop {
            clock.tick().await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let started = Instant::now();
    let counter = provider.token_counter().await.unwrap();
    let tokens = counter.count(&chunks[0]);
    let found = provider.embed(TENANT, &chunks).await.unwrap();
    let seconds = started.elapsed().as_secs_f32();
    ticking.abort();

    assert_eq!(found.vectors.len(), chunks.len());
    assert!(turns.load(Ordering::Relaxed) > 50);
    eprintln!(
        "{} chunks of {tokens} tokens in {seconds:.2} s: {:.1} a second",
        chunks.len(),
        48.0 / seconds
    );
}

#[tokio::test]
async fn callers_at_once_share_one_model_and_each_gets_its_own_vectors() {
    let Some(provider) = installed(2) else {
        return;
    };
    let words = ["river", "bridge", "violin", "tax", "volcano", "bread"];
    let calls = words.map(|word| {
        let provider = provider.clone();
        tokio::spawn(async move { provider.embed(TENANT, &texts(&[word])).await.unwrap() })
    });
    for (word, call) in words.into_iter().zip(calls) {
        let at_once = call.await.unwrap();
        let alone = provider.embed(TENANT, &texts(&[word])).await.unwrap();
        assert!(
            cosine(&at_once.vectors[0], &alone.vectors[0]) > 0.9999,
            "{word}"
        );
    }
}

/// Texts of several kinds and lengths, and the vectors that candle's BERT gave for them in 32-bit floats, one after the other.
const REFERENCE_TEXTS: &str = include_str!("reference.txt");
const REFERENCE_VECTORS: &[u8] = include_bytes!("reference.f32");

#[tokio::test]
async fn the_vectors_are_those_of_32_bit_floats_and_so_is_what_is_near_to_what() {
    let Some(provider) = installed(2) else {
        return;
    };
    let texts: Vec<String> = REFERENCE_TEXTS.lines().map(str::to_owned).collect();
    let numbers: Vec<f32> = REFERENCE_VECTORS
        .as_chunks::<4>()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    let reference: Vec<&[f32]> = numbers.chunks_exact(384).collect();
    assert_eq!(reference.len(), texts.len());
    let found = provider.embed(TENANT, &texts).await.unwrap();
    assert!(found.unread.iter().all(|unread| *unread == 0));
    let found = found.vectors;
    let mut least = 1.0_f32;
    for ((text, found), reference) in texts.iter().zip(&found).zip(&reference) {
        let cosine = cosine(found, reference);
        assert!(cosine > 0.999, "{cosine}: {text}");
        least = least.min(cosine);
    }
    // Whatever is nearer by more than half a hundredth stays nearer.
    for query in 0..texts.len() {
        for near in 0..texts.len() {
            for far in 0..texts.len() {
                let [by, was] = [(near, far)].map(|(near, far)| {
                    let here =
                        cosine(&found[query], &found[near]) - cosine(&found[query], &found[far]);
                    let there = cosine(reference[query], reference[near])
                        - cosine(reference[query], reference[far]);
                    [here, there]
                })[0];
                assert!(was <= 0.005 || by > 0.0, "{query} {near} {far}: {was} {by}");
            }
        }
    }
    eprintln!("the least cosine of {} texts is {least:.5}", texts.len());
}

#[tokio::test]
async fn what_the_model_cannot_read_of_a_text_is_counted_in_characters() {
    let Some(provider) = installed(1) else {
        return;
    };
    let base64 = "TG9yZW0gaXBzdW0gZG9sb3Igc2l0IGFtZXQsIGNvbnNlY3RldHVyIGFkaXBpc2NpbmcgZWxpdA";
    for (text, least, most) in [
        (
            "The gauge is read at seven, the señal at eight; naïve café.",
            0,
            0,
        ),
        (
            "Überschwemmungsgebietsverordnungen und Hochwasserschutzanlagen",
            0,
            0,
        ),
        ("cafe\u{301} with its accent apart", 0, 0),
        ("🜁🜂🜃", 3, 3),
        ("two of these 🜁 🜂 are signs", 2, 2),
        ("น้ำท่วมเมื่อเช้านี้", 15, 19),
        (base64, 60, 76),
        ("\u{e001}\u{e002}", 2, 2),
        ("", 0, 0),
    ] {
        let unread = provider
            .embed(TENANT, &texts(&[text]))
            .await
            .unwrap()
            .unread[0];
        assert!((least..=most).contains(&unread), "{unread}: {text}");
    }
}

#[tokio::test]
async fn two_texts_that_differ_in_what_the_model_cannot_read_have_two_vectors() {
    let Some(provider) = installed(1) else {
        return;
    };
    for [one, other] in [
        [
            "The file of the bridge 🜁 is here.",
            "The file of the bridge 🜂 is here.",
        ],
        ["🜁🜁🜁🜁", "🜂🜂"],
        ["ฝนตกหนักที่ต้นน้ำ", "ท้องฟ้าแจ่มใสวันนี้"],
        ["\u{e001}", "\u{e002}"],
    ] {
        let found = provider.embed(TENANT, &texts(&[one, other])).await.unwrap();
        let alike = cosine(&found.vectors[0], &found.vectors[1]);
        assert!(alike < 0.9995, "{alike}: {one} {other}");
        assert!(found.unread.iter().all(|unread| *unread > 0));
    }
}
