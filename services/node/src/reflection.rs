//! What a server serves: read from the descriptors it was given, and found out by asking its routes.

use std::collections::BTreeSet;
use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode, Version};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::service::RoutesBuilder;
use tower::ServiceExt;

/// Services that every server brings along.
pub(crate) const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: [&str; 2] = [
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Names of services and the full paths of their methods.
#[derive(Debug, Default)]
pub(crate) struct Described {
    pub(crate) services: BTreeSet<String>,
    pub(crate) methods: BTreeSet<String>,
}

pub(crate) fn describe(descriptor_sets: &[&'static [u8]]) -> Result<Described, prost::DecodeError> {
    let mut described = Described::default();
    for encoded in descriptor_sets {
        for file in FileDescriptorSet::decode(*encoded)?.file {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                for method in &service.method {
                    described
                        .methods
                        .insert(format!("/{name}/{}", method.name()));
                }
                described.services.insert(name);
            }
        }
    }
    Ok(described)
}

/// Which of the described services the routes answer for: a service answers a method it does not know by itself, a
/// route that does not exist is 404.
pub(crate) async fn served(routes: &Router, described: &Described) -> BTreeSet<String> {
    let mut served = BTreeSet::new();
    for service in &described.services {
        let request = Request::builder()
            .method("POST")
            .version(Version::HTTP_2)
            .uri(format!("/{service}/-"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::empty());
        let Ok(request) = request else { continue };
        let answer: Result<_, Infallible> = routes.clone().oneshot(request).await;
        if answer.is_ok_and(|response| response.status() != StatusCode::NOT_FOUND) {
            served.insert(service.clone());
        }
    }
    served
}

/// Adds reflection, v1 and v1alpha, that lists exactly what is served.
pub(crate) fn add(
    routes: &mut RoutesBuilder,
    descriptor_sets: &[&'static [u8]],
    served: &BTreeSet<String>,
) -> Result<(), tonic_reflection::server::Error> {
    let configure = || {
        let mut builder = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(
                tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
            )
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(HEALTH);
        for name in REFLECTION {
            builder = builder.with_service_name(name);
        }
        for name in served {
            builder = builder.with_service_name(name);
        }
        for encoded in descriptor_sets {
            builder = builder.register_encoded_file_descriptor_set(encoded);
        }
        builder
    };
    routes.add_service(configure().build_v1()?);
    routes.add_service(configure().build_v1alpha()?);
    Ok(())
}
