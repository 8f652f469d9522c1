//! Arguments that several commands share: how to reach the gateway, how to answer, how batches and tenants are named.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use caudal_sdk::{Client, ClientSettings};
use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// How the answer is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Text,
    /// For scripts.
    Json,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct OutputArguments {
    /// How the answer is printed on standard output
    #[arg(
        long,
        env = "CAUDAL_OUTPUT",
        value_enum,
        default_value = "text",
        global = true
    )]
    pub(crate) output: Output,
}

#[derive(Clone, Args)]
pub(crate) struct GatewayArguments {
    /// Address of the gateway
    #[arg(
        long,
        env = "CAUDAL_GATEWAY",
        value_name = "URL",
        default_value = "http://127.0.0.1:7410",
        global = true
    )]
    pub(crate) gateway: String,
    /// API key: of a tenant, or an operator's for what operators do. `caudal up` prints one of each; an upload token does for
    /// `ingest` and `watch`
    #[arg(
        long,
        visible_alias = "key",
        env = "CAUDAL_API_KEY",
        value_name = "KEY",
        hide_env_values = true,
        global = true
    )]
    pub(crate) api_key: Option<String>,
    /// Certificates to trust beside those of the system, as PEM: for a gateway or store with a CA of your own
    #[arg(long, env = "CAUDAL_CA_FILE", value_name = "FILE", global = true)]
    pub(crate) ca_file: Option<PathBuf>,
}

impl GatewayArguments {
    /// Connects, so that a wrong address shows at once.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let key = self.api_key.as_deref().filter(|key| !key.trim().is_empty()).ok_or_else(|| {
            Failure::misconfigured(
                "no API key: give one with --api-key or CAUDAL_API_KEY; `caudal up` prints one when it is ready",
            )
        })?;
        let settings = ClientSettings {
            ca_file: self.ca_file.clone(),
            ..ClientSettings::default()
        };
        let client = Client::connect_with(&self.gateway, key, settings).await?;
        let is_told = AtomicBool::new(false);
        Ok(client.telling(move |trouble| {
            // Once an outage, however often it tries in vain.
            let told = is_told.swap(trouble.is_some(), Ordering::Relaxed);
            if let Some(trouble) = trouble.filter(|_| !told) {
                say!("waiting: {trouble}");
            }
        }))
    }
}

impl std::fmt::Debug for GatewayArguments {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("GatewayArguments")
            .field("gateway", &self.gateway)
            .finish_non_exhaustive()
    }
}

/// `batches/ID` of either form.
pub(crate) fn batch_name(text: &str) -> Result<String, String> {
    let name = if text.starts_with("batches/") {
        text.to_owned()
    } else {
        format!("batches/{text}")
    };
    caudal_domain::parse_batch_name(&name)
        .map_err(|_| "a batch is named by its id, as `caudal ingest` prints it".to_owned())?;
    Ok(name)
}

/// `tenants/ID` of either form.
pub(crate) fn tenant_name(text: &str) -> Result<String, String> {
    let name = if text.starts_with("tenants/") {
        text.to_owned()
    } else {
        format!("tenants/{text}")
    };
    caudal_domain::parse_tenant_name(&name).map_err(|_| {
        "a tenant is named by its id, as `caudal tenants list` prints it".to_owned()
    })?;
    Ok(name)
}
