//! Over real sockets: what each path answers, to whom, and which port it takes.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::*;

fn config(port: u16) -> ApiConfig {
    ApiConfig {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        token_file: None,
    }
}

struct Server {
    address: SocketAddr,
    status: watch::Sender<Status>,
    metrics: Metrics,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

async fn start(config: ApiConfig) -> Server {
    start_with(config, None).await
}

async fn start_with(config: ApiConfig, operator: Option<Arc<dyn Operator>>) -> Server {
    let api = Api::bind(&config).await.unwrap();
    let address = api.address();
    let (status, receiver) = watch::channel(Status::default());
    let (stop, stopped) = oneshot::channel::<()>();
    let metrics = Metrics::new();
    let task = tokio::spawn(api.serve(receiver, metrics.clone(), operator, async {
        let _ = stopped.await;
    }));
    Server {
        address,
        status,
        metrics,
        stop: Some(stop),
        task,
    }
}

impl Server {
    async fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn get(&self, path: &str) -> String {
        let port = self.address.port();
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
        ))
        .await
    }
}

#[tokio::test]
async fn each_path_answers() {
    let server = start(config(0)).await;
    server.metrics.records_committed.inc_by(3);
    server.status.send_modify(|status| {
        status.name = "lobby-1".into();
        status.totals.committed = 3;
    });
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200"));
    let answer = server.get("/metrics").await;
    assert!(answer.contains("openmetrics-text"), "{answer}");
    assert!(
        answer.contains("sidekick_records_committed_total 3\n"),
        "{answer}"
    );
    let answer = server.get("/api/v1/status").await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let status: Status = serde_json::from_str(body).unwrap();
    assert_eq!(status, *server.status.borrow());
    assert!(server.get("/nothing").await.starts_with("HTTP/1.1 404"));
    let answer = server
        .ask("POST /api/v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
}

/// Walks an engine from its start to readiness and checks `/readyz` at each step.
#[tokio::test]
async fn ready_means_connected_and_marked_ready_where_required() {
    let server = start(config(0)).await;
    let answer = server.get("/readyz").await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("starting"),
        "{answer}"
    );
    let set = |change: fn(&mut EngineStatus)| server.status.send_modify(|s| change(&mut s.engine));
    set(|engine| engine.state = EngineState::Running);
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    set(|engine| engine.heartbeat_required = true);
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 503"));
    set(|engine| engine.connected = true);
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    set(|engine| engine.ready_required = true);
    assert!(server.get("/readyz").await.contains("mark_ready"));
    set(|engine| engine.ready = true);
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 200"));
    set(|engine| engine.state = EngineState::Hung);
    assert!(server.get("/readyz").await.starts_with("HTTP/1.1 503"));
}

#[tokio::test]
async fn a_taken_port_leads_to_the_next_free_one_and_the_file_tells() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let api = Api::bind(&config(port)).await.unwrap();
    assert!(api.address().port() > port);
    let folder = tempfile::tempdir().unwrap();
    api.record_address(folder.path()).unwrap();
    api.record_address(folder.path()).unwrap();
    let file = folder.path().join(ADDRESS_FILE);
    assert_eq!(
        std::fs::read_to_string(&file).unwrap().trim(),
        api.address().to_string()
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let error = api.record_address(&folder.path().join("no")).unwrap_err();
    assert!(
        error.to_string().contains("cannot be written to"),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_of_another_machine_is_one_clear_error() {
    let listen = "192.0.2.1:7117".parse().unwrap();
    let error = Api::bind(&ApiConfig {
        listen,
        token_file: None,
    })
    .await
    .unwrap_err();
    assert!(error.to_string().contains("192.0.2.1:7117"), "{error}");
}

/// A web page that rebinds its own name to 127.0.0.1 sends that name as Host.
#[tokio::test]
async fn a_foreign_host_header_is_refused() {
    let server = start(config(0)).await;
    let ask = async |host: &str| {
        server
            .ask(&format!(
                "GET /api/v1/status HTTP/1.1\r\n{host}Connection: close\r\n\r\n"
            ))
            .await
    };
    for host in [
        "Host: evil.example\r\n",
        "Host: localhost.evil.example\r\n",
        "Host: 192.0.2.1\r\n",
        "Host: localhost:80:evil\r\n",
        "Host: localhost\r\nHost: evil.example\r\n",
        "Host:\r\n",
        "",
    ] {
        let answer = ask(host).await;
        assert!(answer.starts_with("HTTP/1.1 40"), "{host:?}: {answer}");
    }
    for host in [
        "Host: localhost\r\n",
        "Host: LOCALHOST:7117\r\n",
        "Host: 127.0.0.1:1\r\n",
        "Host: [::1]:7\r\n",
    ] {
        let answer = ask(host).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{host:?}: {answer}");
    }
}

#[tokio::test]
async fn with_a_token_all_but_the_probes_want_it() {
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret\n").unwrap();
    let token_file = Some(token.path().to_owned());
    let server = start(ApiConfig {
        token_file,
        ..config(0)
    })
    .await;
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200"));
    for path in ["/metrics", "/api/v1/status"] {
        let with = async |header: &str| {
            server
                .ask(&format!(
                    "GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\n\r\n"
                ))
                .await
        };
        for wrong in [
            "",
            "Authorization: Bearer s3cre\r\n",
            "Authorization: Bearer \r\n",
            "Authorization: Basic s3cret\r\n",
        ] {
            let answer = with(wrong).await;
            assert!(
                answer.starts_with("HTTP/1.1 401") && !answer.contains("s3cret"),
                "{answer}"
            );
        }
        let answer = with("Authorization: Bearer s3cret\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

/// A client holds a half-sent request open; the server ends all the same.
#[tokio::test]
async fn a_hanging_client_does_not_hold_up_the_shutdown() {
    let mut server = start(config(0)).await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: ")
        .await
        .unwrap();
    assert!(server.get("/healthz").await.starts_with("HTTP/1.1 200"));
    let _ = server.stop.take().unwrap().send(());
    let ended = tokio::time::timeout(Duration::from_secs(10), server.task).await;
    ended.expect("the server ends").unwrap().unwrap();
}

/// Takes every order and remembers it.
#[derive(Default)]
struct Taker(std::sync::Mutex<Vec<operator::Order>>);

impl Operator for Taker {
    fn order(&self, order: operator::Order) -> Result<Duration, operator::OrderError> {
        self.0.lock().unwrap().push(order);
        Ok(order.grace.unwrap_or(Duration::from_secs(10)))
    }

    fn log(&self, _: Option<u32>, _: usize) -> io::Result<Vec<crate::log_line::LogLine>> {
        Ok(Vec::new())
    }

    fn follow_log(
        &self,
        _: Option<u32>,
        _: usize,
        _: Option<crate::log_line::LogPosition>,
    ) -> Option<Following> {
        None
    }

    fn crashes(&self) -> crate::crash::keep::CrashFolder {
        crate::crash::keep::CrashFolder::new(Path::new("/nonexistent"))
    }
}

/// P9: over TCP no order is taken without a token, be none configured or none given; with it each is.
#[tokio::test]
async fn over_tcp_an_order_needs_a_token() {
    let taker = Arc::new(Taker::default());
    let post = |path: &str, header: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\n{header}Connection: close\r\nContent-Length: 0\r\n\r\n"
        )
    };
    let open = start_with(config(0), Some(taker.clone())).await;
    for verb in operator::Verb::ALL {
        let answer = open.ask(&post(&format!("/api/v1/engine/{verb}"), "")).await;
        assert!(
            answer.starts_with("HTTP/1.1 403") && answer.contains("token_file"),
            "{answer}"
        );
    }
    let token = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(token.path(), "s3cret").unwrap();
    let token_file = Some(token.path().to_owned());
    let with_token = ApiConfig {
        token_file,
        ..config(0)
    };
    let guarded = start_with(with_token, Some(taker.clone())).await;
    let path = "/api/v1/engine/restart";
    for header in ["", "Authorization: Bearer wrong\r\n"] {
        let answer = guarded.ask(&post(path, header)).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    }
    assert!(taker.0.lock().unwrap().is_empty(), "none was taken");

    let right = "Authorization: Bearer s3cret\r\n";
    for (path, code) in [
        ("/api/v1/engine/restart?grace=30s", 202),
        ("/api/v1/engine/stop", 202),
        ("/api/v1/engine/restart?grace=fast", 400),
        ("/api/v1/engine/restart?force=1", 400),
        ("/api/v1/engine/explode", 404),
    ] {
        let answer = guarded.ask(&post(path, right)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code}")), "{answer}");
    }
    let taken = taker.0.lock().unwrap().clone();
    let wanted = [
        (operator::Verb::Restart, Some(Duration::from_secs(30))),
        (operator::Verb::Stop, None),
    ];
    let wanted = wanted.map(|(verb, grace)| operator::Order { verb, grace });
    assert_eq!(taken, wanted);
}
