//! Who asks: the address that requests are counted by.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use actix_http::Request;
use actix_http::header::{HeaderName, HeaderValue};

/// The header in which CloudFront names the viewer, as address, colon, port; an IPv6 address has no brackets around it.
const VIEWER_ADDRESS: &str = "cloudfront-viewer-address";

/// Someone who asks, as far as an address tells: all of it for IPv4, and the first half for IPv6, since whoever has one
/// address there has 2^64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// An IPv4 address.
    V4(u32),
    /// The network of an IPv6 address, a /64.
    V6(u64),
}

impl Client {
    /// The client that an address belongs to.
    pub fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.into()),
            IpAddr::V6(address) => Self::V6(network(address)),
        }
    }

    /// Who the other end of the connection is.
    pub fn of_peer(request: &Request) -> Option<Self> {
        request.peer_addr().map(|peer| Self::of(peer.ip()))
    }

    /// Whom a header names: the last member where it is a list, for that is the one which the nearest proxy has added.
    pub fn named(name: &HeaderName, value: &HeaderValue) -> Option<Self> {
        let last = value.to_str().ok()?.rsplit(',').next()?.trim();
        let has_port = name.as_str() == VIEWER_ADDRESS;
        let address = if has_port { without_port(last).or_else(|| plain(last)) } else { plain(last) };
        address.map(Self::of)
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(address) => Ipv4Addr::from(*address).fmt(f),
            Self::V6(network) => write!(f, "{}/64", Ipv6Addr::from(u128::from(*network) << 64)),
        }
    }
}

fn network(address: Ipv6Addr) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = address.octets();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// `192.0.2.1`, `2001:db8::1`, and both with a port where that can be told apart.
fn plain(text: &str) -> Option<IpAddr> {
    let unbracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port).or_else(unbracketed)
}

/// `192.0.2.1:4711`, `2001:db8::1:4711`.
fn without_port(text: &str) -> Option<IpAddr> {
    let (address, port) = text.rsplit_once(':')?;
    let _port: u16 = port.parse().ok()?;
    plain(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_an_ipv4_address_or_an_ipv6_network() {
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"), "the same, seen through an IPv6 socket");
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(client("2001:db8:1:2:3::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn headers_name_clients_in_several_forms() {
        let named = |name: &'static str, value: &'static str| {
            Client::named(&HeaderName::from_static(name), &HeaderValue::from_static(value))
        };
        for (name, value, address) in [
            ("cloudfront-viewer-address", "198.51.100.10:46532", "198.51.100.10"),
            ("cloudfront-viewer-address", "2001:db8:0:0:2:3:4:5:443", "2001:db8::2:3:4:5"),
            // The port is not the last group of the address, although it could be.
            ("cloudfront-viewer-address", "2001:db8::2:3:4:5:443", "2001:db8::2:3:4:5"),
            ("cloudfront-viewer-address", "[2001:db8::1]:443", "2001:db8::1"),
            ("cloudfront-viewer-address", "198.51.100.10", "198.51.100.10"),
            ("x-real-ip", "2001:db8::1", "2001:db8::1"),
            ("x-forwarded-for", "10.0.0.1, 198.51.100.7", "198.51.100.7"),
            ("x-forwarded-for", "evil, 198.51.100.7:80", "198.51.100.7"),
            ("x-forwarded-for", "[2001:db8::1]", "2001:db8::1"),
        ] {
            assert_eq!(named(name, value), Some(client(address)), "{name}: {value}");
        }
        for value in ["", "unknown", "198.51.100.10, ", "a:1", "198.51.100.300:1"] {
            assert_eq!(named("cloudfront-viewer-address", value), None, "{value:?}");
        }
    }
}
