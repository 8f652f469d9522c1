//! Which connections a server keeps while more come than it has places: those on which somebody has shown a credential.
//! Every server of Caudal that listens asks here, so that whoever only connects keeps nobody out.
//!
//! - A connection has to send the head of a request soon, whatever it speaks, and one with a good credential a little later.
//! - Where all places are taken, the oldest connection without a credential makes room. Where all have shown one, whoever
//!   comes waits to be accepted, as long as it takes.
//! - One address has a share of the places. Addresses of this machine have all: behind them stand proxies and the services of
//!   one process, each with many callers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// What a table bears.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Connections at once.
    pub connections: usize,
    /// Of one address at once; of IPv6, of one network of 64 bits. Addresses of this machine have no such bound.
    pub of_one_peer: usize,
    /// How long the first head of a request may take from when the connection was accepted, handshakes included.
    pub first_head_within: Duration,
    /// How long it may take until a request with a good credential has come.
    pub credential_within: Duration,
}

/// Why a connection was ended, or not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// No request came in time.
    Silent,
    /// No credential came in time.
    NoCredential,
    /// Another needed its place, and it had shown no credential.
    MadeRoom,
    /// Its address has too many.
    PeerHasTooMany,
}

impl Why {
    /// One word for metrics.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::NoCredential => "no-credential",
            Self::MadeRoom => "made-room",
            Self::PeerHasTooMany => "peer-has-too-many",
        }
    }
}

/// The connections of one server.
#[derive(Clone)]
pub struct Table {
    shared: Arc<Shared>,
}

struct Shared {
    bounds: Bounds,
    book: Mutex<Book>,
    /// Told when a place is free, or could be made free.
    changed: Notify,
    ended: Box<dyn Fn(Why) + Send + Sync>,
}

#[derive(Default)]
struct Book {
    next: u64,
    open: usize,
    /// Those without a credential, the oldest first.
    unproven: BTreeMap<u64, Unproven>,
    peers: HashMap<IpAddr, Peer>,
}

struct Unproven {
    peer: Option<IpAddr>,
    cut: CancellationToken,
}

#[derive(Default)]
struct Peer {
    open: usize,
    unproven: BTreeSet<u64>,
}

impl fmt::Debug for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Table")
            .field("bounds", &self.shared.bounds)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// An empty one; `ended` is told of each connection that was ended here, or not taken.
    pub fn new(bounds: Bounds, ended: impl Fn(Why) + Send + Sync + 'static) -> Self {
        Self {
            shared: Arc::new(Shared {
                bounds,
                book: Mutex::default(),
                changed: Notify::new(),
                ended: Box::new(ended),
            }),
        }
    }

    /// The next connection that has a place.
    ///
    /// # Errors
    /// What the listener says.
    pub async fn accept(
        &self,
        listener: &TcpListener,
    ) -> io::Result<(TcpStream, SocketAddr, Place)> {
        loop {
            self.room().await;
            let (stream, address) = listener.accept().await?;
            loop {
                match self.enter(address.ip()) {
                    Ok(place) => return Ok((stream, address, place)),
                    // Whoever could have made room has shown a credential meanwhile.
                    Err(NoPlace::AllInUse) => self.room().await,
                    Err(NoPlace::OfItsPeer) => break,
                }
            }
        }
    }

    /// Waits until a place is free or can be made free.
    async fn room(&self) {
        loop {
            let changed = self.shared.changed.notified();
            {
                let book = self.shared.book();
                if book.open < self.shared.bounds.connections || !book.unproven.is_empty() {
                    return;
                }
            }
            changed.await;
        }
    }

    /// A place for a connection from this address.
    fn enter(&self, address: IpAddr) -> Result<Place, NoPlace> {
        let peer = peer_of(address);
        let bounds = &self.shared.bounds;
        let mut book = self.shared.book();
        let oldest = match peer {
            Some(peer) => book
                .peers
                .get(&peer)
                .filter(|peer| peer.open >= bounds.of_one_peer)
                .map(|peer| peer.unproven.first().copied()),
            None => None,
        };
        match oldest {
            Some(Some(oldest)) => {
                book.cut(oldest);
                (self.shared.ended)(Why::PeerHasTooMany);
            }
            Some(None) => {
                (self.shared.ended)(Why::PeerHasTooMany);
                return Err(NoPlace::OfItsPeer);
            }
            None if book.open >= bounds.connections => {
                let oldest = book.unproven.first_key_value().map(|(id, _)| *id);
                book.cut(oldest.ok_or(NoPlace::AllInUse)?);
                (self.shared.ended)(Why::MadeRoom);
            }
            None => {}
        }
        let id = book.next;
        book.next += 1;
        book.open += 1;
        let cut = CancellationToken::new();
        book.unproven.insert(
            id,
            Unproven {
                peer,
                cut: cut.clone(),
            },
        );
        if let Some(peer) = peer {
            let peer = book.peers.entry(peer).or_default();
            peer.open += 1;
            peer.unproven.insert(id);
        }
        drop(book);
        Ok(Place {
            peer,
            entered: Instant::now(),
            cut,
            proof: Proof {
                seat: Arc::new(Seat {
                    shared: Arc::clone(&self.shared),
                    id,
                    asked: CancellationToken::new(),
                    proven: CancellationToken::new(),
                }),
            },
        })
    }
}

/// Why there is no place for a connection: those that have one have all shown a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum NoPlace {
    AllInUse,
    OfItsPeer,
}

/// Whose share of the places an address takes from; none for addresses of this machine.
fn peer_of(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    if address.is_loopback() {
        return None;
    }
    Some(match address {
        IpAddr::V4(_) => address,
        // What one customer of a provider has at least.
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
    })
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Takes a connection's place away before it has ended.
    fn cut(&mut self, id: u64) {
        if let Some(cut) = self.forget(id) {
            cut.cut.cancel();
            self.left(cut.peer);
        }
    }

    /// It is none of those without a credential any more.
    fn forget(&mut self, id: u64) -> Option<Unproven> {
        let unproven = self.unproven.remove(&id)?;
        if let Some(peer) = unproven.peer.and_then(|peer| self.peers.get_mut(&peer)) {
            peer.unproven.remove(&id);
        }
        Some(unproven)
    }

    fn left(&mut self, peer: Option<IpAddr>) {
        self.open = self.open.saturating_sub(1);
        let Some(address) = peer else { return };
        if let Some(peer) = self.peers.get_mut(&address) {
            peer.open = peer.open.saturating_sub(1);
            if peer.open == 0 {
                self.peers.remove(&address);
            }
        }
    }
}

/// What a connection holds as long as it is open.
pub struct Place {
    peer: Option<IpAddr>,
    entered: Instant,
    cut: CancellationToken,
    proof: Proof,
}

impl fmt::Debug for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Place")
            .field("id", &self.proof.seat.id)
            .finish_non_exhaustive()
    }
}

/// How a connection is to end whose time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// As it is.
    AtOnce,
    /// After what is under way, which may take as long as a first head.
    AfterAnswers,
}

impl Place {
    /// Goes with each request of the connection, to whoever looks at credentials.
    #[must_use]
    pub fn proof(&self) -> Proof {
        self.proof.clone()
    }

    /// Returns when the connection has to end. May be called again.
    pub async fn over(&self) -> Over {
        tokio::select! {
            () = self.cut.cancelled() => Over::AtOnce,
            over = self.late() => over,
        }
    }

    async fn late(&self) -> Over {
        let seat = &self.proof.seat;
        let bounds = &seat.shared.bounds;
        let asked = seat.asked.cancelled();
        let by = self.entered + bounds.first_head_within;
        if timeout_at(by, asked).await.is_err() {
            (seat.shared.ended)(Why::Silent);
            return Over::AtOnce;
        }
        let by = self.entered + bounds.credential_within;
        if timeout_at(by, seat.proven.cancelled()).await.is_err() {
            (seat.shared.ended)(Why::NoCredential);
            return Over::AfterAnswers;
        }
        std::future::pending().await
    }

    /// Returns when a connection that was to end after what is under way has to end as it is.
    pub async fn grace_is_over(&self) {
        tokio::select! {
            () = self.cut.cancelled() => {}
            () = tokio::time::sleep(self.proof.seat.shared.bounds.first_head_within) => {}
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let shared = &self.proof.seat.shared;
        let mut book = shared.book();
        book.forget(self.proof.seat.id);
        // One that was cut has left already.
        if !self.cut.is_cancelled() {
            book.left(self.peer);
        }
        drop(book);
        shared.changed.notify_one();
    }
}

/// What a connection has shown.
#[derive(Clone)]
pub struct Proof {
    seat: Arc<Seat>,
}

struct Seat {
    shared: Arc<Shared>,
    id: u64,
    asked: CancellationToken,
    proven: CancellationToken,
}

impl fmt::Debug for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Proof")
            .field("proven", &self.seat.proven.is_cancelled())
            .finish_non_exhaustive()
    }
}

impl Proof {
    /// The head of a request has come.
    pub fn asked(&self) {
        self.seat.asked.cancel();
    }

    /// A request with a good credential has come: the connection keeps its place from now on.
    pub fn give(&self) {
        if self.seat.proven.is_cancelled() {
            return;
        }
        self.seat.proven.cancel();
        self.seat.shared.book().forget(self.seat.id);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SOME: Bounds = Bounds {
        connections: 4,
        of_one_peer: 2,
        first_head_within: Duration::from_secs(10),
        credential_within: Duration::from_secs(30),
    };

    fn table() -> Table {
        Table::new(SOME, |_| {})
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn enter(table: &Table, from: &str) -> Place {
        table.enter(address(from)).unwrap()
    }

    #[test]
    fn the_oldest_without_a_credential_makes_room_and_one_with_keeps_its_place() {
        let table = table();
        let known = enter(&table, "10.0.0.1");
        known.proof().give();
        let silent: Vec<Place> = (2..5)
            .map(|last| enter(&table, &format!("10.0.0.{last}")))
            .collect();
        let new = enter(&table, "10.0.0.9");
        let is_cut: Vec<bool> = silent
            .iter()
            .map(|place| place.cut.is_cancelled())
            .collect();
        assert_eq!(is_cut, [true, false, false]);
        new.proof().give();
        let _newer = enter(&table, "10.0.0.10");
        assert!(silent[1].cut.is_cancelled());
        assert!(!known.cut.is_cancelled() && !new.cut.is_cancelled());
        // What was cut leaves once, and not twice.
        drop(silent);
        assert_eq!(table.shared.book().open, 3);
    }

    #[test]
    fn one_address_has_its_share_and_this_machine_has_all() {
        let table = table();
        let first = enter(&table, "10.0.0.1");
        let second = enter(&table, "::ffff:10.0.0.1");
        second.proof().give();
        let third = enter(&table, "10.0.0.1");
        assert!(first.cut.is_cancelled() && !second.cut.is_cancelled());
        third.proof().give();
        let refused = table.enter(address("10.0.0.1")).unwrap_err();
        assert_eq!(refused, NoPlace::OfItsPeer);
        let _network = [enter(&table, "2001:db8::1"), enter(&table, "2001:db8::2")];
        let _machine: Vec<Place> = (0..3).map(|_| enter(&table, "127.0.0.1")).collect();
        drop((first, second, third));
        let free = enter(&table, "10.0.0.1");
        assert!(!free.cut.is_cancelled());
    }

    #[tokio::test]
    async fn a_head_has_to_come_soon_and_a_credential_a_little_later() {
        let bounds = Bounds {
            first_head_within: Duration::from_millis(20),
            credential_within: Duration::from_millis(60),
            ..SOME
        };
        let table = Table::new(bounds, |_| {});
        let known = enter(&table, "10.0.0.3");
        known.proof().asked();
        known.proof().give();

        let silent = enter(&table, "10.0.0.1");
        assert_eq!(silent.over().await, Over::AtOnce);
        assert!(silent.entered.elapsed() >= bounds.first_head_within);

        let asks = enter(&table, "10.0.0.2");
        asks.proof().asked();
        assert_eq!(asks.over().await, Over::AfterAnswers);
        assert!(asks.entered.elapsed() >= bounds.credential_within);

        // It came before them.
        assert!(!is_ready(known.over()).await);
    }

    async fn is_ready<T>(future: impl Future<Output = T>) -> bool {
        tokio::time::timeout(Duration::ZERO, future).await.is_ok()
    }

    #[tokio::test]
    async fn whoever_comes_waits_while_all_have_shown_a_credential() {
        let table = table();
        let all: Vec<Place> = (1..5)
            .map(|last| enter(&table, &format!("10.0.0.{last}")))
            .collect();
        for place in &all {
            place.proof().give();
        }
        let refused = table.enter(address("10.0.0.9")).unwrap_err();
        assert_eq!(refused, NoPlace::AllInUse);
        assert!(!is_ready(table.room()).await);
        let waiting = tokio::spawn({
            let table = table.clone();
            async move { table.room().await }
        });
        tokio::task::yield_now().await;
        drop(all);
        waiting.await.unwrap();
    }
}
