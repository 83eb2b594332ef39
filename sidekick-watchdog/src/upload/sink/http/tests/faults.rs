//! A backend that fails in every way it can, also below HTTP; client certificates; the rate.

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::upload::testing::check_books;

/// What happens to a connection before the backend sees it.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// Closed at once.
    Closed,
    /// TLS with a certificate that is trusted, and is another host's.
    WrongName,
    /// Our side of it is closed, and the request is read and forgotten.
    HalfClosed,
    /// An answer that comes byte by byte, and never whole within the time-out.
    Slow,
    /// An answer that is none.
    Garbage,
}

/// Stands before a backend with TLS; each fault takes one connection, then connections go through.
async fn front(backend: &str, faults: Vec<Fault>, task: &mut JoinSet<()>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/records", listener.local_addr().unwrap());
    let [right, wrong] = [tls_config(false), other_host()].map(Arc::new);
    let behind = Url::parse(backend).unwrap().socket_addrs(|| None).unwrap()[0];
    task.spawn(async move {
        let mut faults = faults.into_iter();
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let fault = faults.next();
            let shown = match fault {
                Some(Fault::WrongName) => &wrong,
                _ => &right,
            };
            let acceptor = TlsAcceptor::from(shown.clone());
            connections.spawn(async move {
                let mut chunk = [0; 4096];
                if let Some(Fault::Closed) = fault {
                    return;
                }
                let Ok(mut socket) = acceptor.accept(socket).await else {
                    return;
                };
                match fault {
                    None => {
                        let mut behind = TcpStream::connect(behind).await.unwrap();
                        let _ = copy_bidirectional(&mut socket, &mut behind).await;
                    }
                    Some(Fault::Closed | Fault::WrongName) => {}
                    Some(Fault::HalfClosed) => {
                        let _ = socket.shutdown().await;
                        while socket.read(&mut chunk).await.is_ok_and(|bytes| bytes > 0) {}
                    }
                    Some(Fault::Slow) => {
                        for byte in b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"
                            .iter()
                            .cycle()
                        {
                            if socket.write_all(&[*byte]).await.is_err() {
                                return;
                            }
                            tokio::time::sleep(Duration::from_millis(40)).await;
                        }
                    }
                    Some(Fault::Garbage) => {
                        let _ = socket.write_all(b"220 smtp.example ESMTP\r\n").await;
                        let _ = socket.read(&mut chunk).await;
                    }
                }
            });
        }
    });
    url
}

/// What a server of another name shows, of another authority, since the first one's key is gone.
fn other_host() -> rustls::ServerConfig {
    let certificate = include_bytes!("../tls/other.pem");
    tls_config_of(certificate, include_bytes!("../tls/other.key"), false)
}

/// Both authorities in one file.
fn all_authorities(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let path = dir.path().join("ca.pem");
    let authorities = [
        &include_bytes!("../tls/ca.pem")[..],
        include_bytes!("../tls/other-ca.pem"),
    ];
    std::fs::write(&path, authorities.concat()).unwrap();
    path
}

/// Time-outs before and after storing, 429 and 503, 413, 400 for one record, cut, half-closed, slow and nonsensical
/// connections, another host's certificate: every record is at the backend or a dead letter, exactly once, and the books say so.
#[tokio::test]
async fn every_record_ends_in_exactly_one_place() {
    let Server {
        backend,
        url,
        mut _task,
    } = server().await;
    let faults = vec![
        Fault::Closed,
        Fault::WrongName,
        Fault::HalfClosed,
        Fault::WrongName,
        Fault::Slow,
        Fault::Garbage,
    ];
    let url = front(&url, faults, &mut _task).await;
    backend.poison.lock().unwrap().extend([8, 21]);
    backend.script([
        Answer::Mute,
        Answer::Silence,
        Answer::Status(500),
        Answer::With(429, "retry-after", "1".into()),
        Answer::Cut,
        Answer::TooMany,
        Answer::With(503, "retry-after", "0".into()),
        Answer::Status(401),
        Answer::Status(403),
        Answer::Status(404),
        Answer::Mute,
        Answer::Status(408),
        Answer::TooMany,
        Answer::Status(425),
        Answer::Status(307),
    ]);
    let dir = tempfile::TempDir::new().unwrap();
    let settings = HttpSettings {
        timeout: Duration::from_secs(1),
        tls_ca_file: Some(all_authorities(&dir)),
        ..settings(&url)
    };
    let (outbox, mut running) = begin(settings, 1).await;
    for _ in 0..6 {
        outbox.append(&[&["a", "b", "c"], &["b", "a"]]);
    }
    until(&mut running, |status| status.is_through(outbox.index())).await;
    let mut ends: Vec<u64> = backend.records().iter().map(|(_, seq)| *seq).collect();
    assert!(ends.is_sorted(), "the order is lost: {ends:?}");
    let letters: Vec<(u64, String)> = {
        let state = outbox.state.lock().unwrap();
        let letters = state.letters.iter().map(|kept| &kept.letter);
        letters
            .map(|l| (l.head.first_seq, l.code.clone()))
            .collect()
    };
    let bad = |seq| (seq, "HTTP 400".to_owned());
    assert_eq!(letters, [bad(8), bad(21)]);
    ends.extend(letters.iter().map(|(seq, _)| *seq));
    ends.sort_unstable();
    assert_eq!(ends, (1..=30).collect::<Vec<u64>>());
    check_books(&outbox).unwrap();
    let requests = backend.requests.lock().unwrap();
    let mut bodies: BTreeMap<&str, &Bytes> = BTreeMap::new();
    for request in &*requests {
        let known = bodies.entry(&request.key).or_insert(&request.body);
        assert_eq!(*known, &request.body, "two bodies under {}", request.key);
    }
}

/// A record alone that is too large is refused for good, with the code that was answered.
#[tokio::test]
async fn a_413_for_one_record_is_a_refusal() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let sink = HttpSink::new(settings(&url)).unwrap();
    let mut batch = batch(b"none", b"{\"stream\":\"a\",\"seq\":1}\n");
    batch.rows.truncate(1);
    backend.script([Answer::Status(413)]);
    let outcome = sink.send(&batch).await;
    let Outcome::Refused { code, .. } = &outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(code, "HTTP 413");
}

/// Bodies arrive whole and take the time that the rate says; a time-out that is shorter does not end them.
#[tokio::test]
async fn a_paced_body_arrives_whole_and_in_its_time() {
    let Server {
        backend,
        url,
        _task,
    } = server().await;
    let line = b"{\"stream\":\"a\",\"seq\":1}\n";
    let body: Vec<u8> = line
        .iter()
        .copied()
        .cycle()
        .take(line.len() * 4000)
        .collect();
    let pacer = Arc::new(Pacer::new(body.len() as u64 / 5));
    let settings = HttpSettings {
        timeout: Duration::from_secs(4),
        pacer: Some(pacer),
        ..settings(&url)
    };
    let sink = HttpSink::new(settings).unwrap();
    let mut batch = batch(b"none", b"");
    batch.body = body.clone().into();
    let began = Instant::now();
    assert_eq!(sink.send(&batch).await, Outcome::Taken);
    // Five seconds, less the last chunk, which waits for nobody after it.
    let took = began.elapsed();
    assert!(took > Duration::from_secs(4), "{took:?}");
    assert_eq!(backend.taken.lock().unwrap()[0].1, body);
    assert_eq!(backend.requests.lock().unwrap().len(), 1);
}

/// A backend that wants to see a certificate gets the configured one; without it there is no connection, and that is
/// tried again, not refused.
#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_configured() {
    let url = tls_server("127.0.0.1:0", true);
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let ca_file = file("ca.pem", include_bytes!("../tls/ca.pem"));
    let cert = file("client.pem", include_bytes!("../tls/client.pem"));
    let key = file("client.key", include_bytes!("../tls/client.key"));
    let batch = batch(b"none", b"{\"n\":1}\n");
    let settings = |tls_client| HttpSettings {
        timeout: Duration::from_secs(10),
        tls_ca_file: Some(ca_file.clone()),
        tls_client,
        ..super::settings(&url)
    };
    let outcome = HttpSink::new(settings(None)).unwrap().send(&batch).await;
    assert!(matches!(outcome, Outcome::Retry { .. }), "{outcome:?}");
    let known = Some((cert.clone(), key.clone()));
    let outcome = HttpSink::new(settings(known)).unwrap().send(&batch).await;
    assert_eq!(outcome, Outcome::Taken);
    // What is wrong with the files is said without what is in them.
    let error = HttpSink::new(settings(Some((cert, ca_file.clone())))).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("tls_client_key_file"), "{said}");
    assert!(!said.contains("BEGIN"), "{said}");
}

/// The certificate that is shown in [`Fault::WrongName`] is wrong for its name alone.
#[tokio::test]
async fn the_other_hosts_certificate_is_refused_for_its_name() {
    let mut task = JoinSet::new();
    let url = front("http://127.0.0.1:9/", vec![Fault::WrongName], &mut task).await;
    let dir = tempfile::TempDir::new().unwrap();
    let settings = HttpSettings {
        timeout: Duration::from_secs(10),
        tls_ca_file: Some(all_authorities(&dir)),
        ..settings(&url)
    };
    let batch = batch(b"none", b"{\"n\":1}\n");
    let outcome = HttpSink::new(settings).unwrap().send(&batch).await;
    let Outcome::Retry { reason } = &outcome else {
        panic!("{outcome:?}")
    };
    assert!(reason.contains("not valid for name"), "{reason}");
}

/// A certificate for another name is no reason to give a record up: it is tried again.
#[tokio::test]
async fn a_wrong_tls_name_is_tried_again() {
    let url = tls_server("127.0.0.2:0", false);
    let dir = tempfile::TempDir::new().unwrap();
    let ca_file = dir.path().join("ca.pem");
    std::fs::write(&ca_file, include_bytes!("../tls/ca.pem")).unwrap();
    let settings = HttpSettings {
        timeout: Duration::from_secs(10),
        tls_ca_file: Some(ca_file),
        ..settings(&url)
    };
    let batch = batch(b"none", b"{\"n\":1}\n");
    let outcome = HttpSink::new(settings).unwrap().send(&batch).await;
    let Outcome::Retry { reason } = &outcome else {
        panic!("{outcome:?}")
    };
    assert!(reason.to_lowercase().contains("certificate"), "{reason}");
}
