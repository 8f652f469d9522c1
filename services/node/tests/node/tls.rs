//! The mesh over TLS, with an authority made here: who has no certificate of it gets nowhere, and nobody calls as another.

use std::path::Path;
use std::sync::Arc;

use caudal_node::channels::ChannelSettings;
use caudal_node::{Channels, MeshChannel, MeshTls, ServiceIdentity};
use caudal_proto::mesh::v1::GetStageRequest;
use caudal_proto::mesh::v1::stage_service_client::StageServiceClient;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::fakes::Running;

/// An authority of a test.
struct Authority {
    folder: TempDir,
    params: CertificateParams,
    key: KeyPair,
}

impl Authority {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let own = params.self_signed(&key).unwrap();
        std::fs::write(folder.path().join("ca.pem"), own.pem()).unwrap();
        Self {
            folder,
            params,
            key,
        }
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// What a service with these names has, which believes `trusted`.
    fn certified(&self, names: &[&str], trusted: &Path) -> MeshTls {
        let own_key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let issuer = Issuer::from_params(&self.params, &self.key);
        let file = |end: &str| {
            self.folder
                .path()
                .join(format!("{}.{end}", names.join("-")))
        };
        let certificate = CertificateParams::new(names.clone())
            .unwrap()
            .signed_by(&own_key, &issuer)
            .unwrap();
        std::fs::write(file("pem"), certificate.pem()).unwrap();
        std::fs::write(file("key"), own_key.serialize_pem()).unwrap();
        MeshTls::read(trusted, &file("pem"), &file("key")).unwrap()
    }
}

/// The stage of a server that shows the certificate of "upload", called as `name` with certificates.
fn stage(
    running: &Running,
    tls: &MeshTls,
    called: &str,
    name: &str,
) -> StageServiceClient<MeshChannel> {
    let channels = Channels::new(ChannelSettings {
        tls: Some(tls.to(called).unwrap()),
        ..ChannelSettings::default()
    });
    let channel = channels
        .channel(&format!("https://{}", running.address))
        .unwrap();
    StageServiceClient::new(
        ServiceIdentity::new(name, &running.secret)
            .at("upload")
            .channel(channel),
    )
}

async fn asked(mut client: StageServiceClient<MeshChannel>) -> Option<Code> {
    client
        .get_stage(GetStageRequest {})
        .await
        .err()
        .map(|status| status.code())
}

#[tokio::test]
async fn a_mesh_with_certificates_answers_those_of_its_authority_alone() {
    let authority = Authority::new();
    let upload = authority.certified(&["upload"], &authority.file());
    let running = Running::start_with_tls(upload).await;
    let operator = authority.certified(&["operator"], &authority.file());
    assert_eq!(
        asked(stage(&running, &operator, "upload", "operator")).await,
        None
    );

    // Without TLS, with a stranger's certificate, with an authority that is not its own, and for another's name.
    assert!(asked(running.stage()).await.is_some());
    let other = Authority::new();
    for (stranger, called) in [
        (other.certified(&["operator"], &authority.file()), "upload"),
        (authority.certified(&["operator"], &other.file()), "upload"),
        (operator, "gateway"),
    ] {
        let refused = asked(stage(&running, &stranger, called, "operator")).await;
        assert!(refused.is_some(), "{called}");
    }

    // With no certificate at all.
    let mut trusted = rustls::RootCertStore::empty();
    trusted
        .add(CertificateDer::from_pem_file(authority.file()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let stream = TcpStream::connect(&running.address).await.unwrap();
    let name = ServerName::try_from("upload").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let answered = async {
        let mut stream = connector.connect(name, stream).await?;
        stream
            .write_all(b"GET /hello HTTP/1.1\r\nhost: caudal\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await
    };
    let refused = answered.await.unwrap_err().to_string();
    assert!(refused.contains("CertificateRequired"), "{refused}");
}

#[tokio::test]
async fn nobody_calls_as_another_than_its_certificate_says() {
    let authority = Authority::new();
    let upload = authority.certified(&["upload"], &authority.file());
    let running = Running::start_with_tls(upload.clone()).await;
    let as_operator = stage(&running, &upload, "upload", "operator");
    assert_eq!(asked(as_operator).await, Some(Code::Unauthenticated));
    let both = authority.certified(&["metadata", "operator"], &authority.file());
    assert_eq!(
        asked(stage(&running, &both, "upload", "operator")).await,
        None
    );
}
