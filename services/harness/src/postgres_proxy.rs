//! A proxy between a ledger and Postgres that understands just enough of the protocol to lose a COMMIT: the moment at
//! which a client cannot know what happened.

use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Frames larger than this are no frames: the proxy has lost its place in the stream.
const LARGEST_FRAME: usize = 256 << 20;
/// Codes in the place of a protocol version that ask for encryption; the server answers with one byte.
const WANTS_ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// What becomes of a COMMIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The server commits, and its answer is swallowed.
    Answer,
    /// The server never sees it, and rolls back when the connection ends.
    Command,
}

#[derive(Debug)]
struct Order {
    marker: Vec<u8>,
    skip: usize,
    loss: Loss,
    done: oneshot::Sender<()>,
}

#[derive(Debug, Default)]
struct Orders {
    waiting: Vec<Order>,
}

impl Orders {
    /// What to do with a COMMIT of a transaction in which these frames were sent.
    fn of(&mut self, sent: &[u8]) -> Option<(Loss, oneshot::Sender<()>)> {
        let at = self
            .waiting
            .iter()
            .position(|order| contains(sent, &order.marker))?;
        if self.waiting[at].skip > 0 {
            self.waiting[at].skip -= 1;
            return None;
        }
        let order = self.waiting.remove(at);
        Some((order.loss, order.done))
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    part.is_empty() || text.windows(part.len()).any(|window| window == part)
}

/// A proxy in front of one Postgres. It ends when dropped, and its connections with it.
#[derive(Debug)]
pub struct PostgresProxy {
    url: String,
    orders: Arc<Mutex<Orders>>,
    cut: Arc<Mutex<CancellationToken>>,
    _task: AbortOnDropHandle<()>,
}

impl PostgresProxy {
    /// Starts one in front of `url`, in the present tokio runtime.
    ///
    /// # Errors
    /// No port is free, or the URL names no host and port.
    pub fn start(url: &str) -> anyhow::Result<Self> {
        let (before, rest) = url.split_once('@').context("no user in the URL")?;
        let (host, database) = rest.split_once('/').context("no database in the URL")?;
        let server: SocketAddr = host.parse().context("no address in the URL")?;
        let listener = StdListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let url = format!("{before}@{}/{database}", listener.local_addr()?);
        let listener = TcpListener::from_std(listener)?;
        let orders = Arc::new(Mutex::new(Orders::default()));
        let cut = Arc::new(Mutex::new(CancellationToken::new()));
        let task = serve(listener, server, orders.clone(), cut.clone());
        Ok(Self {
            url,
            orders,
            cut,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        })
    }

    /// Where it listens, with user and database.
    #[must_use]
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// Loses a COMMIT: of a transaction in which `marker` was sent (a request id's bytes, say; empty: of any), after
    /// `skip` others of that kind. Both sides of the connection are closed then, and the receiver is told.
    pub fn lose_commit(
        &self,
        loss: Loss,
        marker: impl Into<Vec<u8>>,
        skip: usize,
    ) -> oneshot::Receiver<()> {
        let (done, told) = oneshot::channel();
        let order = Order {
            marker: marker.into(),
            skip,
            loss,
            done,
        };
        lock(&self.orders).waiting.push(order);
        told
    }

    /// Closes every connection, whatever it is in the middle of.
    pub fn cut(&self) {
        std::mem::take(&mut *lock(&self.cut)).cancel();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: TcpListener,
    server: SocketAddr,
    orders: Arc<Mutex<Orders>>,
    cut: Arc<Mutex<CancellationToken>>,
) {
    // Dropped with this task, and so are the connections.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let (orders, cut) = (orders.clone(), lock(&cut).clone());
        connections.spawn(async move {
            tokio::select! {
                // However it ends, both its sides are closed: what the peers make of it is what is tested.
                _ = connection(client, server, orders) => {}
                () = cut.cancelled() => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    client: TcpStream,
    server: SocketAddr,
    orders: Arc<Mutex<Orders>>,
) -> anyhow::Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    while let Some(wanted) = first_frames(&mut from_client, &mut to_server).await? {
        ensure!(
            WANTS_ENCRYPTION.contains(&wanted),
            "a cancel request is not carried"
        );
        let answer = from_server.read_u8().await?;
        ensure!(answer == b'N', "the server wants to encrypt");
        to_client.write_u8(answer).await?;
    }
    let swallow: Arc<Mutex<Option<oneshot::Sender<()>>>> = Arc::default();
    tokio::select! {
        sent = requests(&mut from_client, &mut to_server, &orders, &swallow) => sent,
        answered = answers(&mut from_server, &mut to_client, &swallow) => answered,
    }
}

/// Carries a frame of the beginning, which has no type: none when the session has begun, else what it wants.
async fn first_frames(
    client: &mut OwnedReadHalf,
    server: &mut OwnedWriteHalf,
) -> anyhow::Result<Option<u32>> {
    const VERSION_3: u32 = 3 << 16;
    let length = client.read_u32().await?;
    let code = client.read_u32().await?;
    let rest = usize::try_from(length)?.checked_sub(8);
    let mut body = vec![0; rest.context("a frame is too short")?];
    client.read_exact(&mut body).await?;
    server.write_u32(length).await?;
    server.write_u32(code).await?;
    server.write_all(&body).await?;
    Ok((code & 0xFFFF_0000 != VERSION_3).then_some(code))
}

struct Frame {
    kind: u8,
    body: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut OwnedReadHalf) -> anyhow::Result<Self> {
        let kind = from.read_u8().await?;
        let length = usize::try_from(from.read_u32().await?)?;
        if !(4..=LARGEST_FRAME).contains(&length) {
            bail!("a frame of {length} bytes");
        }
        let mut body = vec![0; length - 4];
        from.read_exact(&mut body).await?;
        Ok(Self { kind, body })
    }

    async fn write(&self, to: &mut OwnedWriteHalf) -> anyhow::Result<()> {
        let mut bytes = Vec::with_capacity(self.body.len() + 5);
        bytes.push(self.kind);
        bytes.extend(u32::try_from(self.body.len() + 4)?.to_be_bytes());
        bytes.extend(&self.body);
        to.write_all(&bytes).await?;
        Ok(())
    }

    fn is_command(&self, command: &str) -> bool {
        let text = self.body.get(..command.len());
        self.kind == b'Q' && text.is_some_and(|text| text.eq_ignore_ascii_case(command.as_bytes()))
    }
}

async fn requests(
    client: &mut OwnedReadHalf,
    server: &mut OwnedWriteHalf,
    orders: &Mutex<Orders>,
    swallow: &Mutex<Option<oneshot::Sender<()>>>,
) -> anyhow::Result<()> {
    let mut transaction = Vec::new();
    loop {
        let frame = Frame::read(client).await?;
        if frame.is_command("BEGIN") {
            transaction.clear();
        }
        if frame.is_command("COMMIT") {
            let order = lock(orders).of(&transaction);
            match order {
                Some((Loss::Command, done)) => {
                    let _ = done.send(());
                    return Ok(());
                }
                Some((Loss::Answer, done)) => *lock(swallow) = Some(done),
                None => {}
            }
            transaction.clear();
        } else {
            transaction.extend(&frame.body);
        }
        frame.write(server).await?;
    }
}

async fn answers(
    server: &mut OwnedReadHalf,
    client: &mut OwnedWriteHalf,
    swallow: &Mutex<Option<oneshot::Sender<()>>>,
) -> anyhow::Result<()> {
    loop {
        let frame = Frame::read(server).await?;
        if frame.kind == b'C'
            && frame.body.starts_with(b"COMMIT")
            && let Some(done) = lock(swallow).take()
        {
            let _ = done.send(());
            return Ok(());
        }
        frame.write(client).await?;
    }
}
