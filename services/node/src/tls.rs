//! The certificate that a server shows, read again when its files change: whoever renews it restarts nothing. And the mesh
//! over TLS, in which both ends show one: whom a connection belongs to is what its certificate names, whatever its address.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use rustls::client::{ResolvesClientCert, verify_server_name};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::callers;

/// How often the files are looked at, when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// A certificate with its chain and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    resolver: Arc<Reread>,
}

/// Why a certificate is of no use.
#[derive(Debug, thiserror::Error)]
#[error("{}: {why}", file.display())]
pub struct BadCertificate {
    file: PathBuf,
    why: String,
}

impl Certificate {
    /// Reads a certificate chain and its private key, both PEM.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub fn read(chain: &Path, key: &Path) -> Result<Self, BadCertificate> {
        let files = Files {
            chain: chain.to_owned(),
            key: key.to_owned(),
        };
        let changed = files.changed();
        let shown = files.read()?;
        Ok(Self {
            resolver: Arc::new(Reread {
                files,
                state: Mutex::new(State {
                    shown,
                    changed,
                    looked_at: Instant::now(),
                }),
            }),
        })
    }

    /// Takes connections over TLS, for HTTP/2 and HTTP/1.1.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&self.resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// A mesh over TLS, as one of its services is in it: which authority made the certificates of all of them, and its own. A
/// certificate carries the name of its service (`gateway`, `ledger`, `upload` and so on) as a DNS name; a certificate
/// may have several.
#[derive(Debug, Clone)]
pub struct MeshTls {
    own: Certificate,
    authorities: Arc<RootCertStore>,
    verifier: Arc<dyn ClientCertVerifier>,
}

impl MeshTls {
    /// Reads the certificates of the authority, and this service's chain and private key, all PEM.
    ///
    /// # Errors
    /// A file that cannot be read, or is not what it should be.
    pub fn read(authority: &Path, chain: &Path, key: &Path) -> Result<Self, BadCertificate> {
        let bad = |why: String| BadCertificate {
            file: authority.to_owned(),
            why,
        };
        let mut authorities = RootCertStore::empty();
        let read = CertificateDer::pem_file_iter(authority)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(error.to_string()))?;
        for certificate in read {
            authorities
                .add(certificate)
                .map_err(|error| bad(error.to_string()))?;
        }
        let authorities = Arc::new(authorities);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&authorities), provider)
                .build()
                .map_err(|error| bad(error.to_string()))?;
        Ok(Self {
            own: Certificate::read(chain, key)?,
            authorities,
            verifier,
        })
    }

    /// Takes connections of those who show a certificate of the authority.
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::clone(&self.verifier))
            .with_cert_resolver(Arc::clone(&self.own.resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }

    /// How a service is called: whoever answers has to show its certificate.
    ///
    /// # Errors
    /// What cannot be the name of a service.
    pub fn to(&self, service: &str) -> Result<PeerTls, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.authorities))
            .with_client_cert_resolver(
                Arc::clone(&self.own.resolver) as Arc<dyn ResolvesClientCert>
            );
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(service.to_owned())
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        Ok(PeerTls {
            config: Arc::new(config),
            name,
        })
    }
}

/// How one service of a mesh is called over TLS.
#[derive(Debug, Clone)]
pub struct PeerTls {
    config: Arc<rustls::ClientConfig>,
    name: ServerName<'static>,
}

impl PeerTls {
    pub(crate) async fn connect(
        &self,
        stream: TcpStream,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        TlsConnector::from(Arc::clone(&self.config))
            .connect(self.name.clone(), stream)
            .await
    }
}

/// The names of services that the certificate of a connection carries: nobody calls as another over it.
#[derive(Debug, Clone)]
pub struct Certified(Arc<[&'static str]>);

impl Certified {
    /// Of a connection whose peer has shown a certificate.
    pub(crate) fn of(stream: &TlsStream<TcpStream>) -> Option<Self> {
        let (_, connection) = stream.get_ref();
        let shown = connection.peer_certificates()?.first()?;
        let certificate = ParsedCertificate::try_from(shown).ok()?;
        let is_named = |name: &&str| {
            ServerName::try_from(*name)
                .is_ok_and(|name| verify_server_name(&certificate, &name).is_ok())
        };
        Some(Self(callers::callers().filter(is_named).collect()))
    }

    /// Whether the certificate is that of a service.
    #[must_use]
    pub fn is(&self, service: &str) -> bool {
        self.0.contains(&service)
    }
}

#[derive(Debug)]
struct Files {
    chain: PathBuf,
    key: PathBuf,
}

/// When both files last changed.
type Changed = [Option<SystemTime>; 2];

impl Files {
    fn changed(&self) -> Changed {
        [&self.chain, &self.key].map(|file| std::fs::metadata(file).ok()?.modified().ok())
    }

    fn read(&self) -> Result<Arc<CertifiedKey>, BadCertificate> {
        let bad = |file: &Path, why: String| BadCertificate {
            file: file.to_owned(),
            why,
        };
        let chain = CertificateDer::pem_file_iter(&self.chain)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| bad(&self.chain, error.to_string()))?;
        if chain.is_empty() {
            return Err(bad(
                &self.chain,
                "holds no certificate in PEM form".to_owned(),
            ));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|error| bad(&self.key, error.to_string()))?;
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(chain, key, &provider)
            .map(Arc::new)
            .map_err(|error| bad(&self.key, error.to_string()))
    }
}

#[derive(Debug)]
struct Reread {
    files: Files,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    shown: Arc<CertifiedKey>,
    changed: Changed,
    looked_at: Instant,
}

impl Reread {
    fn current(&self) -> Arc<CertifiedKey> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked_at.elapsed() >= LOOK_EVERY {
            state.looked_at = Instant::now();
            self.look(&mut state);
        }
        Arc::clone(&state.shown)
    }

    fn look(&self, state: &mut State) {
        let changed = self.files.changed();
        if changed == state.changed {
            return;
        }
        match self.files.read() {
            Ok(read) => {
                state.shown = read;
                state.changed = changed;
                tracing::info!("a new certificate is shown");
            }
            // Chain and key are replaced one after the other: the next look finds both.
            Err(error) => tracing::warn!(%error, "the old certificate is shown on"),
        }
    }
}

impl ResolvesServerCert for Reread {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Reread {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// What a peer sends and is sent.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, slices),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    fn write(folder: &Path) -> Vec<u8> {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(folder.join("chain.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().to_vec()
    }

    #[test]
    fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let (chain, key) = (
            folder.path().join("chain.pem"),
            folder.path().join("key.pem"),
        );
        assert!(Certificate::read(&chain, &key).is_err());
        let first = write(folder.path());
        let certificate = Certificate::read(&chain, &key).unwrap();
        let shown = || certificate.resolver.current().cert[0].to_vec();
        let look = || {
            let mut state = certificate.resolver.state.lock().unwrap();
            // As if it had changed, however coarse the clock of the file system is.
            state.changed = [None, None];
            certificate.resolver.look(&mut state);
        };
        assert_eq!(shown(), first);
        std::fs::write(&chain, "no certificate").unwrap();
        look();
        assert_eq!(shown(), first);
        let second = write(folder.path());
        look();
        assert_eq!(shown(), second);
    }
}
