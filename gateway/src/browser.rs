//! What browsers need: gRPC-web around the gRPC routes, and leave for pages of other origins to call them. Reflection
//! stands here too, so that tools which speak gRPC-web can ask what is served.

use std::str::FromStr;
use std::time::Duration;

use axum::Router;
use caudal_proto::FILE_DESCRIPTOR_SET;
use caudal_proto::longrunning::operations_server::SERVICE_NAME as OPERATIONS;
use caudal_proto::v1::batch_service_server::SERVICE_NAME as BATCHES;
use caudal_proto::v1::event_service_server::SERVICE_NAME as EVENTS;
use caudal_proto::v1::file_service_server::SERVICE_NAME as FILES;
use caudal_proto::v1::operator_service_server::SERVICE_NAME as OPERATOR;
use caudal_proto::v1::tenant_service_server::SERVICE_NAME as TENANTS;
use caudal_proto::v1::upload_service_server::SERVICE_NAME as UPLOADS;
use http::{HeaderName, HeaderValue, Method, header};
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};

/// The longest that browsers remember a preflight.
const PREFLIGHT_REMEMBERED: Duration = Duration::from_secs(2 * 60 * 60);

const ASKED_WITH: [HeaderName; 6] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::ACCEPT_LANGUAGE,
    HeaderName::from_static("x-grpc-web"),
    HeaderName::from_static("x-user-agent"),
    HeaderName::from_static("grpc-timeout"),
];

const ANSWERED_WITH: [HeaderName; 3] = [
    HeaderName::from_static("grpc-status"),
    HeaderName::from_static("grpc-message"),
    HeaderName::from_static("grpc-status-details-bin"),
];

/// The services that reflection tells of.
const SERVED: [&str; 10] = [
    BATCHES,
    EVENTS,
    FILES,
    OPERATIONS,
    OPERATOR,
    TENANTS,
    UPLOADS,
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

/// Whose pages may call. Credentials travel in a header that a page sets itself, never in a cookie, so a foreign page
/// can do nothing in somebody's name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum AllowedOrigins {
    /// Those of every origin.
    #[default]
    Any,
    /// Those of these origins, such as `https://intake.example`.
    These(Vec<HeaderValue>),
}

/// A text that is no list of origins.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no origin, such as https://intake.example, nor `*` for all of them")]
pub struct InvalidOrigin(String);

impl FromStr for AllowedOrigins {
    type Err = InvalidOrigin;

    /// Reads `*`, or origins separated by commas.
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        if text.trim() == "*" {
            return Ok(Self::Any);
        }
        let mut origins = Vec::new();
        for one in text.split(',') {
            let one = one.trim().trim_end_matches('/');
            let invalid = || InvalidOrigin(one.to_owned());
            let parsed: http::Uri = one.parse().map_err(|_| invalid())?;
            let is_origin =
                parsed.scheme().is_some() && parsed.authority().is_some() && parsed.path() == "/";
            if !is_origin || parsed.query().is_some() {
                return Err(invalid());
            }
            origins.push(HeaderValue::from_str(one).map_err(|_| invalid())?);
        }
        Ok(Self::These(origins))
    }
}

/// Adds reflection to the routes and opens all of them to browsers. What is no gRPC path is left alone: gRPC-web answers
/// 400 to everything it does not know.
pub(crate) fn open_to_browsers(
    routes: Router,
    origins: &AllowedOrigins,
) -> Result<Routes, tonic_reflection::server::Error> {
    let reflection = Routes::new(described().build_v1()?)
        .add_service(described().build_v1alpha()?)
        .into_axum_router()
        .reset_fallback();
    let routes = routes.reset_fallback().merge(reflection);
    Ok(routes
        .layer(GrpcWebLayer::new())
        .layer(cors(origins))
        .into())
}

fn described() -> tonic_reflection::server::Builder<'static> {
    let mut builder = tonic_reflection::server::Builder::configure();
    for encoded in [
        FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        // What errors carry: clients that know nothing else of them read it here.
        caudal_proto::DETAILS_DESCRIPTOR_SET,
    ] {
        builder = builder.register_encoded_file_descriptor_set(encoded);
    }
    for name in SERVED {
        builder = builder.with_service_name(name);
    }
    builder
}

fn cors(origins: &AllowedOrigins) -> CorsLayer {
    let origins = match origins {
        AllowedOrigins::Any => AllowOrigin::any(),
        AllowedOrigins::These(origins) => AllowOrigin::list(origins.iter().cloned()),
    };
    CorsLayer::new()
        .allow_origin(origins)
        .allow_methods([Method::POST])
        .allow_headers(ASKED_WITH)
        .expose_headers(ANSWERED_WITH)
        .max_age(PREFLIGHT_REMEMBERED)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn origins_are_read_as_people_write_them() {
        let these: AllowedOrigins = "https://a.example/, http://localhost:5173".parse().unwrap();
        let expected = ["https://a.example", "http://localhost:5173"];
        assert_eq!(
            these,
            AllowedOrigins::These(expected.map(HeaderValue::from_static).to_vec())
        );
        assert_eq!(" * ".parse(), Ok(AllowedOrigins::Any));
        for wrong in [
            "",
            "a.example",
            "https://a.example/page",
            "*,https://a.example",
        ] {
            assert!(wrong.parse::<AllowedOrigins>().is_err(), "{wrong}");
        }
    }
}
