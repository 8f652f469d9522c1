//! The page: a folder of built files. Its start is asked for anew each time; what carries its own hash in its name is
//! kept for a year.

use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{Html, IntoResponse as _, Response};
use caudal_objects::ObjectStore;
use http::{HeaderValue, Method, StatusCode, Uri, header};
use tower::ServiceExt as _;
use tower_http::services::ServeDir;
use tower_http::set_header::SetResponseHeaderLayer;

/// Where builds put files whose names change with their content.
const HASHED: &str = "/assets/";
const KEPT_FOR_A_YEAR: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");
const ASKED_FOR_ANEW: HeaderValue = HeaderValue::from_static("no-cache");

const START: &str = "/index.html";

/// Shown where the page was not built.
const NOT_BUILT: &str = r#"<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Caudal</title>
<h1>Caudal is running</h1>
<p>The page is not built yet. Run <code>make page</code> in the repository and reload, or start Caudal with
<code>CAUDAL_WEB_DIR</code> set to a folder that holds the built page.</p>
<p>The API answers here already, as gRPC and gRPC-web; <code>/metrics</code> has the metrics for operators.</p>
</html>
"#;

/// The folder named by `CAUDAL_WEB_DIR`, or the one that `make page` builds.
pub(crate) fn default_folder() -> PathBuf {
    std::env::var_os("CAUDAL_WEB_DIR")
        .filter(|folder| !folder.is_empty())
        .map_or_else(|| PathBuf::from("gateway/web/dist"), PathBuf::from)
}

/// Serves the page out of `folder`, which may be filled later. It may speak with this gateway and with the store.
pub(crate) async fn page(folder: &Path, objects: &ObjectStore) -> Router {
    let files = ServeDir::new(folder)
        .append_index_html_on_directories(false)
        .precompressed_br()
        .precompressed_gzip();
    let policy = content_security_policy(store_origin(objects).await.as_deref());
    let header = |name, value| SetResponseHeaderLayer::overriding(name, value);
    Router::new()
        .fallback(serve)
        .with_state(files)
        .layer(header(header::CONTENT_SECURITY_POLICY, policy))
        .layer(header(
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ))
        // Builds put compressed twins beside their files.
        .layer(header(
            header::VARY,
            HeaderValue::from_static("accept-encoding"),
        ))
        .layer(header(
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ))
}

async fn serve(State(files): State<ServeDir>, request: Request) -> Response {
    let path = request.uri().path();
    let is_hashed = path.starts_with(HASHED);
    let is_start = path == "/" || path == START;
    let start = (is_start || is_navigation(&request)).then(|| for_start(&request));
    let mut response = if is_start {
        StatusCode::NOT_FOUND.into_response()
    } else {
        file(&files, request).await
    };
    if let Some(start) = start
        && response.status() == StatusCode::NOT_FOUND
    {
        response = file(&files, start).await;
        if response.status() == StatusCode::NOT_FOUND {
            response = Html(NOT_BUILT).into_response();
        }
    }
    let is_there = response.status().is_success() || response.status() == StatusCode::NOT_MODIFIED;
    let kept = if is_hashed && is_there {
        KEPT_FOR_A_YEAR
    } else {
        ASKED_FOR_ANEW
    };
    response.headers_mut().insert(header::CACHE_CONTROL, kept);
    response
}

async fn file(files: &ServeDir, request: Request) -> Response {
    match files.clone().oneshot(request).await {
        Ok(response) => response.map(Body::new),
        Err(never) => match never {},
    }
}

/// An address of the page's own that was typed or reloaded: the page itself knows what to show there.
fn is_navigation(request: &Request) -> bool {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    let names_a_file = path
        .rsplit_once('/')
        .is_some_and(|(_, last)| last.contains('.'));
    let wants_html = request
        .headers()
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    is_read && wants_html && !names_a_file && !path.starts_with(HASHED)
}

/// The same request, for the start of the page.
fn for_start(request: &Request) -> Request {
    let mut start = Request::new(Body::empty());
    *start.method_mut() = request.method().clone();
    *start.uri_mut() = Uri::from_static(START);
    *start.headers_mut() = request.headers().clone();
    start
}

/// Where clients send and fetch bytes, as presigned URLs name it.
async fn store_origin(objects: &ObjectStore) -> Option<String> {
    let presigned = objects
        .presign_get("origin", Duration::from_secs(1), None)
        .await;
    let uri: Uri = match presigned {
        Ok(presigned) => presigned.url.parse().ok()?,
        Err(error) => {
            tracing::warn!(%error, "the origin of the object store is unknown: browsers will not reach it");
            return None;
        }
    };
    Some(format!("{}://{}", uri.scheme_str()?, uri.authority()?))
}

fn content_security_policy(store: Option<&str>) -> HeaderValue {
    let store = store.unwrap_or_default();
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; worker-src 'self'; \
         manifest-src 'self'; img-src 'self' data: blob: {store}; connect-src 'self' {store}; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'self'"))
}
