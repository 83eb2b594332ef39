//! Ports that are taken.

use std::net::TcpListener;

use libtest_mimic::Trial;
use sidekick_tests::watchdog::Setup;

use super::{PATIENCE, assert_refuses, assert_says, stop_cleanly, the_engine, trial};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_port_in_use_is_passed_over_and_told",
            a_port_in_use_is_passed_over_and_told,
        ),
        trial(
            "an_address_of_another_machine",
            an_address_of_another_machine,
        ),
    ]
}

fn a_port_in_use_is_passed_over_and_told() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let mut setup = Setup::new();
    setup.set_variable("SIDEKICK_API_LISTEN", &address);
    setup.set_engine(["sleep", "600"]);
    let mut watchdog = setup.start();
    let (configured, used) = watchdog.wait_for_log("the taken port", PATIENCE, |line| {
        let text = |name| line.text(name).map(str::to_owned);
        (line.level == "WARN" && line.message.contains("port taken"))
            .then(|| Some((text("configured")?, text("address")?)))
            .flatten()
    });
    assert_eq!(configured, address);
    assert_ne!(used, address);
    let status = watchdog.wait_for_status("its address", PATIENCE, |status| {
        status["api"].as_str().map(str::to_owned)
    });
    assert_eq!(status, used);
    assert_eq!(watchdog.api_address(), Some(used));
    the_engine(&setup, &watchdog);
    stop_cleanly(&setup, watchdog);
}

fn an_address_of_another_machine() {
    let mut setup = Setup::new();
    let token = setup.scratch().join("token");
    std::fs::write(&token, "0123456789abcdef0123456789abcdef\n").expect("written");
    setup.set_variable("SIDEKICK_API__TOKEN_FILE", &token);
    // From a block that is reserved for documentation.
    setup.set_variable("SIDEKICK_API_LISTEN", "192.0.2.1:7777");
    setup.set_engine(["sleep", "600"]);
    let sentence = assert_refuses(&setup, 9);
    assert_says(&sentence, &["192.0.2.1:7777", "[api] listen"]);
}
