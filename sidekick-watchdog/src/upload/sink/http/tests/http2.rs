//! HTTP/2, with a server that speaks it when TLS has agreed on it, and nothing else.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::body::Body as AxumBody;
use axum::http::{Request as HttpRequest, Response as HttpResponse, Version};
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::sync::Barrier;
use tokio_rustls::TlsAcceptor;

use super::*;

/// The key of a batch that is answered when all [`LANES`] of them have come.
const TOGETHER: &str = "together-";
const LANES: u32 = 4;

/// What the server has seen.
#[derive(Debug)]
struct Seen {
    connections: AtomicU32,
    requests: Mutex<Vec<(Version, String, Vec<u8>)>>,
    together: Barrier,
}

impl Seen {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            connections: AtomicU32::new(0),
            requests: Mutex::default(),
            together: Barrier::new(LANES as usize),
        })
    }
}

/// A server that offers `protocols` and speaks HTTP/2. Gives its URL.
async fn serve(seen: Arc<Seen>, protocols: &[&str]) -> String {
    let mut config = tls_config(false);
    config.alpn_protocols = protocols
        .iter()
        .map(|name| name.as_bytes().to_vec())
        .collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/records", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            seen.connections.fetch_add(1, Ordering::Relaxed);
            let (acceptor, seen) = (acceptor.clone(), seen.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(socket).await else {
                    return;
                };
                let service = service_fn(move |request| {
                    let seen = seen.clone();
                    async move { Ok::<_, Infallible>(take(&seen, request).await) }
                });
                let _ = Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    url
}

async fn take(seen: &Seen, request: HttpRequest<hyper::body::Incoming>) -> HttpResponse<AxumBody> {
    let (head, body) = request.into_parts();
    let key = head.headers["idempotency-key"].to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(AxumBody::new(body), 1 << 20)
        .await
        .unwrap();
    let is_one_of_many = key.starts_with(TOGETHER);
    let request = (head.version, key, body.to_vec());
    seen.requests.lock().unwrap().push(request);
    if is_one_of_many {
        seen.together.wait().await;
    }
    HttpResponse::new(AxumBody::empty())
}

fn sink(url: &str, folder: &Path) -> HttpSink {
    let ca_file = folder.join("ca.pem");
    std::fs::write(&ca_file, include_bytes!("../tls/ca.pem")).unwrap();
    let settings = HttpSettings {
        timeout: Duration::from_secs(10),
        tls_ca_file: Some(ca_file),
        concurrency_max: LANES,
        ..settings(url)
    };
    HttpSink::new(settings).unwrap()
}

/// A backend that has both gets HTTP/2, and the batches of several lanes at once over one connection.
#[tokio::test]
async fn lanes_share_a_connection_over_http_2() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Seen::new();
    let url = serve(seen.clone(), &["h2", "http/1.1"]).await;
    let sink = Arc::new(sink(&url, folder.path()));
    // The first request finds out what the backend speaks.
    let first = batch(b"none", b"{\"n\":1}\n");
    assert_eq!(sink.send(&first).await, Outcome::Taken);
    let expected = (Version::HTTP_2, first.key.clone(), b"{\"n\":1}\n".to_vec());
    assert_eq!(*seen.requests.lock().unwrap(), [expected]);
    let mut sends = JoinSet::new();
    for lane in 0..LANES {
        let sink = sink.clone();
        sends.spawn(async move {
            let mut batch = batch(b"zstd", b"anything");
            batch.key = format!("{TOGETHER}{lane}");
            sink.send(&batch).await
        });
    }
    for outcome in sends.join_all().await {
        assert_eq!(outcome, Outcome::Taken);
    }
    let requests = seen.requests.lock().unwrap();
    let mut versions = requests.iter().map(|(version, ..)| *version);
    assert!(versions.all(|version| version == Version::HTTP_2));
    assert_eq!(requests.len() as u32, 1 + LANES);
    assert_eq!(seen.connections.load(Ordering::Relaxed), 1);
}

/// Must fail: what agrees on another protocol is not spoken to in HTTP/2, which this server would need.
#[tokio::test]
async fn a_backend_that_does_not_offer_http_2_gets_none() {
    let folder = tempfile::tempdir().unwrap();
    let seen = Seen::new();
    let url = serve(seen.clone(), &["http/1.1"]).await;
    let sink = sink(&url, folder.path());
    let outcome = sink.send(&batch(b"none", b"{\"n\":1}\n")).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    assert_eq!(seen.requests.lock().unwrap().len(), 0);
}
