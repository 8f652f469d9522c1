//! The metrics at the public door: for operators, with their key as for any call.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use caudal_domain::Refusal;
use caudal_node::scope::Role;
use caudal_node::{Proof, Registry, server};
use caudal_proto::status::to_status;
use http::request::Parts;
use http::{HeaderValue, StatusCode, header};
use tonic::{Code, Status};

use crate::auth::Authenticator;

#[derive(Clone)]
struct Page {
    authenticator: Authenticator,
    registry: Registry,
}

/// `GET /metrics`.
pub(crate) fn route(authenticator: Authenticator, registry: Registry) -> Router {
    let page = Page {
        authenticator,
        registry,
    };
    Router::new()
        .route("/metrics", get(answer))
        .with_state(page)
}

async fn answer(State(page): State<Page>, request: Request) -> Response {
    let (head, _body) = request.into_parts();
    match page.check(&head).await {
        Ok(()) => server::shown(&page.registry),
        Err(status) => refusal(&status),
    }
}

impl Page {
    async fn check(&self, head: &Parts) -> Result<(), Status> {
        let info = head.extensions.get::<ConnectInfo<SocketAddr>>();
        let peer = info.map(|info| info.0.ip());
        let caller = self.authenticator.caller(&head.headers, peer).await?;
        if let Some(proof) = head.extensions.get::<Proof>() {
            proof.give();
        }
        if caller.scope.role == Role::Operator {
            return Ok(());
        }
        Err(to_status(&Refusal::permission_denied(
            "metrics are for operators: use an operator's key, or the address that --metrics-listen gives them",
        )))
    }
}

fn refusal(status: &Status) -> Response {
    let code = match status.code() {
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = (code, format!("{}\n", status.message())).into_response();
    if code == StatusCode::UNAUTHORIZED {
        response
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}
