//! TLS by rustls on ring: what the system trusts, and beside it what a file names. There is no way to trust anybody.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::HttpConnector;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::error::ClientError;

/// Makes the connections of the calls.
pub(crate) type Connector = HttpsConnector<HttpConnector>;

/// A configuration for clients, for whatever protocol.
pub(crate) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, ClientError> {
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if let Some(file) = ca_file {
        add(&mut roots, file)?;
    }
    if roots.is_empty() {
        return Err(ClientError::Tls(
            "this system has no certificates of authorities: install ca-certificates, or name a file with a CA of yours"
                .to_owned(),
        ));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| ClientError::Tls(error.to_string()))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn add(roots: &mut RootCertStore, file: &Path) -> Result<(), ClientError> {
    let bad = |why: String| ClientError::Tls(format!("{}: {why}", file.display()));
    let mut found = false;
    for certificate in
        CertificateDer::pem_file_iter(file).map_err(|error| bad(error.to_string()))?
    {
        let certificate = certificate.map_err(|error| bad(error.to_string()))?;
        roots
            .add(certificate)
            .map_err(|error| bad(error.to_string()))?;
        found = true;
    }
    if !found {
        return Err(bad("it holds no certificate in PEM form".to_owned()));
    }
    Ok(())
}

/// Connections for gRPC: TLS, and HTTP/2 agreed on.
pub(crate) fn connector(
    ca_file: Option<&Path>,
    connect_timeout: Duration,
) -> Result<Connector, ClientError> {
    let mut config = config(ca_file)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(connect_timeout));
    Ok(HttpsConnector::from((http, Arc::new(config))))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused_by_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = file.path().display().to_string();
        for path in [file.path(), Path::new("/nowhere/ca.pem")] {
            let words = config(Some(path)).unwrap_err().to_string();
            assert!(
                words.contains(&name) || words.contains("/nowhere/ca.pem"),
                "{words}"
            );
        }
    }
}
