//! Through a proxy, as `HTTPS_PROXY` names it. The variables are the process's own: a process of its own sends the batch.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use super::*;
use crate::platform::spawn_other;

/// What the process that sends is told.
const URL: &str = "SIDEKICK_TEST_URL";
const CA_FILE: &str = "SIDEKICK_TEST_CA_FILE";
const SENDER: &str = "upload::sink::http::tests::proxy::sends_one_batch";

/// A proxy that makes tunnels and remembers their heads.
fn proxy() -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads = Arc::<Mutex<Vec<String>>>::default();
    let seen = heads.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let seen = seen.clone();
            std::thread::spawn(move || tunnel(client, &seen));
        }
    });
    (address, heads)
}

fn tunnel(client: TcpStream, seen: &Mutex<Vec<String>>) {
    let mut reader = BufReader::new(client.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).unwrap_or(0) == 0 {
            return;
        }
    }
    let target = head.split(' ').nth(1).map(str::to_owned);
    seen.lock().unwrap().push(head);
    let backend = TcpStream::connect(target.unwrap()).unwrap();
    (&client)
        .write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        .unwrap();
    let (mut from, mut to) = (backend.try_clone().unwrap(), client);
    std::thread::spawn(move || std::io::copy(&mut from, &mut to));
    let mut backend = backend;
    let _ = std::io::copy(&mut reader.by_ref(), &mut backend);
    let _ = backend.shutdown(std::net::Shutdown::Both);
}

#[tokio::test]
#[ignore = "started by another test"]
async fn sends_one_batch() {
    let variable = |name| std::env::var(name).unwrap();
    let sink = HttpSink::new(HttpSettings {
        timeout: Duration::from_secs(10),
        tls_ca_file: Some(variable(CA_FILE).into()),
        ..settings(&variable(URL))
    });
    let outcome = sink.unwrap().send(&batch(b"none", b"{\"n\":1}\n")).await;
    assert_eq!(outcome, Outcome::Taken);
}

/// Has a process with these variables send a batch to `url`.
fn send(url: &str, folder: &Path, variables: &[(&str, &str)]) {
    let ca_file = folder.join("ca.pem");
    std::fs::write(&ca_file, include_bytes!("../tls/ca.pem")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    for name in ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"] {
        command
            .env_remove(name)
            .env_remove(name.to_ascii_lowercase());
    }
    command
        .args(["--exact", SENDER, "--ignored"])
        .env(URL, url)
        .env(CA_FILE, ca_file)
        .envs(variables.iter().copied());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = spawn_other(&mut command).unwrap();
    let output = child.wait_with_output().unwrap();
    let words = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && words.contains("1 passed"),
        "{words}"
    );
}

/// The proxy gets where to, and who asks; what goes through its tunnel is between us and the backend.
#[test]
fn batches_go_through_the_proxy_of_the_environment() {
    let folder = tempfile::tempdir().unwrap();
    let url = tls_server("127.0.0.1:0", false);
    let target = url
        .strip_prefix("https://")
        .and_then(|rest| rest.split('/').next());
    let target = target.unwrap();
    let (address, heads) = proxy();
    let named = format!("http://ann:hunter2@{address}");
    send(&url, folder.path(), &[("HTTPS_PROXY", &named)]);
    {
        let heads = heads.lock().unwrap();
        let [head] = &heads[..] else {
            panic!("{heads:?}")
        };
        let lower = head.to_ascii_lowercase();
        assert!(head.starts_with(&format!("CONNECT {target} ")), "{head}");
        // ann:hunter2
        assert!(
            lower.contains("proxy-authorization: basic yw5uomh1bnrlcji="),
            "{head}"
        );
        assert!(!lower.contains("idempotency-key"), "{head}");
    }
    // Whoever is named there is asked without the proxy; it would be seen if it were used.
    for direct in [
        &[][..],
        &[("HTTPS_PROXY", named.as_str()), ("NO_PROXY", "127.0.0.1")],
    ] {
        send(&url, folder.path(), direct);
        assert_eq!(heads.lock().unwrap().len(), 1);
    }
}
