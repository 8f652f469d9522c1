//! Whom connections trust: the system's authorities, and those of the settings.

use std::sync::Arc;

use aws_smithy_http_client::tls::{TlsContext, TrustStore};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::error::ObjectError;
use crate::settings::Settings;

/// For the SDK's client.
pub(crate) fn sdk_context(settings: &Settings) -> Result<TlsContext, ObjectError> {
    let mut trust = TrustStore::default();
    if let Some(pem) = &settings.ca_pem {
        trust.add_pem_certificate(pem.as_slice());
    }
    TlsContext::builder()
        .with_trust_store(trust)
        .build()
        .map_err(|error| ObjectError::invalid(&settings.endpoint, error.to_string()))
}

/// For requests of our own. The system's authorities are read where they are asked for: it takes a while.
pub(crate) fn config(settings: &Settings, is_https: bool) -> Result<ClientConfig, ObjectError> {
    let wrong =
        |error: &dyn std::fmt::Display| ObjectError::invalid(&settings.endpoint, error.to_string());
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &settings.ca_pem {
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| wrong(&error))?;
            roots.add(certificate).map_err(|error| wrong(&error))?;
        }
        if roots.is_empty() {
            return Err(wrong(
                &"the CA file of the store holds no certificate in PEM form",
            ));
        }
    }
    if is_https {
        let system = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(system.certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| wrong(&error))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
