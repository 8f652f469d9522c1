//! Over TLS: whom it trusts, and what it signs there.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use caudal_objects::{ObjectError, ObjectStore, Settings};
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Secure {
    endpoint: String,
    ca_pem: Vec<u8>,
    heads: Arc<Mutex<Vec<String>>>,
}

/// Answers one request a connection, with no bytes.
async fn started() -> Secure {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let ca_pem = made.cert.pem().into_bytes();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key.into())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listen = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("https://localhost:{}", listen.local_addr().unwrap().port());
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let kept = heads.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listen.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut head = Vec::new();
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            kept.lock()
                .unwrap()
                .push(String::from_utf8_lossy(&head).into_owned());
            let answer =
                "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    Secure {
        endpoint,
        ca_pem,
        heads,
    }
}

fn client(secure: &Secure, ca_pem: Option<Vec<u8>>) -> Result<ObjectStore, ObjectError> {
    let mut settings = Settings::new(secure.endpoint.as_str(), "bucket", "access", "secret");
    settings.ca_pem = ca_pem;
    ObjectStore::connect(settings)
}

#[tokio::test]
async fn a_store_of_a_named_authority_is_trusted_and_its_bodies_are_not_hashed() {
    let secure = started().await;
    let store = client(&secure, Some(secure.ca_pem.clone())).unwrap();
    let bytes = Bytes::from_static(b"bytes");
    assert_eq!(store.put("key", "text/plain", bytes).await.unwrap(), "e");
    assert!(store.head("key").await.unwrap().is_some());
    let heads = secure.heads.lock().unwrap();
    assert!(heads[0].contains("x-amz-content-sha256: UNSIGNED-PAYLOAD\r\n"));
    let of_nothing =
        "x-amz-content-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert!(heads[1].contains(of_nothing));
}

#[tokio::test]
async fn a_store_of_nobody_known_is_sent_nothing() {
    let secure = started().await;
    let store = client(&secure, None).unwrap();
    let refused = store.head("key").await.unwrap_err();
    assert!(refused.is_retryable(), "{refused}");
    assert!(secure.heads.lock().unwrap().is_empty());
    let not_pem = client(&secure, Some(b"words".to_vec()));
    assert!(matches!(not_pem, Err(ObjectError::Refused { .. })));
}
