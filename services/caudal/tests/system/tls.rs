//! Everything that leaves the machine over TLS, with an authority of one's own: the command to the gateway and to the store,
//! and the system to the store.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use caudal_embedded::{Durability, S3Server, S3Settings};
use caudal_harness::System;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::{QUICK, binary, json, texts_in};

const FILES: usize = 20;

/// An authority, and a certificate of it for this machine.
struct Authority {
    server: rcgen::Certificate,
    server_key: KeyPair,
}

impl Authority {
    /// Writes `ca.pem`, `server.pem` and `server.key` into the folder.
    fn make(folder: &Path) -> Self {
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = Issuer::from_params(&ca, &ca_key);
        let server_key = KeyPair::generate().unwrap();
        let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
        let server = CertificateParams::new(names)
            .unwrap()
            .signed_by(&server_key, &issuer)
            .unwrap();
        std::fs::write(folder.join("ca.pem"), ca_certificate.pem()).unwrap();
        std::fs::write(folder.join("server.pem"), server.pem()).unwrap();
        std::fs::write(folder.join("server.key"), server_key.serialize_pem()).unwrap();
        Self { server, server_key }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::try_from(self.server_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.server.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// A store behind TLS; answers where it is.
async fn store(folder: &Path, authority: &Authority) -> SocketAddr {
    let mut settings = S3Settings::new(folder, "access", "secret-of-the-test", "caudal");
    settings.durability = Durability::ProcessCrash;
    let any = (Ipv4Addr::LOCALHOST, 0);
    let plain = TcpListener::bind(any).await.unwrap();
    let behind = plain.local_addr().unwrap();
    let server = S3Server::start(settings, plain, CancellationToken::new())
        .await
        .unwrap();
    let listener = TcpListener::bind(any).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = authority.acceptor();
    tokio::spawn(async move {
        // It lives as long as its door.
        let _server = server;
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut inner = TcpStream::connect(behind).await.unwrap();
                // Whoever trusts nobody breaks it off.
                if let Ok(mut outer) = acceptor.accept(stream).await {
                    let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                }
            });
        }
    });
    address
}

#[test]
fn with_an_authority_of_ones_own_everything_goes_over_tls_and_without_it_nothing_does() {
    let folder = TempDir::new().unwrap();
    let runtime = Runtime::new().unwrap();
    let authority = Authority::make(folder.path());
    let store = runtime.block_on(store(&folder.path().join("store"), &authority));
    let file = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let endpoint = format!("https://localhost:{}", store.port());
    let (cert, key, ca) = (file("server.pem"), file("server.key"), file("ca.pem"));
    let options = [
        ["--s3-endpoint", &endpoint],
        ["--s3-access-key", "access"],
        ["--s3-secret-key", "secret-of-the-test"],
        ["--s3-ca-file", &ca],
        ["--tls-cert", &cert],
        ["--tls-key", &key],
    ]
    .concat();
    let mut system = System::start(binary(), &folder.path().join("data"), &options).unwrap();
    assert!(system.ready("gateway").starts_with("https://127.0.0.1:"));

    let texts = texts_in(folder.path(), FILES);
    let ingest = [
        "ingest",
        texts.to_str().unwrap(),
        "--stages",
        QUICK,
        "--output",
        "json",
    ];
    let trusting = system
        .command(&ingest)
        .env("CAUDAL_CA_FILE", &ca)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&trusting.stderr).into_owned();
    assert!(trusting.status.success(), "{said}");
    assert_eq!(json(&trusting)["files"]["PROCESSED"], FILES, "{said}");
    assert!(said.contains(&format!("{FILES} files sent")), "{said}");

    let stranger = system.caudal(&ingest).unwrap();
    let said = String::from_utf8_lossy(&stranger.stderr).into_owned();
    assert_eq!(stranger.status.code(), Some(1), "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    assert!(system.stop().unwrap().success());
}
