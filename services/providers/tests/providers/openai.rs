#![expect(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use caudal_harness::eventually;
use caudal_providers::{
    ApiKey, EmbeddingProvider, EmbeddingSettings, OpenAiSettings, Permitted, ProviderError,
    ProviderPermits, ProviderState, Throttled, Unlimited,
};
use tokio::net::TcpListener;

use crate::TENANT;
use crate::server::{self, Scripted, Server, status};

fn settings(url: &str) -> OpenAiSettings {
    OpenAiSettings {
        server: server::settings(url),
        dimensions: None,
        max_tokens: 512,
        batch: 3,
    }
}

fn provider_with(settings: OpenAiSettings) -> EmbeddingProvider {
    EmbeddingProvider::new(EmbeddingSettings::OpenAi(settings), Arc::new(Unlimited)).unwrap()
}

fn texts(count: usize) -> Vec<String> {
    (1..=count).map(|length| "x".repeat(length)).collect()
}

#[tokio::test]
async fn texts_travel_in_batches_and_come_back_in_order() {
    let server = Server::start(Vec::new()).await;
    let provider = provider_with(settings(&format!("{}/", server.url)));
    let found = provider.embed(TENANT, &texts(8)).await.unwrap();

    for (index, vector) in found.vectors.iter().enumerate() {
        #[expect(clippy::cast_precision_loss)]
        let length = (index + 1) as f32;
        assert_eq!(vector, &vec![length, 1.0]);
    }
    assert_eq!((found.calls, found.tokens), (3, 24));
    let provider = server.provider.lock().unwrap();
    let mut keys = std::collections::HashSet::new();
    for (headers, request) in &provider.seen {
        assert_eq!(headers["authorization"], "Bearer sk-secret");
        assert!(
            keys.insert(headers["idempotency-key"].clone()),
            "one key a content"
        );
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(request["model"], "small");
        assert_eq!(request["encoding_format"], "float");
        assert!(request.get("dimensions").is_none());
        assert!(request["input"].as_array().unwrap().len() <= 3);
    }
}

#[tokio::test]
async fn a_429_asks_everyone_to_wait_and_nothing_is_sent_before() {
    let limited = Scripted::Status(
        StatusCode::TOO_MANY_REQUESTS,
        vec![("retry-after", "7")],
        "slow down",
    );
    let server = Server::start(vec![limited]).await;
    let provider = provider_with(settings(&server.url));

    let first = provider.embed(TENANT, &texts(1)).await.unwrap_err();
    assert_eq!(
        first,
        ProviderError::Throttled {
            retry_after: Duration::from_secs(7)
        }
    );
    let second = provider.clone().embed(TENANT, &texts(1)).await.unwrap_err();
    assert!(
        matches!(second, ProviderError::Throttled { retry_after } if retry_after > Duration::from_secs(5))
    );
    assert_eq!(server.seen(), 1);
    assert!(matches!(provider.state(), ProviderState::Paused { .. }));
}

#[tokio::test]
async fn a_short_pause_is_waited_out_here_and_the_same_request_has_the_same_key() {
    let limited = || {
        Scripted::Status(
            StatusCode::TOO_MANY_REQUESTS,
            vec![("retry-after-ms", "100")],
            "slow down",
        )
    };
    let server = Server::start(vec![limited(), limited()]).await;
    let provider = provider_with(settings(&server.url));
    let begun = std::time::Instant::now();
    provider.embed(TENANT, &texts(1)).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(200));
    let provider = server.provider.lock().unwrap();
    let keys: Vec<_> = provider
        .seen
        .iter()
        .map(|(headers, _)| headers["idempotency-key"].clone())
        .collect();
    assert_eq!(keys.len(), 3);
    assert!(keys.iter().all(|key| *key == keys[0]));
}

#[tokio::test]
async fn another_length_than_before_is_the_providers_fault_and_no_files() {
    let server = Server::start(vec![
        Scripted::Fine,
        status(200, r#"{"data": [{"index": 0, "embedding": [1, 2, 3]}]}"#),
    ])
    .await;
    let provider = provider_with(settings(&server.url));
    provider.embed(TENANT, &texts(1)).await.unwrap();
    let error = provider.embed(TENANT, &texts(1)).await.unwrap_err();
    assert!(!error.is_of_the_request());
    assert!(
        error.to_string().contains("3 dimensions instead of the 2"),
        "{error}"
    );
    provider.probe().await.unwrap();
}

#[tokio::test]
async fn the_length_that_vectors_had_before_a_restart_is_expected_of_the_first_answer_and_of_probes()
 {
    let server = Server::start(vec![Scripted::Fine, Scripted::Fine, Scripted::Fine]).await;
    let expecting = |length| {
        let provider = provider_with(settings(&server.url));
        provider.expect_dimensions(length);
        provider
    };
    for error in [
        expecting(3).embed(TENANT, &texts(1)).await.unwrap_err(),
        expecting(3).probe().await.unwrap_err(),
    ] {
        let words = error.to_string();
        assert!(words.contains("2 dimensions instead of the 3"), "{words}");
    }
    expecting(2).embed(TENANT, &texts(1)).await.unwrap();
}

#[tokio::test]
async fn failures_in_a_row_open_the_breaker_and_a_probe_closes_it() {
    let server = Server::start(vec![status(500, "oops"), status(503, "oops")]).await;
    let provider = provider_with(settings(&server.url));
    for _ in 0..2 {
        let error = provider.embed(TENANT, &texts(1)).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Unavailable { .. }),
            "{error}"
        );
    }
    let error = provider.embed(TENANT, &texts(1)).await.unwrap_err();
    let wait = error.retry_after().unwrap();
    assert!(wait <= Duration::from_millis(300));
    assert_eq!(server.seen(), 2, "an open breaker sends nothing");
    assert!(matches!(provider.state(), ProviderState::Paused { .. }));

    eventually("a probe closes it", async || {
        provider.embed(TENANT, &texts(1)).await.is_ok()
    })
    .await;
    assert_eq!(server.seen(), 3);
    assert_eq!(provider.state(), ProviderState::Ready);
}

#[tokio::test]
async fn a_request_that_is_refused_for_its_content_is_rejected_and_opens_no_breaker() {
    let words = r#"{"error": {"message": "too long, sk-secret", "type": "invalid_request_error"}}"#;
    let mut script = vec![Scripted::Fine];
    // After each it is asked whether it refuses everything.
    script.extend((0..4).flat_map(|_| [status(400, words), Scripted::Fine]));
    let server = Server::start(script).await;
    let provider = provider_with(settings(&server.url));
    provider.embed(TENANT, &texts(1)).await.unwrap();
    for _ in 0..4 {
        assert_eq!(
            provider.embed(TENANT, &texts(1)).await.unwrap_err(),
            ProviderError::Rejected {
                status: 400,
                detail: "too long, [key]".to_owned()
            }
        );
    }
    assert_eq!(provider.state(), ProviderState::Ready);
}

#[tokio::test]
async fn a_refused_key_or_unknown_model_is_the_configurations_fault_and_the_file_may_wait() {
    let (key, name, account) = ("", "model's name", "account");
    for (code, unauthorized, hint) in [
        (401, true, key),
        (403, true, key),
        (404, false, name),
        (405, false, name),
        (402, false, account),
        (409, false, account),
        (451, false, account),
    ] {
        let server = Server::start(vec![status(code, r#"{"error": "no sk-secret"}"#)]).await;
        let error = provider_with(settings(&server.url))
            .embed(TENANT, &texts(1))
            .await
            .unwrap_err();
        match &error {
            ProviderError::Unauthorized { detail } => {
                assert!(unauthorized);
                assert_eq!(*detail, format!("status {code}: no [key]"));
            }
            ProviderError::Unavailable { detail, .. } => {
                assert!(!unauthorized);
                assert!(detail.contains(hint), "{detail}");
            }
            _ => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn while_the_breaker_is_open_what_it_is_open_for_is_told() {
    let server = Server::start((0..3).map(|_| status(401, "no")).collect()).await;
    let provider = provider_with(settings(&server.url));
    for _ in 0..3 {
        let error = provider.embed(TENANT, &texts(1)).await.unwrap_err();
        assert!(
            matches!(error, ProviderError::Unauthorized { .. }),
            "{error}"
        );
    }
    assert_eq!(server.seen(), 2, "an open breaker sends nothing");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_there_is_unavailable() {
    let server = Server::start(vec![Scripted::Never]).await;
    let mut impatient = settings(&server.url);
    impatient.server.timeout = Duration::from_millis(100);
    let error = provider_with(impatient)
        .embed(TENANT, &texts(1))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("gave no answer within 0.1 s"),
        "{error}"
    );

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nowhere = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let error = provider_with(settings(&nowhere))
        .embed(TENANT, &texts(1))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_asked_for_is_asked_for_again_and_never_taken() {
    for (body, hint, of_the_request) in [
        ("<html>", "not what OpenAI's API gives", false),
        (r#"{"data": []}"#, "0 vectors for 1", true),
        (
            r#"{"data": [{"index": 0, "embedding": [1]}, {"index": 0, "embedding": [1]}]}"#,
            "index 0",
            true,
        ),
        (
            r#"{"data": [{"index": 9, "embedding": [1]}]}"#,
            "index 9",
            true,
        ),
        (
            r#"{"data": [{"index": 0, "embedding": []}]}"#,
            "several lengths",
            true,
        ),
        (r#"{"data": [{"index": 0, "embedding": [1e39]}]}"#, "", true),
    ] {
        let server = Server::start((0..2).map(|_| status(200, body)).collect()).await;
        let error = provider_with(settings(&server.url))
            .embed(TENANT, &texts(1))
            .await
            .unwrap_err();
        assert!(error.to_string().contains(hint), "{body}: {error}");
        assert_eq!(error.is_of_the_request(), of_the_request, "{body}: {error}");
        // A third request asks whether it is the provider's fault.
        assert_eq!(server.seen(), if of_the_request { 3 } else { 1 });
    }
    let server = Server::start(Vec::new()).await;
    let mut three = settings(&server.url);
    three.dimensions = Some(3);
    let error = provider_with(three)
        .embed(TENANT, &texts(1))
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("2 dimensions instead of the 3"),
        "{error}"
    );
    assert_eq!(server.provider.lock().unwrap().seen[0].1["dimensions"], 3);
}

struct NoPermits;

impl ProviderPermits for NoPermits {
    fn acquire(&self, _requests: u32, _tokens: u64) -> Permitted<'_> {
        Box::pin(std::future::ready(Err(Throttled {
            retry_after: Duration::from_secs(4),
        })))
    }
}

#[tokio::test]
async fn without_a_permit_nothing_is_sent() {
    let server = Server::start(Vec::new()).await;
    let provider = EmbeddingProvider::new(
        EmbeddingSettings::OpenAi(settings(&server.url)),
        Arc::new(NoPermits),
    )
    .unwrap();
    assert_eq!(
        provider.embed(TENANT, &texts(1)).await.unwrap_err(),
        ProviderError::NoPermit {
            retry_after: Duration::from_secs(4)
        }
    );
    assert_eq!(server.seen(), 0);
}

#[tokio::test]
async fn a_call_that_is_given_up_half_way_leaves_the_probe_to_another() {
    let server = Server::start(vec![status(500, ""), status(500, ""), Scripted::Never]).await;
    let provider = provider_with(settings(&server.url));
    for _ in 0..2 {
        provider.embed(TENANT, &texts(1)).await.unwrap_err();
    }
    let one = texts(1);
    eventually("a probe is let through, and given up", async || {
        let probe = provider.embed(TENANT, &one);
        let given_up = tokio::time::timeout(Duration::from_millis(100), probe);
        given_up.await.is_err()
    })
    .await;
    provider.embed(TENANT, &texts(1)).await.unwrap();
}

#[test]
fn wrong_settings_are_named_before_anything_is_sent() {
    let wrong = |change: fn(&mut OpenAiSettings)| {
        let mut changed = settings("http://127.0.0.1:1");
        change(&mut changed);
        EmbeddingProvider::new(EmbeddingSettings::OpenAi(changed), Arc::new(Unlimited))
            .unwrap_err()
            .setting
    };
    assert_eq!(
        wrong(|settings| settings.server.base_url = "ftp://host".to_owned()),
        "base_url"
    );
    assert_eq!(
        wrong(|settings| settings.server.base_url = "no address".to_owned()),
        "base_url"
    );
    assert_eq!(wrong(|settings| settings.server.model.clear()), "model");
    assert_eq!(wrong(|settings| settings.batch = 0), "batch");
    assert_eq!(
        wrong(|settings| settings.server.api_key = ApiKey::new("a\nb")),
        "API key"
    );
}

#[tokio::test]
async fn an_https_address_is_tried_with_tls() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free.local_addr().unwrap();
    let plain = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = free.accept().await.unwrap();
        let mut hello = [0; 1];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(b"HTTP/1.1 400 no\r\n\r\n").await.unwrap();
        hello[0]
    });
    // A machine without root certificates says so when the provider is built.
    let Ok(provider) = EmbeddingProvider::new(
        EmbeddingSettings::OpenAi(settings(&format!("https://{address}/v1"))),
        Arc::new(Unlimited),
    ) else {
        eprintln!("skipped, no root certificates on this machine");
        return;
    };
    let error = provider.embed(TENANT, &texts(1)).await.unwrap_err();
    assert!(
        matches!(error, ProviderError::Unavailable { .. }),
        "{error}"
    );
    assert_eq!(
        plain.await.unwrap(),
        0x16,
        "the first byte of a TLS handshake"
    );
}
