//! Several processes that spend as fast as they can, over real gRPC, while the limiter answers, hangs, is gone, and is new.
#![expect(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use caudal_domain::Stage;
use caudal_limiter::{ProviderLimit, Rate, Settings, SlotLimits, serve};
use caudal_node::permits::{PermitBlocks, PermitSettings};
use caudal_node::slots::{SlotHolder, SlotSettings};
use caudal_node::{Channels, MeshChannel, MeshSecret, ServerLimits, ServerParts, ServiceIdentity};
use caudal_proto::mesh::v1::PermitKind;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

const PROVIDER: &str = "embedding-provider";
const PER_SECOND: u32 = 200;
const PROCESSES: usize = 4;
const STAGE_SLOTS: u32 = 10;

/// What lies between the processes and the limiter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To the limiter at this address.
    Open(SocketAddr),
    /// Nothing comes through, and nothing says so.
    Stuck,
    /// Nobody is there.
    Gone,
}

/// Forwards connections while the way is open.
async fn forward(listener: TcpListener, way: watch::Receiver<Way>) {
    while let Ok((client, _)) = listener.accept().await {
        let way = way.clone();
        tokio::spawn(async move {
            let mut is_stuck = way.clone();
            let open = is_stuck.wait_for(|way| *way != Way::Stuck).await;
            let Ok(Way::Open(limiter)) = open.map(|way| *way) else {
                return;
            };
            let Ok(limiter) = TcpStream::connect(limiter).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_limiter, to_limiter) = limiter.into_split();
            tokio::select! {
                () = carry(from_client, to_limiter, way.clone()) => {}
                () = carry(from_limiter, to_client, way) => {}
            }
        });
    }
}

async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
) {
    let begun = *way.borrow();
    let mut bytes = vec![0; 16 * 1024];
    loop {
        let mut gone = way.clone();
        let read = tokio::select! {
            read = from.read(&mut bytes) => read,
            _ = gone.wait_for(|way| *way != Way::Stuck && *way != begun) => return,
        };
        let Ok(length @ 1..) = read else {
            return;
        };
        // What it was on its way comes late, in the end.
        let Ok(now) = way.wait_for(|way| *way != Way::Stuck).await.map(|way| *way) else {
            return;
        };
        if now != begun || to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}

fn settings() -> Settings {
    let validity = Duration::from_millis(600);
    let slots = SlotLimits::try_new([(Stage::Upload, STAGE_SLOTS)], 50, validity, validity);
    let limit = ProviderLimit {
        requests: Some(Rate::a_minute("test", PER_SECOND * 60).unwrap()),
        tokens: None,
    };
    Settings::with_slots(slots.unwrap())
        .unwrap()
        .limit_providers([(PROVIDER.to_owned(), limit)])
}

/// A new limiter.
async fn start(secret: &MeshSecret) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let node = caudal_node::Settings {
        name: "limiter".to_owned(),
        mesh_secret: secret.clone(),
        limits: ServerLimits::default(),
    };
    let parts = ServerParts::new(node, listener, CancellationToken::new());
    let task = tokio::spawn(async move { serve(&settings(), parts).await.unwrap() });
    (address, task)
}

fn client(address: SocketAddr, secret: &MeshSecret) -> LimiterServiceClient<MeshChannel> {
    let channel = Channels::default().channel(&address.to_string()).unwrap();
    let identity = ServiceIdentity::new("upload", secret);
    LimiterServiceClient::new(identity.channel(channel))
}

/// Spends all it gets until it is dropped.
async fn spend(permits: PermitBlocks, spent: Arc<Mutex<Vec<(Instant, u32)>>>) {
    loop {
        let taken = permits.take(PROVIDER, 1_000).await;
        if taken.count == 0 {
            tokio::time::sleep(taken.wait).await;
        } else {
            spent.lock().unwrap().push((Instant::now(), taken.count));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_together_stay_within_the_limits_and_go_on_whatever_becomes_of_the_limiter() {
    let secret = MeshSecret::generate();
    let (first, first_task) = start(&secret).await;
    let (set_way, way) = watch::channel(Way::Open(first));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(forward(listener, way));

    let spent = Arc::new(Mutex::new(Vec::new()));
    let mut holders = Vec::new();
    for number in 0..PROCESSES {
        let limiter = client(address, &secret);
        let permits = PermitSettings {
            kind: PermitKind::ProviderRequests,
            block: 10,
            // Too much, so that what the limiter told is all that keeps them within the limit.
            local_share_per_second: f64::from(PER_SECOND),
            process: format!("p{number}"),
        };
        let permits = PermitBlocks::new(limiter.clone(), permits);
        tasks.spawn(spend(permits, spent.clone()));
        let slots = SlotSettings {
            stage: Stage::Upload,
            process: format!("p{number}"),
            want: 8,
            local_share: 8,
        };
        holders.push(SlotHolder::start(limiter, slots, &CancellationToken::new()));
    }
    let granted: Vec<_> = holders.iter().map(SlotHolder::granted).collect();
    // The most and the fewest that all held together, the fewest after they began.
    let held = Arc::new(Mutex::new((0, u32::MAX)));
    for mut changes in granted.clone() {
        let (granted, held) = (granted.clone(), held.clone());
        tasks.spawn(async move {
            while changes.changed().await.is_ok() {
                let sum: u32 = granted.iter().map(|slots| *slots.borrow()).sum();
                let mut held = held.lock().unwrap();
                held.0 = held.0.max(sum);
                if held.0 == STAGE_SLOTS {
                    held.1 = held.1.min(sum);
                }
            }
        });
    }

    let begun = Instant::now();
    let pass = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    // Until a new limiter has told all parts.
    pass(13).await;
    set_way.send_replace(Way::Stuck);
    pass(4).await;
    set_way.send_replace(Way::Open(first));
    pass(3).await;
    set_way.send_replace(Way::Gone);
    first_task.abort();
    pass(4).await;
    let (second, second_task) = start(&secret).await;
    set_way.send_replace(Way::Open(second));
    pass(4).await;
    let ended = Instant::now();
    second_task.abort();
    tasks.abort_all();

    let spent = std::mem::take(&mut *spent.lock().unwrap());
    for (index, (from, _)) in spent.iter().enumerate() {
        let mut sum = 0;
        for (to, count) in &spent[index..] {
            sum += count;
            // Two seconds a block is good, one was saved up, and one is the burst.
            let window = (*to - *from).as_secs_f64();
            let bound = f64::from(PER_SECOND) * (window + 4.0);
            assert!(f64::from(sum) <= bound, "{sum} in {window} s");
        }
    }
    let seconds = (ended - begun).as_secs();
    for second in 1..seconds {
        let (from, to) = (second, second + 1);
        let here = spent.iter().filter(|(at, _)| {
            (Duration::from_secs(from)..Duration::from_secs(to)).contains(&(*at - begun))
        });
        assert!(here.count() > 0, "nothing in second {second}");
    }
    let (most, fewest) = *held.lock().unwrap();
    assert_eq!(most, STAGE_SLOTS);
    assert!(fewest > 0 && fewest <= STAGE_SLOTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_429_two_processes_together_are_granted_half_of_the_rate_and_then_more() {
    let secret = MeshSecret::generate();
    let (address, task) = start(&secret).await;
    let spent = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    let mut all = Vec::new();
    for number in 0..2 {
        let permits = PermitSettings {
            kind: PermitKind::ProviderRequests,
            block: 10,
            local_share_per_second: 1.0,
            process: format!("p{number}"),
        };
        let permits = PermitBlocks::new(client(address, &secret), permits);
        tasks.spawn(spend(permits.clone(), spent.clone()));
        all.push(permits);
    }
    let pass = |millis| tokio::time::sleep(Duration::from_millis(millis));
    pass(1_000).await;
    let pause = Duration::from_secs(1);
    // Both met it.
    for permits in &all {
        permits.penalize(PROVIDER, pause).await;
    }
    let told = Instant::now();
    pass(4_500).await;
    let ended = Instant::now();
    tasks.abort_all();
    task.abort();
    let spent = spent.lock().unwrap();
    let in_time = |from: Duration, to: Duration| -> u32 {
        let here = spent
            .iter()
            .filter(|(at, _)| (told + from..told + to).contains(at));
        here.map(|(_, count)| *count).sum()
    };
    // What was taken just before may still be told of.
    let settled = Duration::from_millis(100);
    assert_eq!(in_time(settled, pause - settled), 0, "in the pause");
    let rest = ended - told - pause;
    let granted = f64::from(in_time(pause, ended - told));
    let least = f64::from(PER_SECOND) / 2.0 * (rest.as_secs_f64() - 1.0);
    // Half, and what grew back of it.
    let most = f64::from(PER_SECOND) * (0.5 + rest.as_secs_f64() / 60.0) * rest.as_secs_f64();
    assert!(
        (least..=most + 10.0).contains(&granted),
        "{granted}, {least} to {most}"
    );
}
