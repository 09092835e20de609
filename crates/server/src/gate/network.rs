//! Where a request comes from, and whether its key may be used from there.

use std::net::IpAddr;

use filegate_types::{ApiError, Principal};
use http::{HeaderMap, HeaderName};
use ipnet::IpNet;

static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address: the peer's, unless the peer is one of our proxies.
///
/// Then `X-Forwarded-For` is read from the right, where our own proxies have written, past their
/// addresses to the first that is not one of them: whatever stands further to the left was sent by
/// somebody we do not know. At an entry that is not an address the walk ends with the last proxy's:
/// a key that is bound to clients' networks is then refused.
pub(crate) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[IpNet]) -> IpAddr {
    let ours = |address| trusted.iter().any(|network| covers(network, address));
    let mut client = peer.to_canonical();
    // Several headers are one list (RFC 9110 §5.3).
    for value in headers.get_all(&FORWARDED_FOR).iter().rev() {
        let Ok(value) = value.to_str() else { return client };
        for entry in value.rsplit(',') {
            if !ours(client) {
                return client;
            }
            let Some(address) = address(entry.trim()) else { return client };
            client = address;
        }
    }
    client
}

/// An address as proxies write it: bare, with a port, in brackets.
fn address(entry: &str) -> Option<IpAddr> {
    let bare = || entry.parse::<IpAddr>().ok();
    let with_port = || entry.parse::<std::net::SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || entry.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok();
    bare().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

/// Whether `address` is in `network`. IPv4 is one thing, whether or not it is written as IPv6.
fn covers(network: &IpNet, address: IpAddr) -> bool {
    match (network, address.to_canonical()) {
        (IpNet::V6(mapped), IpAddr::V4(address)) if mapped.prefix_len() >= 96 => {
            mapped.contains(&address.to_ipv6_mapped())
        }
        (_, address) => network.contains(&address),
    }
}

/// 1004 if the key is bound to networks and `client` is in none of them.
pub(crate) fn check(principal: &Principal, client: IpAddr) -> Result<(), ApiError> {
    let networks = &principal.networks;
    if networks.is_empty() || networks.iter().any(|network| covers(network, client)) {
        return Ok(());
    }
    Err(ApiError::out_of_scope(format_args!("this key may not be used from {client}")))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client(peer: &str, forwarded: &[&str], trusted: &[&str]) -> String {
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append(&FORWARDED_FOR, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        let trusted: Vec<IpNet> = trusted.iter().map(|net| net.parse().unwrap()).collect();
        client_address(peer.parse().unwrap(), &headers, &trusted).to_string()
    }

    #[test]
    fn a_stranger_says_nothing_about_itself() {
        assert_eq!(client("9.9.9.9", &["1.1.1.1"], &[]), "9.9.9.9");
        assert_eq!(client("9.9.9.9", &["1.1.1.1"], &["10.0.0.0/8"]), "9.9.9.9");
        assert_eq!(client("::ffff:9.9.9.9", &[], &[]), "9.9.9.9");
    }

    #[test]
    fn proxies_are_passed_from_the_right() {
        let ours = ["10.0.0.0/8", "fd00::/8"];
        for (forwarded, expected) in [
            (&["1.1.1.1"] as &[&str], "1.1.1.1"),
            (&["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
            (&["10.1.1.1, 1.1.1.1"], "1.1.1.1"),
            (&["1.1.1.1, 10.0.0.2", "fd00::7"], "1.1.1.1"),
            (&["6.6.6.6", "1.1.1.1, 10.0.0.2 ,10.0.0.3"], "1.1.1.1"),
            (&["1.1.1.1:4711"], "1.1.1.1"),
            (&["[2001:db8::1]:4711"], "2001:db8::1"),
            (&["[2001:db8::1]"], "2001:db8::1"),
            (&["::ffff:1.1.1.1"], "1.1.1.1"),
            (&["10.0.0.9"], "10.0.0.9"),
            (&[], "10.0.0.1"),
            // Not an address: the last that was one of ours.
            (&["1.1.1.1, unknown"], "10.0.0.1"),
            (&["1.1.1.1, , 10.0.0.4"], "10.0.0.4"),
            (&["1.1.1.1", "\u{e9}, 10.0.0.4"], "10.0.0.1"),
            (&[""], "10.0.0.1"),
        ] {
            assert_eq!(client("10.0.0.1", forwarded, &ours), expected, "{forwarded:?}");
        }
        assert_eq!(client("::ffff:10.0.0.1", &["1.1.1.1"], &ours), "1.1.1.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1"], &["::ffff:10.0.0.0/104"]), "1.1.1.1");
    }

    #[test]
    fn an_ipv6_network_does_not_cover_ipv4_by_accident() {
        let covers =
            |net: &str, address: &str| covers(&net.parse().unwrap(), address.parse().unwrap());
        assert!(covers("192.0.2.0/24", "::ffff:192.0.2.7"));
        assert!(covers("::ffff:192.0.2.0/120", "192.0.2.7"));
        assert!(!covers("192.0.2.0/24", "192.0.3.7"));
        assert!(!covers("::/0", "192.0.2.7"));
        assert!(!covers("0.0.0.0/0", "2001:db8::1"));
        assert!(covers("2001:db8::/32", "2001:db8::1"));
    }
}
