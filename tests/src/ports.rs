//! Ports that nobody uses. Prefer port 0 wherever the program tells which one it got.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::ops::Range;

/// None that the system gives to who asks for any: such a port may be another program's before it is bound, and again
/// while who listens on it is away for a moment.
const RANGE: Range<u16> = 10_000..32_000;
const TRIES: usize = 1000;

/// A loopback port that was free a moment ago.
///
/// # Panics
/// When there is none.
pub fn free() -> u16 {
    let address = listen().and_then(|listener| listener.local_addr());
    address.expect("a free loopback port").port()
}

/// Listens on a loopback port on which one may listen again later.
///
/// # Errors
/// What the system said of the last one that was tried.
pub fn listen() -> io::Result<TcpListener> {
    any(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)))
}

/// As [`free`] for UDP, on every address: a client that calls again and again while its server is away must not get the
/// server's own port.
///
/// # Panics
/// When there is none.
pub fn free_udp() -> u16 {
    let socket = any(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)));
    let address = socket.and_then(|socket| socket.local_addr());
    address.expect("a free UDP port").port()
}

fn any<Socket>(bind: impl Fn(u16) -> io::Result<Socket>) -> io::Result<Socket> {
    let mut bound = Err(io::ErrorKind::AddrInUse.into());
    for _ in 0..TRIES {
        bound = bind(fastrand::u16(RANGE));
        if bound.is_ok() {
            break;
        }
    }
    bound
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on() {
        let port = free();
        assert!(RANGE.contains(&port));
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, free_udp())).unwrap();
    }
}
