//! HTTP for operators: `/metrics` and `/healthz`, on loopback unless the configuration says otherwise.
//!
//! It reads what the node has published and asks nobody, so that whoever reads slowly, or not at all, holds up nothing
//! but one of its own few connections. It takes GET (and HEAD) of these two paths, small heads and no bodies, one request
//! per connection, and a few seconds for all of it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use postroad_net::Network;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::metrics::{MEDIA_TYPE, Metrics};

/// Connections at the same time; more are closed at once.
const MAX_CONNECTIONS: usize = 32;
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 8 << 10;
/// Header lines of a request.
const MAX_HEADERS: usize = 64;
/// How long a request's head may take.
const HEAD_PATIENCE: Duration = Duration::from_secs(5);
/// How long a connection may take in all.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long to wait after the system refused a connection, as it does when descriptors run out.
const PAUSE: Duration = Duration::from_millis(100);

/// What a request is answered from.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) network: Network,
}

/// Listens, and says so if others than this machine can come.
///
/// # Errors
/// If the system refuses, usually because the port is taken.
pub(crate) async fn listen(at: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(at).await?;
    let at = listener.local_addr()?;
    if !at.ip().is_loopback() {
        tracing::warn!(%at, "metrics and health can be read from other machines, by anybody who reaches this address");
    }
    Ok((listener, at))
}

/// Serves for ever.
pub(crate) async fn serve(listener: TcpListener, source: Source) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut tasks = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                // Without a place the stream is dropped, and so closed.
                if let Ok(place) = Arc::clone(&places).try_acquire_owned() {
                    let source = source.clone();
                    tasks.spawn(async move {
                        let _place = place;
                        // What goes wrong on a connection is its client's business.
                        let _ = tokio::time::timeout(PATIENCE, one_connection(stream, source)).await;
                    });
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a connection for metrics could not be accepted");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn one_connection(stream: TcpStream, source: Source) -> Result<(), hyper::Error> {
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(&request, &source);
        async move { Ok::<_, Infallible>(response) }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

fn answer(request: &Request<Incoming>, source: &Source) -> Response<Full<Bytes>> {
    let known = matches!(request.uri().path(), "/metrics" | "/healthz");
    if known && !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => response(StatusCode::OK, MEDIA_TYPE, source.metrics.text()),
        "/healthz" => {
            let health = source.metrics.pulse.health(source.network.lag());
            let status = if health.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            match serde_json::to_string(&health) {
                Ok(text) => response(status, "application/json", text + "\n"),
                Err(error) => plain(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            }
        }
        _ => plain(StatusCode::NOT_FOUND, "there are /metrics and /healthz\n"),
    }
}

fn plain(status: StatusCode, text: impl Into<String>) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.into())
}

fn response(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
