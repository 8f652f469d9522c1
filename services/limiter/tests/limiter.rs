//! The limiter over real gRPC, with the clients that services use.
#![expect(clippy::unwrap_used)]

use std::time::Duration;

use caudal_domain::Stage;
use caudal_limiter::{DefaultRates, Rate, Settings, SlotLimits, serve};
use caudal_node::permits::{Permit, PermitBlocks, PermitSettings};
use caudal_node::slots::{SlotHolder, SlotSettings};
use caudal_node::{Channels, MeshChannel, MeshSecret, ServerLimits, ServerParts, ServiceIdentity};
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use caudal_proto::mesh::v1::{
    AcquireRequest, GetStatusRequest, HoldSlotsRequest, PenalizeRequest, PermitKind,
};
use caudal_proto::status::from_status;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Code;

const DEADLINE: Duration = Duration::from_secs(20);
const TENANT: &str = "0190b5a2-0000-7000-8000-000000000001";

struct Running {
    client: LimiterServiceClient<MeshChannel>,
    operator: LimiterServiceClient<MeshChannel>,
    address: String,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settings() -> Settings {
    let rate = |per_second, burst| Rate::try_new("test", per_second, burst).unwrap();
    let rates = DefaultRates {
        calls: rate(1.0, 10),
        entries: rate(1.0, 10),
        provider_requests: rate(1.0, 10),
        provider_tokens: rate(1000.0, 10),
    };
    let slots = SlotLimits::try_new(
        [(Stage::Upload, 6)],
        50,
        Duration::from_millis(300),
        Duration::ZERO,
    )
    .unwrap();
    Settings::try_new(rates, [], slots, Duration::from_secs(2)).unwrap()
}

async fn start() -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let secret = MeshSecret::generate();
    let shutdown = CancellationToken::new();
    let node = caudal_node::Settings {
        name: "limiter".to_owned(),
        mesh_secret: secret.clone(),
        limits: ServerLimits::default(),
    };
    let parts = ServerParts::new(node, listener, shutdown.clone());
    let task = tokio::spawn(async move { serve(&settings(), parts).await.unwrap() });
    let channel = Channels::default().channel(&address).unwrap();
    let as_service = |name: &str| {
        let identity = ServiceIdentity::new(name, &secret);
        LimiterServiceClient::new(identity.channel(channel.clone()))
    };
    Running {
        client: as_service("upload"),
        operator: as_service("operator"),
        address,
        shutdown,
        task,
    }
}

#[tokio::test]
async fn two_processes_share_a_stage_and_one_that_leaves_gives_its_slots_to_the_other() {
    let running = start().await;
    let hold = |process: &str| {
        let settings = SlotSettings {
            stage: Stage::Upload,
            process: process.to_owned(),
            want: 5,
            local_share: 1,
        };
        SlotHolder::start(running.client.clone(), settings, &CancellationToken::new())
    };
    let (first, second) = (hold("p1"), hold("p2"));
    for holder in [&first, &second] {
        tokio::time::timeout(DEADLINE, holder.granted().wait_for(|slots| *slots == 3))
            .await
            .unwrap()
            .unwrap();
    }
    let status = running
        .operator
        .clone()
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let upload = status
        .stages
        .iter()
        .find(|stage| stage.stage == "upload")
        .unwrap();
    assert_eq!((upload.limit, upload.held, upload.processes), (6, 6, 2));
    assert_eq!((status.total_limit, status.total_held), (50, 6));
    first.stop().await;
    tokio::time::timeout(DEADLINE, second.granted().wait_for(|slots| *slots == 5))
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_tenant_spends_its_rate_and_no_others() {
    let running = start().await;
    let settings = PermitSettings {
        kind: PermitKind::Calls,
        block: 4,
        local_share_per_second: 1.0,
        process: "p1".to_owned(),
    };
    let permits = PermitBlocks::new(running.client.clone(), settings);
    for _ in 0..10 {
        assert_eq!(permits.try_acquire(TENANT, 1).await, Permit::Granted);
    }
    assert!(matches!(
        permits.try_acquire(TENANT, 1).await,
        Permit::NotYet(_)
    ));
    let other = TENANT.replace("0001", "0002");
    assert_eq!(permits.try_acquire(&other, 1).await, Permit::Granted);
    let status = running
        .operator
        .clone()
        .get_status(GetStatusRequest {})
        .await
        .unwrap()
        .into_inner();
    let spent = status.rates.iter().find(|rate| rate.key == TENANT).unwrap();
    assert!(spent.granted >= 10 && spent.refused >= 1, "{spent:?}");
}

#[tokio::test]
async fn more_than_a_burst_is_waited_for_and_a_penalty_stops_everyone() {
    let running = start().await;
    let settings = PermitSettings {
        kind: PermitKind::ProviderTokens,
        block: 10,
        local_share_per_second: 1.0,
        process: "p1".to_owned(),
    };
    let permits = PermitBlocks::new(running.client.clone(), settings);
    let never = CancellationToken::new();
    let waited = permits.acquire("provider", 35, &never);
    assert!(tokio::time::timeout(DEADLINE, waited).await.unwrap());
    let retry_after = Some(caudal_proto::convert::duration_to_proto(
        Duration::from_secs(30),
    ));
    let penalty = PenalizeRequest {
        provider: "provider".to_owned(),
        retry_after,
    };
    running.client.clone().penalize(penalty).await.unwrap();
    let request = AcquireRequest {
        kind: PermitKind::ProviderRequests.into(),
        key: "provider".to_owned(),
        want: 1,
        block: 1,
        ..AcquireRequest::default()
    };
    let answer = running
        .client
        .clone()
        .acquire(request)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.granted, 0);
    assert!(answer.retry_after.unwrap().seconds >= 29);
}

#[tokio::test]
async fn a_bad_request_names_its_field_and_a_stranger_is_turned_away() {
    let running = start().await;
    let mut client = running.client.clone();
    let acquire = |kind: PermitKind, key: &str, want| AcquireRequest {
        kind: kind.into(),
        key: key.to_owned(),
        want,
        block: want,
        ..AcquireRequest::default()
    };
    for (request, field) in [
        (acquire(PermitKind::Unspecified, TENANT, 1), "kind"),
        (acquire(PermitKind::Calls, "somebody", 1), "key"),
        (acquire(PermitKind::ProviderTokens, "", 1), "key"),
        (acquire(PermitKind::Calls, TENANT, 0), "want"),
    ] {
        let status = client.acquire(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(from_status(&status).violations[0].field, field);
    }
    let request = HoldSlotsRequest {
        stage_limit: None,
        stage: "nonsense".to_owned(),
        process: "p".to_owned(),
        want: 1,
        have: 0,
    };
    let status = client.hold_slots(request).await.unwrap_err();
    assert_eq!(from_status(&status).violations[0].field, "stage");
    let status = client
        .penalize(PenalizeRequest::default())
        .await
        .unwrap_err();
    assert_eq!(from_status(&status).violations[0].field, "provider");

    let channel = Channels::default().channel(&running.address).unwrap();
    let status = LimiterServiceClient::new(channel)
        .get_status(GetStatusRequest {})
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    running.shutdown.cancel();
}
