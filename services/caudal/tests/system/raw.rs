//! Single calls, which nobody repeats.

use caudal_harness::System;
use caudal_sdk::v1::batch_service_client::BatchServiceClient;
use caudal_sdk::v1::file_service_client::FileServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_health::pb::health_client::HealthClient;

pub(crate) type Batches = BatchServiceClient<InterceptedService<Channel, Key>>;
pub(crate) type Files = FileServiceClient<InterceptedService<Channel, Key>>;

/// Puts a member's key on every call.
#[derive(Clone)]
pub(crate) struct Key(MetadataValue<Ascii>);

impl tonic::service::Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let metadata = request.metadata_mut();
        metadata.insert("authorization", self.0.clone());
        Ok(request)
    }
}

/// The batches of the first tenant.
pub(crate) fn batches(system: &System) -> Batches {
    let (gateway, key) = member(system);
    BatchServiceClient::with_interceptor(gateway, key)
}

/// The files of the first tenant.
pub(crate) fn files(system: &System) -> Files {
    let (gateway, key) = member(system);
    FileServiceClient::with_interceptor(gateway, key)
}

fn member(system: &System) -> (Channel, Key) {
    let gateway = Endpoint::from_shared(system.ready("gateway")).unwrap();
    let key = format!("Bearer {}", system.ready("api_key"));
    (gateway.connect_lazy(), Key(key.parse().unwrap()))
}

/// The health of the ledger.
pub(crate) fn health(system: &System) -> HealthClient<Channel> {
    let ledger = Endpoint::from_shared(system.service("ledger")).unwrap();
    HealthClient::new(ledger.connect_lazy())
}

/// A caller's data of a batch.
pub(crate) fn metadata(members: &[(&str, &str)]) -> prost_types::Struct {
    let member = |(name, text): &(&str, &str)| {
        let kind = prost_types::value::Kind::StringValue((*text).to_owned());
        ((*name).to_owned(), prost_types::Value { kind: Some(kind) })
    };
    prost_types::Struct {
        fields: members.iter().map(member).collect(),
    }
}
