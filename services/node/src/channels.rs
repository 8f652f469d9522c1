//! Channels to other services: one for each address, made once, connected when first used, reconnecting by themselves; over
//! TLS where the mesh has certificates.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use caudal_domain::shown_address;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::tls::PeerTls;

/// Addresses kept at once. Beyond it all are forgotten: a channel is cheap to make again, and one in use lives on.
const MAX_CHANNELS: usize = 256;

/// An address that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("`{address}` is not an address of a service, such as http://127.0.0.1:7101: {reason}")]
pub struct InvalidAddress {
    /// What was given, as it may be shown.
    pub address: String,
    /// Why not.
    pub reason: String,
}

/// How channels connect.
#[derive(Debug, Clone)]
pub struct ChannelSettings {
    /// How long a connection may take to be made.
    pub connect_timeout: Duration,
    /// How often a connection is probed, also while idle.
    pub keepalive_interval: Duration,
    /// How long a probe may stay unanswered before the connection is cut and made anew.
    pub keepalive_timeout: Duration,
    /// Whom the answering end has to be, where the mesh speaks TLS.
    pub tls: Option<PeerTls>,
}

impl Default for ChannelSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(3),
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(10),
            tls: None,
        }
    }
}

/// The channels of a process, by address. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct Channels {
    settings: ChannelSettings,
    by_address: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Channels {
    /// None yet.
    #[must_use]
    pub fn new(settings: ChannelSettings) -> Self {
        Self {
            settings,
            by_address: Arc::default(),
        }
    }

    /// The channel to an address: `http://host:port`, or `host:port`. Nothing is connected until the first call, so it
    /// must be called inside a tokio runtime but never waits.
    ///
    /// # Errors
    /// When the text is no address.
    pub fn channel(&self, address: &str) -> Result<Channel, InvalidAddress> {
        let mut by_address = self
            .by_address
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = by_address.get(address) {
            return Ok(channel.clone());
        }
        let endpoint = self.endpoint(address)?;
        let channel = match self.settings.tls.clone() {
            None => endpoint.connect_lazy(),
            Some(tls) => {
                endpoint.connect_with_connector_lazy(tower::service_fn(move |address: Uri| {
                    let tls = tls.clone();
                    async move { connect(&address, &tls).await.map(TokioIo::new) }
                }))
            }
        };
        if by_address.len() >= MAX_CHANNELS {
            by_address.clear();
        }
        by_address.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    fn endpoint(&self, address: &str) -> Result<Endpoint, InvalidAddress> {
        let invalid = |reason: String| InvalidAddress {
            address: shown_address(address),
            reason,
        };
        // Over TLS the channel itself sees bytes only, and knows of no scheme but this.
        let uri = match address.strip_prefix("https://") {
            Some(rest) if self.settings.tls.is_some() => format!("http://{rest}"),
            _ if address.contains("://") => address.to_owned(),
            _ => format!("http://{address}"),
        };
        let endpoint = Endpoint::from_shared(uri).map_err(|error| invalid(error.to_string()))?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(invalid("it names no host".to_owned()));
        }
        if endpoint.uri().scheme_str() != Some("http") {
            return Err(invalid(
                "only http is known, and https where the services of the mesh have certificates"
                    .to_owned(),
            ));
        }
        Ok(endpoint
            .connect_timeout(self.settings.connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(self.settings.keepalive_interval))
            .http2_keep_alive_interval(self.settings.keepalive_interval)
            .keep_alive_timeout(self.settings.keepalive_timeout)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024))
    }
}

async fn connect(
    address: &Uri,
    tls: &PeerTls,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = address.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, address.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    tls.connect(stream).await
}

/// A request with a deadline: the server learns it (`grpc-timeout`), and the caller stops waiting when it is over.
#[must_use]
pub fn with_deadline<T>(message: T, deadline: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(deadline);
    request
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn an_address_has_one_channel_and_a_bad_one_says_why() {
        let channels = Channels::default();
        channels.channel("http://127.0.0.1:1").unwrap();
        channels.channel("127.0.0.1:1").unwrap();
        channels.channel("127.0.0.1:1").unwrap();
        assert_eq!(channels.by_address.lock().unwrap().len(), 2);
        let error = channels
            .channel("https://ledger:7101")
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("https://ledger:7101") && error.contains("only http"),
            "{error}"
        );
        assert!(channels.channel("not an address").is_err());
    }
}
