#![expect(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use caudal_harness::eventually;
use caudal_providers::{
    CaptionSettings, Captions, DEFAULT_PROMPT, Picture, PictureVectors, PictureVectorsSettings,
    ProviderError, Unlimited,
};
use serde_json::Value;

use crate::TENANT;
use crate::server::{self, Scripted, Server, status};

fn caption_settings(url: &str) -> CaptionSettings {
    CaptionSettings {
        server: server::settings(url),
        prompt: DEFAULT_PROMPT.to_owned(),
        language: "Spanish".to_owned(),
        detail: "low".to_owned(),
        side: 1_024,
        max_tokens: 300,
        max_characters: 40,
        requests: 2,
    }
}

fn captions(server: &Server) -> Captions {
    Captions::new(caption_settings(&server.url), Arc::new(Unlimited)).unwrap()
}

fn vectors(server: &Server) -> PictureVectors {
    let settings = PictureVectorsSettings {
        server: server::settings(&server.url),
        dimensions: None,
        side: 512,
        batch: 3,
    };
    PictureVectors::new(settings, Arc::new(Unlimited)).unwrap()
}

fn picture(length: usize) -> Picture {
    Picture::jpeg(vec![7; length], 512)
}

/// An answer that says this, and ended so.
fn said(message: &str, ended: &str) -> Scripted {
    let answer = format!(
        r#"{{"choices": [{{"index": 0, "finish_reason": "{ended}", "message": {message}}}]}}"#
    );
    status(200, answer.leak())
}

#[tokio::test]
async fn a_picture_travels_in_the_message_with_the_prompt_in_its_language_and_comes_back_as_a_caption()
 {
    let server = Server::start(Vec::new()).await;
    let captions = captions(&server);
    let caption = captions.describe(TENANT, picture(3)).await.unwrap();
    assert_eq!(
        (caption.text.as_str(), caption.tokens),
        ("A picture of 27.", 100)
    );

    let provider = server.provider.lock().unwrap();
    let (headers, request) = &provider.seen[0];
    assert_eq!(headers["authorization"], "Bearer sk-secret");
    assert_eq!(headers["idempotency-key"].len(), 64);
    assert_eq!(
        (&request["model"], &request["max_tokens"]),
        (&"small".into(), &300.into())
    );
    let parts = &request["messages"][0]["content"];
    let prompt = parts[0]["text"].as_str().unwrap();
    assert!(prompt.contains("Answer in Spanish"), "{prompt}");
    assert_eq!(parts[1]["image_url"]["url"], "data:image/jpeg;base64,BwcH");
    assert_eq!(parts[1]["image_url"]["detail"], "low");
    let options = captions.version_options();
    assert!(options.contains("detail=low") && !options.contains("sk-secret"));
    assert!(!format!("{captions:?}").contains("sk-secret"));
}

#[tokio::test]
async fn a_picture_that_is_refused_is_rejected_whether_by_status_by_words_or_by_a_filter() {
    for refusal in [
        status(400, r#"{"error": {"message": "content policy"}}"#),
        said(r#"{"content": null, "refusal": "content policy"}"#, "stop"),
        said(r#"{"content": ""}"#, "content_filter"),
    ] {
        let server = Server::start(vec![Scripted::Fine, refusal]).await;
        let captions = captions(&server);
        captions.describe(TENANT, picture(1)).await.unwrap();
        let error = captions.describe(TENANT, picture(2)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Rejected { .. }), "{error}");
        assert_eq!(server.seen(), 3, "and whether it refuses everything");
        captions.describe(TENANT, picture(3)).await.unwrap();
    }
}

#[tokio::test]
async fn a_caption_that_is_empty_or_half_is_asked_for_again_and_never_taken() {
    for bad in [
        r#"{"content": ""}"#,
        r#"{"content": null}"#,
        r#"{"content": " \n "}"#,
    ] {
        let server = Server::start(vec![said(bad, "stop"), said(bad, "stop")]).await;
        let error = captions(&server)
            .describe(TENANT, picture(1))
            .await
            .unwrap_err();
        let is_bad =
            matches!(&error, ProviderError::InvalidAnswer { detail } if detail.contains("empty"));
        assert!(is_bad, "{error}");
        assert_eq!(
            server.seen(),
            3,
            "twice, and then whether it is the provider's fault"
        );
    }
    let half = || said(r#"{"content": "A gauge that stands in"}"#, "length");
    let server = Server::start(vec![half()]).await;
    let caption = captions(&server)
        .describe(TENANT, picture(1))
        .await
        .unwrap();
    assert_eq!(caption.text, "A picture of 27.");

    let long = r#"{"content": "A gauge. It stands in a river that is wide and brown."}"#;
    let server = Server::start(vec![said(long, "stop")]).await;
    let caption = captions(&server)
        .describe(TENANT, picture(1))
        .await
        .unwrap();
    assert_eq!(caption.text, "A gauge.");
}

#[tokio::test]
async fn a_provider_that_says_nothing_of_any_picture_is_at_fault_and_no_picture_is_blamed() {
    let empty = || said(r#"{"content": ""}"#, "stop");
    let server = Server::start((0..3).map(|_| empty()).collect()).await;
    let captions = captions(&server);
    let error = captions.describe(TENANT, picture(1)).await.unwrap_err();
    assert!(matches!(error, ProviderError::Misbehaves { .. }), "{error}");
    captions.probe().await.unwrap();
    captions.describe(TENANT, picture(1)).await.unwrap();

    let no = || status(400, r#"{"error": "no such parameter"}"#);
    let server = Server::start(vec![Scripted::Fine, no(), no()]).await;
    let captions = self::captions(&server);
    captions.describe(TENANT, picture(1)).await.unwrap();
    let error = captions.describe(TENANT, picture(1)).await.unwrap_err();
    assert!(matches!(error, ProviderError::Misbehaves { .. }), "{error}");
}

#[tokio::test]
async fn captions_share_pauses_key_and_breaker_with_all_that_is_asked() {
    let limited = Scripted::Status(
        StatusCode::TOO_MANY_REQUESTS,
        vec![("retry-after", "7")],
        "slow down",
    );
    let server = Server::start(vec![limited]).await;
    let provider = captions(&server);
    for _ in 0..2 {
        let error = provider.describe(TENANT, picture(1)).await.unwrap_err();
        assert!(matches!(error, ProviderError::Throttled { .. }), "{error}");
    }
    assert_eq!(server.seen(), 1);

    let server = Server::start(vec![status(401, "no sk-secret")]).await;
    let error = captions(&server)
        .describe(TENANT, picture(1))
        .await
        .unwrap_err();
    let refuses = matches!(&error, ProviderError::Unauthorized { detail } if detail == "status 401: no [key]");
    assert!(refuses, "{error}");

    let server = Server::start(vec![status(500, ""), status(500, "")]).await;
    let provider = captions(&server);
    for _ in 0..3 {
        let error = provider.describe(TENANT, picture(1)).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Unavailable { .. }),
            "{error}"
        );
    }
    assert_eq!(server.seen(), 2, "an open breaker sends nothing");
    eventually("a probe closes it", async || provider.probe().await.is_ok()).await;
}

#[tokio::test]
async fn the_same_picture_asked_for_again_has_the_same_key() {
    let throttled = Scripted::Status(
        StatusCode::TOO_MANY_REQUESTS,
        vec![("retry-after-ms", "50")],
        "",
    );
    let server = Server::start(vec![throttled]).await;
    captions(&server)
        .describe(TENANT, picture(1))
        .await
        .unwrap();
    captions(&server)
        .describe(TENANT, picture(1))
        .await
        .unwrap();
    captions(&server)
        .describe(TENANT, picture(2))
        .await
        .unwrap();
    let provider = server.provider.lock().unwrap();
    let keys: Vec<_> = provider
        .seen
        .iter()
        .map(|(headers, _)| &headers["idempotency-key"])
        .collect();
    assert_eq!(keys.len(), 4);
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3]);
}

#[tokio::test]
async fn pictures_of_many_files_share_requests_and_each_has_its_own_vector() {
    let server = Server::start(Vec::new()).await;
    let vectors = vectors(&server);
    let asked = (1..=9).map(|length| {
        let vectors = vectors.clone();
        tokio::spawn(async move { vectors.embed(TENANT, picture(length)).await })
    });
    let asked: Vec<_> = asked.collect();
    for (length, asked) in (1..=9_usize).zip(asked) {
        let found = asked.await.unwrap().unwrap();
        let url = "data:image/jpeg;base64,".len() + length.div_ceil(3) * 4;
        #[expect(clippy::cast_precision_loss)]
        let expected = vec![vec![url as f32, 1.0]];
        assert_eq!((found.vectors, found.tokens), (expected, 3));
    }
    let provider = server.provider.lock().unwrap();
    assert!(provider.seen.len() <= 5, "{}", provider.seen.len());
    let first = &provider.seen[0].1["input"][0];
    let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["image"]);
    assert!(
        first["image"]
            .as_str()
            .unwrap()
            .starts_with("data:image/jpeg;base64,")
    );
}

#[tokio::test]
async fn vectors_of_pictures_keep_the_length_that_they_had_first() {
    let server = Server::start(Vec::new()).await;
    let vectors = vectors(&server);
    vectors.expect_dimensions(3);
    let error = vectors.embed(TENANT, picture(1)).await.unwrap_err();
    let words = error.to_string();
    assert!(words.contains("2 dimensions instead of the 3"), "{words}");
    assert!(!error.is_of_the_request());
}

#[test]
fn wrong_settings_of_captions_are_named_before_anything_is_sent() {
    let wrong = |change: fn(&mut CaptionSettings)| {
        let mut changed = caption_settings("http://127.0.0.1:1");
        change(&mut changed);
        Captions::new(changed, Arc::new(Unlimited))
            .unwrap_err()
            .setting
    };
    assert_eq!(wrong(|settings| settings.prompt = " ".to_owned()), "prompt");
    assert_eq!(wrong(|settings| settings.requests = 0), "requests");
    assert_eq!(
        wrong(|settings| settings.max_characters = 0),
        "max_characters"
    );
    assert_eq!(
        wrong(|settings| settings.server.timeout = Duration::ZERO),
        "timeout"
    );
    assert_eq!(
        wrong(|settings| settings.server.base_url.clear()),
        "base_url"
    );
}

#[tokio::test]
async fn a_prompt_that_does_not_say_where_the_language_belongs_is_followed_by_it() {
    let server = Server::start(Vec::new()).await;
    let mut settings = caption_settings(&server.url);
    settings.prompt = "What is this?".to_owned();
    let captions = Captions::new(settings, Arc::new(Unlimited)).unwrap();
    captions.describe(TENANT, picture(1)).await.unwrap();
    let provider = server.provider.lock().unwrap();
    let asked: &Value = &provider.seen[0].1["messages"][0]["content"][0]["text"];
    assert_eq!(asked, "What is this? Answer in Spanish.");
}
