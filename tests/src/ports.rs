//! Ports that nobody uses. Prefer port 0 wherever the program tells which one it got.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

/// A loopback port that was free a moment ago. Another program may take it first, so a test that can must
/// let the program choose.
///
/// # Panics
/// When the system has none left.
pub fn free() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
    listener
        .local_addr()
        .expect("the address of a bound socket")
        .port()
}

/// As [`free`] for UDP, and none that the system gives to who asks for any: a client that calls again and again while
/// its server is away must not get the server's own port.
///
/// # Panics
/// When there is none.
pub fn free_udp() -> u16 {
    let mut tries = (0..1000).map(|_| fastrand::u16(10_000..32_000));
    tries
        .find(|port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok())
        .expect("a free UDP port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_can_be_listened_on() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, free())).unwrap();
        UdpSocket::bind((Ipv4Addr::LOCALHOST, free_udp())).unwrap();
    }
}
