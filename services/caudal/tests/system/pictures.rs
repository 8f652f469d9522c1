//! Pictures that providers describe and make vectors of: what they say, and when they say no.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use caudal_harness::{Mood, Provider, System};
use caudal_sdk::v1;
use tempfile::TempDir;

use crate::corpus::{artifact, listed};
use crate::provider::{begin_stages, begin_told, charged, end, metrics_of, until};
use crate::raw::files;
use crate::{binary, json};

const STAGES: &str = "upload,image-processing,embeddings,metadata";
const STAGE: &str = "image-processing";

/// The three providers, each a server of its own.
struct Providers {
    texts: Provider,
    captions: Provider,
    vectors: Provider,
}

impl Providers {
    fn start() -> Self {
        let start = || Provider::start(Mood::Fine).unwrap();
        Self {
            texts: start(),
            captions: start(),
            vectors: start(),
        }
    }

    fn system(&self, folder: &TempDir) -> System {
        let environment = [
            ("CAUDAL_EMBEDDING_URL", self.texts.url()),
            ("CAUDAL_CAPTION_URL", self.captions.url()),
            ("CAUDAL_CAPTION_MODEL", "seer"),
            ("CAUDAL_CAPTION_LANGUAGE", "Spanish"),
            ("CAUDAL_CAPTION_SIDE", "256"),
            ("CAUDAL_CAPTION_TIMEOUT_SECONDS", "2"),
            ("CAUDAL_IMAGE_EMBEDDING_URL", self.vectors.url()),
            ("CAUDAL_IMAGE_EMBEDDING_MODEL", "clip"),
            ("CAUDAL_IMAGE_EMBEDDING_SIDE", "128"),
            ("CAUDAL_IMAGE_EMBEDDING_TIMEOUT_SECONDS", "2"),
        ];
        let data = folder.path().join("data");
        System::start_in(binary(), &data, &[], &environment).unwrap()
    }
}

/// So many pictures of so many pixels to a side, each another, as BMP.
fn pictures(folder: &TempDir, name: &str, count: u32, side: u32) -> PathBuf {
    const HEADER: u32 = 54;
    let root = folder.path().join(name);
    std::fs::create_dir_all(&root).unwrap();
    for number in 0..count {
        let mut bytes = b"BM".to_vec();
        let size = side * side * 4;
        for word in [HEADER + size, 0, HEADER, 40, side, side] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        // One plane of 32 bits, not compressed.
        bytes.extend_from_slice(&[1, 0, 32, 0]);
        for word in [0, size, 2_835, 2_835, 0, 0] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        for pixel in 0..side * side {
            let (x, y) = (pixel % side, pixel / side);
            let is_lit = (x * 7 + y * (number + 3)) % side > side / 2;
            let light = if is_lit { 230 } else { 20 };
            bytes.extend_from_slice(&[light, (number * 3) as u8, 255 - light, 0]);
        }
        std::fs::write(root.join(format!("{number}.bmp")), bytes).unwrap();
    }
    root
}

/// The files of a batch, each with the bytes of its artifacts by the last part of their names.
fn results(system: &System, batch: &str) -> Vec<(v1::File, HashMap<String, Vec<u8>>)> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut client = files(system);
        let mut results = Vec::new();
        let found = listed(&mut client, &format!("batches/{batch}")).await;
        for file in found.into_values() {
            let mut artifacts = HashMap::new();
            for told in &file.artifacts {
                let (_, name) = told.name.rsplit_once('/').unwrap();
                let bytes = artifact(&mut client, &file, name).await.unwrap();
                artifacts.insert(name.to_owned(), bytes);
            }
            results.push((file, artifacts));
        }
        results
    })
}

#[test]
fn a_picture_gets_a_caption_and_a_vector_and_its_caption_is_embedded() {
    const FILES: usize = 3;
    const SIDE: u32 = 900;
    let providers = Providers::start();
    let folder = TempDir::new().unwrap();
    let system = providers.system(&folder);
    let root = pictures(&folder, "large", FILES as u32, SIDE);
    let batch = end(begin_stages(&system, &root, STAGES), FILES);

    for (file, artifacts) in &results(&system, &batch) {
        let caption = String::from_utf8(artifacts["caption.txt"].clone()).unwrap();
        assert!(caption.starts_with("A picture in "), "{caption}");
        let has = |name: &str, words: &[u8]| {
            let mut parts = artifacts[name].windows(words.len());
            parts.any(|part| part == words)
        };
        assert!(artifacts["image-vector.arrow"].starts_with(b"ARROW1"));
        assert!(has("image-vector.arrow", b"clip"));
        assert!(
            has("embeddings.arrow", b"caption.txt"),
            "the caption is the text that is embedded"
        );
        assert!(artifacts.contains_key("thumbnail.jpg"));
        let record = format!("{:?}", file.results);
        for told in ["seer", "Spanish", "clip"] {
            assert!(record.contains(told), "{told} is not in {record}");
        }
    }
    assert_eq!(providers.texts.asked().served.iter().sum::<usize>(), FILES);
    // What is sent is a small JPEG, whatever the size of the file.
    let bytes = (SIDE * SIDE * 4) as usize;
    for asked in [providers.captions.asked(), providers.vectors.asked()] {
        assert_eq!(asked.pictures.len(), FILES);
        assert!(asked.pictures.iter().all(|url| url.len() < bytes / 10));
    }
    system.verify().unwrap();
}

#[test]
fn providers_of_pictures_that_refuse_the_key_fail_hang_and_say_nothing_cost_no_attempt() {
    const FILES: usize = 60;
    let providers = Providers::start();
    let folder = TempDir::new().unwrap();
    let system = providers.system(&folder);
    let root = pictures(&folder, "pictures", FILES as u32, 60);
    providers.captions.set_mood(Mood::Fails(401));
    let ingest = begin_stages(&system, &root, STAGES);
    let asked = || {
        let asked = providers.captions.asked();
        asked.refused + asked.served.len()
    };
    for mood in [
        Mood::Fails(401),
        Mood::Fails(500),
        Mood::Hangs,
        Mood::Silent,
    ] {
        providers.captions.set_mood(mood);
        let before = asked();
        until("it is asked again, and waited for", || asked() > before);
    }
    providers.captions.set_mood(Mood::Fine);
    end(ingest, FILES);
    assert_eq!(charged(&metrics_of(&system, STAGE)), 0);
    assert_eq!(
        providers.vectors.asked().pictures.len(),
        FILES,
        "what is known is not asked for again"
    );
    system.verify().unwrap();
}

// Protocol 13.6.
#[test]
fn vectors_of_pictures_of_another_length_than_before_a_restart_are_waited_out() {
    let providers = Providers::start();
    let folder = TempDir::new().unwrap();
    let mut system = providers.system(&folder);
    let first = pictures(&folder, "first", 2, 40);
    end(begin_stages(&system, &first, STAGES), 2);
    assert!(system.stop().unwrap().success());
    system.restart().unwrap();
    providers.vectors.set_mood(Mood::Longer);
    let said = folder.path().join("said");
    let second = pictures(&folder, "second", 5, 70);
    let mut ingest = begin_told(&system, &second, &said, STAGES);
    let said = || std::fs::read_to_string(&said).unwrap();
    let waits =
        "the image embedding provider gives answers that cannot be used (PROVIDER_ANSWER_INVALID)";
    until("it is told what is waited for", || said().contains(waits));
    assert_eq!(charged(&metrics_of(&system, STAGE)), 0);
    providers.vectors.set_mood(Mood::Fine);
    assert!(ingest.wait().unwrap().success(), "{}", said());
    system.verify().unwrap();
}

#[test]
fn a_caption_provider_that_throttles_is_asked_within_what_it_allows_and_whoever_waits_is_told() {
    const FILES: usize = 12;
    let every = Duration::from_millis(500);
    let providers = Providers::start();
    providers.captions.set_mood(Mood::Fails(401));
    let folder = TempDir::new().unwrap();
    let system = providers.system(&folder);
    let said = folder.path().join("said");
    let root = pictures(&folder, "pictures", FILES as u32, 50);
    let mut ingest = begin_told(&system, &root, &said, STAGES);
    let said = || std::fs::read_to_string(&said).unwrap();
    let waits = "image-processing waits: the caption provider refuses the installation's key (PROVIDER_UNAUTHORIZED)";
    until("it is told what is waited for", || said().contains(waits));
    providers.captions.set_mood(Mood::Limited {
        every,
        retry_after: Duration::from_secs(1),
    });
    assert!(ingest.wait().unwrap().success(), "{}", said());
    assert_eq!(charged(&metrics_of(&system, STAGE)), 0);
    let asked = providers.captions.asked();
    assert_eq!(asked.pictures.len(), FILES, "each once");
    assert_eq!(asked.too_early, 0, "{} in vain", asked.refused);
    system.verify().unwrap();
}

#[test]
fn a_picture_that_the_caption_provider_refuses_is_partial_and_keeps_the_rest() {
    const FILES: usize = 4;
    let providers = Providers::start();
    providers.captions.set_mood(Mood::Refuses);
    let folder = TempDir::new().unwrap();
    let system = providers.system(&folder);
    let root = pictures(&folder, "pictures", FILES as u32, 50);
    let ingest = begin_stages(&system, &root, STAGES);
    let ended = json(&ingest.wait_with_output().unwrap());
    assert_eq!(ended["state"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["outcomes"]["PARTIAL"], FILES, "{ended}");
    let batch = ended["batch_id"].as_str().unwrap();
    for (file, artifacts) in &results(&system, batch) {
        let warnings = file.warnings.iter();
        let codes: Vec<&str> = warnings.map(|warning| warning.code.as_str()).collect();
        assert_eq!(codes, ["CAPTION_REFUSED"]);
        let words = &file.warnings[0].words;
        assert!(
            !words.contains("rather not"),
            "what it said is for operators: {words}"
        );
        assert!(artifacts.contains_key("thumbnail.jpg"));
        assert!(artifacts.contains_key("image-vector.arrow"));
        assert!(!artifacts.contains_key("caption.txt"));
    }
    assert_eq!(charged(&metrics_of(&system, STAGE)), 0);
    assert!(providers.texts.asked().served.is_empty());
    system.verify().unwrap();
}
