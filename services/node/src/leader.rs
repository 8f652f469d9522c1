//! A channel to the one active replica among several: it follows the address that a replica standing by answers with, and
//! turns to the next address when one cannot be reached. The call that met the wrong replica fails UNAVAILABLE and is the
//! caller's to repeat; the next one goes right.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::HeaderMap;
use tonic::body::Body;
use tonic::transport::Channel;
use tower::Service;

use crate::channels::{Channels, InvalidAddress};

/// Metadata in which a replica that stands by names the active one.
pub const LEADER_METADATA: &str = "caudal-leader";

#[derive(Debug)]
struct Current {
    /// Index into the configured addresses; where the next turn begins.
    turn: usize,
    address: String,
    channel: Channel,
}

/// Calls the active replica. Clones share what was learnt.
#[derive(Debug, Clone)]
pub struct LeaderChannel {
    channels: Channels,
    addresses: Arc<Vec<String>>,
    current: Arc<Mutex<Current>>,
}

impl LeaderChannel {
    /// Follows the leader among these addresses, separated by commas; with one address it is that channel.
    ///
    /// # Errors
    /// When one of them is no address.
    pub fn new(channels: &Channels, addresses: &str) -> Result<Self, InvalidAddress> {
        let addresses: Vec<String> = addresses
            .split(',')
            .map(|address| address.trim().to_owned())
            .collect();
        let mut first = None;
        for address in &addresses {
            let channel = channels.channel(address)?;
            first.get_or_insert((address.clone(), channel));
        }
        let Some((address, channel)) = first else {
            return Err(InvalidAddress {
                address: String::new(),
                reason: "there is none".to_owned(),
            });
        };
        Ok(Self {
            channels: channels.clone(),
            addresses: Arc::new(addresses),
            current: Arc::new(Mutex::new(Current {
                turn: 0,
                address,
                channel,
            })),
        })
    }

    fn current(&self) -> (String, Channel) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.address.clone(), current.channel.clone())
    }

    /// Goes to `address`, unless another call has moved on from `from` already.
    fn go_to(&self, from: &str, address: &str) {
        if self.addresses.is_empty() {
            return;
        }
        let Ok(channel) = self.channels.channel(address) else {
            return;
        };
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.address == from && address != from {
            tracing::info!(from, to = address, "following the active replica");
            current.address = address.to_owned();
            current.channel = channel;
        }
    }

    fn go_to_next(&self, from: &str) {
        if self.addresses.is_empty() {
            return;
        }
        let next = {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            current.turn = (current.turn + 1) % self.addresses.len();
            self.addresses[current.turn].clone()
        };
        self.go_to(from, &next);
    }

    /// Learns from the head of an answer.
    fn learn(&self, from: &str, headers: &HeaderMap) {
        if let Some(leader) = headers
            .get(LEADER_METADATA)
            .and_then(|value| value.to_str().ok())
        {
            if leader.is_empty() {
                self.go_to_next(from);
            } else {
                self.go_to(from, leader);
            }
        }
    }
}

impl From<Channel> for LeaderChannel {
    /// A channel that follows nobody.
    fn from(channel: Channel) -> Self {
        Self {
            channels: Channels::default(),
            addresses: Arc::default(),
            current: Arc::new(Mutex::new(Current {
                turn: 0,
                address: String::new(),
                channel,
            })),
        }
    }
}

/// Whatever was followed, an unanswered call leads back to the configured addresses: the active replica that another named
/// may have died since.
///
/// A call that is given up unanswered (its deadline was over) met a replica that does not answer, perhaps a stopped one.
struct Unanswered<'a> {
    following: &'a LeaderChannel,
    address: &'a str,
    answered: bool,
}

impl Drop for Unanswered<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.following.go_to_next(self.address);
        }
    }
}

impl Service<http::Request<Body>> for LeaderChannel {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        // Each call waits for the channel it goes to.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let following = self.clone();
        let (address, mut channel) = self.current();
        Box::pin(async move {
            let mut unanswered = Unanswered {
                following: &following,
                address: &address,
                answered: false,
            };
            let answered = async {
                std::future::poll_fn(|context| channel.poll_ready(context)).await?;
                channel.call(request).await
            }
            .await;
            if let Ok(response) = &answered {
                unanswered.answered = true;
                following.learn(&address, response.headers());
            }
            drop(unanswered);
            answered
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn address(channel: &LeaderChannel) -> String {
        channel.current().0
    }

    #[tokio::test]
    async fn a_dead_leader_leads_back_to_the_configured_addresses() {
        let channel = LeaderChannel::new(&Channels::default(), "http://a:1, http://b:1").unwrap();
        let mut named = HeaderMap::new();
        named.insert(LEADER_METADATA, "http://c:1".parse().unwrap());
        channel.learn("http://a:1", &named);
        assert_eq!(address(&channel), "http://c:1");
        channel.go_to_next("http://c:1");
        assert_eq!(address(&channel), "http://b:1");
        channel.go_to_next("http://b:1");
        assert_eq!(address(&channel), "http://a:1");

        let alone = LeaderChannel::new(&Channels::default(), "http://a:1").unwrap();
        alone.learn("http://a:1", &named);
        alone.go_to_next("http://c:1");
        assert_eq!(address(&alone), "http://a:1");
    }

    #[tokio::test]
    async fn a_bare_channel_follows_nobody() {
        let bare = LeaderChannel::from(Channels::default().channel("http://a:1").unwrap());
        let mut named = HeaderMap::new();
        named.insert(LEADER_METADATA, "http://c:1".parse().unwrap());
        bare.learn("", &named);
        bare.go_to_next("");
        assert_eq!(address(&bare), "");
    }

    #[tokio::test]
    async fn what_one_call_learnt_too_late_changes_nothing() {
        let channel = LeaderChannel::new(&Channels::default(), "http://a:1,http://b:1").unwrap();
        channel.go_to_next("http://a:1");
        channel.go_to("http://a:1", "http://stale:1");
        assert_eq!(address(&channel), "http://b:1");
    }
}
