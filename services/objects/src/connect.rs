//! Clients of a store: over the network, or in one process with it.

use std::sync::Arc;

use aws_credential_types::Credentials;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;

use crate::address::Address;
use crate::direct::Direct;
use crate::error::ObjectError;
use crate::presign::Presigner;
use crate::retry::{MAX_ATTEMPTS, MAX_BACKOFF};
use crate::settings::Settings;
use crate::signing::Signer;
use crate::store::ObjectStore;
use crate::tls;
use crate::transport::{CONNECT_WITHIN, Transport};

impl ObjectStore {
    /// A client of the store. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ObjectError::Refused`] when an endpoint is not `http(s)://HOST[:PORT]`.
    pub fn connect(settings: Settings) -> Result<ObjectStore, ObjectError> {
        let address = Address::new(
            &settings.endpoint,
            &settings.bucket,
            settings.force_path_style,
        )?;
        let transport = match &settings.in_process {
            Some(store) => Transport::InProcess(store.clone()),
            None => Transport::network(tls::config(&settings, address.is_https())?),
        };
        let signer = Arc::new(Signer::new(
            &settings.access_key,
            &settings.secret_key,
            &settings.region,
        ));
        Ok(ObjectStore {
            client: sdk(&settings)?,
            presigner: Arc::new(Presigner::new(&settings, signer.clone())?),
            direct: Arc::new(Direct::new(&settings, address, signer.clone(), transport)),
            signer,
            settings: Arc::new(settings),
        })
    }
}

/// For what is not done with every file.
fn sdk(settings: &Settings) -> Result<Client, ObjectError> {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(tls::sdk_context(settings)?)
        .build_https();
    let credentials = Credentials::from_keys(
        settings.access_key.as_str(),
        settings.secret_key.as_str(),
        None,
    );
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(settings.region.clone()))
        .endpoint_url(&settings.endpoint)
        .credentials_provider(credentials)
        .force_path_style(settings.force_path_style)
        .http_client(http)
        .retry_config(
            RetryConfig::standard()
                .with_max_attempts(MAX_ATTEMPTS)
                .with_max_backoff(MAX_BACKOFF),
        )
        .timeout_config(
            TimeoutConfig::builder()
                .connect_timeout(CONNECT_WITHIN)
                .read_timeout(settings.answer_within)
                .build(),
        )
        // Other S3s do not know the SDK's own checksums.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .build();
    Ok(Client::from_conf(config))
}
