//! A proxy in front of an object store that does to requests what networks and stores do on bad days, by a seed: refuses them
//! as a store that is busy or broken, is slow, ends them at any byte, and ends or loses their answers.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::task::AbortOnDropHandle;

/// Of every so many requests one meets a fault.
const ONE_IN: u64 = 6;
const LARGEST_HEAD: usize = 64 << 10;
const PIECE: usize = 16 << 10;
/// A slow request rests so long between its pieces.
const REST: Duration = Duration::from_millis(15);
/// Within so many bytes of its beginning an answer is cut off.
const CUT_WITHIN: u64 = 4 << 10;
/// Within so many bytes it is cut off in its head. Chromium takes what came of a head for all of it, and the answer for whole.
const HEAD_CUT_WITHIN: u64 = 512;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    /// Answered with this status and code, and never seen by the store.
    Refused(u16, &'static str),
    Slow,
    /// Ended behind so many bytes of its body.
    Cut(u64),
    /// The store does it, and so many bytes of its answer are carried.
    AnswerCut(u64),
}

/// Draws by a seed; the same draws whenever it is the same.
#[derive(Debug)]
struct Draws(AtomicU64);

impl Draws {
    /// The next number below a bound.
    fn below(&self, bound: u64) -> u64 {
        let mut mixed = self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    fn fate(&self, body: u64) -> Fate {
        if self.below(ONE_IN) != 0 {
            return Fate::Passes;
        }
        match self.below(7) {
            0 => Fate::Refused(503, "SlowDown"),
            1 => Fate::Refused(500, "InternalError"),
            2 => Fate::Slow,
            3 => Fate::Cut(self.below(body + 1)),
            4 => Fate::AnswerCut(0),
            5 => Fate::AnswerCut(self.below(HEAD_CUT_WITHIN)),
            _ => Fate::AnswerCut(self.below(CUT_WITHIN)),
        }
    }
}

/// What becomes of requests for now.
#[derive(Debug, Clone, Copy)]
enum Day {
    Good,
    /// Some meet a fault, as is drawn.
    Bad,
    /// One of so many is answered with this status and code.
    Refuses(u64, u16, &'static str),
    /// Whoever reads an object is denied it, but for probes.
    DeniesReads,
}

#[derive(Debug)]
struct Shared {
    store: SocketAddr,
    draws: Draws,
    day: Mutex<Day>,
    faults: AtomicU64,
    asked: Mutex<Vec<String>>,
}

/// A proxy in front of one store. It ends when dropped, and its connections with it.
#[derive(Debug)]
pub struct StoreProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _task: AbortOnDropHandle<()>,
}

impl StoreProxy {
    /// Starts one in front of `endpoint`, `http://HOST:PORT`, in the present tokio runtime. It lets everything pass at first.
    ///
    /// # Errors
    /// No port is free, or the endpoint is none.
    pub async fn start(endpoint: &str, seed: u64) -> anyhow::Result<Self> {
        let store = endpoint.strip_prefix("http://").context("no http URL")?;
        let shared = Arc::new(Shared {
            store: store.parse().context("no address in the URL")?,
            draws: Draws(AtomicU64::new(seed)),
            day: Mutex::new(Day::Good),
            faults: AtomicU64::new(0),
            asked: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let task = serve(listener, shared.clone());
        Ok(Self {
            address,
            shared,
            _task: AbortOnDropHandle::new(tokio::spawn(task)),
        })
    }

    /// `http://ADDRESS:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Begins to be bad, or ends that.
    pub fn set_bad(&self, is_bad: bool) {
        self.set(if is_bad { Day::Bad } else { Day::Good });
    }

    /// Begins to answer one of every `one_in` requests with this status and code of S3; [`set_bad`](Self::set_bad) ends that.
    pub fn refuse(&self, one_in: u64, status: u16, code: &'static str) {
        self.set(Day::Refuses(one_in, status, code));
    }

    /// Begins to deny every object that is read, but no probe: whoever probes it finds nothing wrong.
    pub fn deny_reads(&self) {
        self.set(Day::DeniesReads);
    }

    fn set(&self, day: Day) {
        *self
            .shared
            .day
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = day;
    }

    /// What was asked since this was last called: method and path of each request, in the order they came.
    #[must_use]
    pub fn take_asked(&self) -> Vec<String> {
        let mut asked = self
            .shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *asked)
    }

    /// How many requests met a fault.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.shared.faults.load(Ordering::Relaxed)
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, and so are the connections.
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        let shared = shared.clone();
        connections.spawn(async move {
            // However it ends, both its sides are closed: what the peers make of it is what is tested.
            let _ended = connection(client, &shared).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Carries one request and its answer; both sides are closed then.
async fn connection(mut client: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    client.set_nodelay(true)?;
    let Some((head, begun)) = head_of(&mut client).await? else {
        return Ok(());
    };
    let line = head.lines().next().unwrap_or_default();
    let asked = line.rsplit_once(' ').map_or(line, |(asked, _)| asked);
    shared
        .asked
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(asked.to_owned());
    let body = length_of(&head)?;
    let day = *shared.day.lock().unwrap_or_else(PoisonError::into_inner);
    let fate = match day {
        Day::Bad => shared.draws.fate(body),
        Day::Refuses(one_in, status, code) if shared.draws.below(one_in) == 0 => {
            Fate::Refused(status, code)
        }
        Day::DeniesReads if asked.starts_with("GET ") && !asked.contains("/probe/") => {
            Fate::Refused(403, "AccessDenied")
        }
        Day::Good | Day::Refuses(..) | Day::DeniesReads => Fate::Passes,
    };
    if fate != Fate::Passes {
        shared.faults.fetch_add(1, Ordering::Relaxed);
    }
    if let Fate::Refused(status, code) = fate {
        return refuse(
            &mut client,
            body.saturating_sub(begun.len() as u64),
            status,
            code,
        )
        .await;
    }
    let mut store = TcpStream::connect(shared.store).await?;
    store.set_nodelay(true)?;
    store.write_all(closing(&head).as_bytes()).await?;
    let carried = match fate {
        Fate::Cut(at) => at.min(body),
        _ => body,
    };
    let first = begun.len().min(usize::try_from(carried)?);
    store.write_all(&begun[..first]).await?;
    let is_slow = fate == Fate::Slow;
    carry(&mut client, &mut store, carried - first as u64, is_slow).await?;
    match fate {
        Fate::Cut(_) => Ok(()),
        Fate::AnswerCut(at) => carry(&mut store, &mut client, at, false).await,
        _ => carry(&mut store, &mut client, u64::MAX, is_slow).await,
    }
}

/// The head of a request, and what came of its body with it; none where the client closed.
async fn head_of(client: &mut TcpStream) -> anyhow::Result<Option<(String, Vec<u8>)>> {
    const END: &[u8] = b"\r\n\r\n";
    let mut read = Vec::new();
    loop {
        if let Some(at) = read.windows(END.len()).position(|window| window == END) {
            let begun = read.split_off(at + END.len());
            return Ok(Some((String::from_utf8(read)?, begun)));
        }
        ensure!(read.len() < LARGEST_HEAD, "a head without an end");
        if client.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    }
}

fn length_of(head: &str) -> anyhow::Result<u64> {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    for (name, value) in lines {
        if name.eq_ignore_ascii_case("content-length") {
            return Ok(value.trim().parse()?);
        }
        ensure!(
            !name.eq_ignore_ascii_case("transfer-encoding"),
            "a body without a length is not carried"
        );
    }
    Ok(0)
}

/// The same head, of a request after which the store closes: each request has a fate, and so a connection, of its own.
fn closing(head: &str) -> String {
    let is_kept = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        !line.is_empty() && !name.eq_ignore_ascii_case("connection")
    };
    let lines: Vec<&str> = head.lines().filter(is_kept).collect();
    format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n"))
}

async fn refuse(client: &mut TcpStream, rest: u64, status: u16, code: &str) -> anyhow::Result<()> {
    // Whoever is in the middle of sending reads no answer.
    carry(client, &mut tokio::io::sink(), rest, false).await?;
    let words = format!(
        "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>bad day</Message></Error>"
    );
    let answer = format!(
        "HTTP/1.1 {status} Bad\r\nContent-Type: application/xml\r\nAccess-Control-Allow-Origin: *\r\n\
         Access-Control-Expose-Headers: ETag\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{words}",
        words.len()
    );
    client.write_all(answer.as_bytes()).await?;
    Ok(client.shutdown().await?)
}

/// Carries so many bytes, or all that come.
async fn carry(
    from: &mut TcpStream,
    to: &mut (impl AsyncWriteExt + Unpin),
    mut bytes: u64,
    is_slow: bool,
) -> anyhow::Result<()> {
    let mut piece = vec![0; PIECE];
    while bytes > 0 {
        let most = piece.len().min(usize::try_from(bytes).unwrap_or(PIECE));
        let read = from.read(&mut piece[..most]).await?;
        if read == 0 {
            break;
        }
        to.write_all(&piece[..read]).await?;
        bytes -= read as u64;
        if is_slow {
            tokio::time::sleep(REST).await;
        }
    }
    Ok(to.flush().await?)
}
