//! Which headers and which of the query pass, in each direction.
//!
//! What is the client's own business with the gateway does not reach upstream: credentials, cookies, where it
//! calls from, the account it thinks it has. What is upstream's business with the gateway does not reach the
//! client: cookies, and promises about a host that is not ours. Everything else passes as it is.

use http::header::{
    ACCEPT_ENCODING, ALT_SVC, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, EXPECT, FORWARDED,
    HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SET_COOKIE,
    STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderValue};

use crate::http::url_pairs;

static API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// Fields of a connection, not of a message (RFC 9110 §7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] =
    [CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE];
const OLD_HOP_BY_HOP: [&str; 2] = ["keep-alive", "proxy-connection"];
/// Fields that say something to the gateway alone, or that upstream must hear from the gateway.
const CLIENTS_OWN: [HeaderName; 6] =
    [AUTHORIZATION, COOKIE, EXPECT, FORWARDED, HOST, CONTENT_LENGTH];
const CLIENTS_OWN_BY_NAME: [&str; 14] = [
    "x-api-key",
    "cookie2",
    "x-group-id",
    "idempotency-key",
    "x-real-ip",
    "true-client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "via",
    // These change what a request is, behind the back of whoever judged it by its first line.
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];
/// What upstream says of its own host, or to whom it takes for one client.
const UPSTREAMS_OWN: [HeaderName; 3] = [SET_COOKIE, ALT_SVC, STRICT_TRANSPORT_SECURITY];

/// How upstream is to know who asks.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a> {
    /// The channel's key.
    pub(crate) key: &'a HeaderValue,
    /// `Bearer` and the key.
    pub(crate) bearer: &'a HeaderValue,
    /// Whether the path is one where some clients send `x-api-key`.
    pub(crate) anthropic: bool,
}

/// The head that upstream gets for one with `client`'s fields. `rewritten`: whether its answer is to be read on the way
/// back, which a compressed one cannot be.
pub(crate) fn request(
    client: &HeaderMap,
    host: &HeaderValue,
    credentials: Credentials<'_>,
    rewritten: bool,
) -> HeaderMap {
    let named = named_by_connection(client);
    let mut headers = HeaderMap::with_capacity(client.len() + 3);
    headers.insert(HOST, host.clone());
    for (name, value) in client {
        if !is_hop_by_hop(name, &named) && !is_clients_own(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(AUTHORIZATION, credentials.bearer.clone());
    if credentials.anthropic {
        headers.insert(API_KEY.clone(), credentials.key.clone());
    }
    if rewritten {
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    headers
}

/// The head that the client gets for one with upstream's fields. Lengths of bodies that are rewritten are the caller's
/// to take out.
pub(crate) fn answer(upstream: &HeaderMap) -> HeaderMap {
    let named = named_by_connection(upstream);
    let mut headers = HeaderMap::with_capacity(upstream.len() + 1);
    for (name, value) in upstream {
        if !is_hop_by_hop(name, &named) && !UPSTREAMS_OWN.contains(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers
}

/// The query that upstream gets: `query` without `GroupId` and `channel_id`, each other pair as it is written, and with
/// the channel's own group.
pub(crate) fn query(query: Option<&str>, group_id: Option<&str>) -> Option<String> {
    let kept = query.unwrap_or("").split('&').filter(|pair| {
        let name = url_pairs(pair).next().map(|(name, _)| name);
        name.is_some_and(|name| !name.eq_ignore_ascii_case("GroupId") && name != "channel_id")
    });
    let group = group_id.map(|group| {
        let all = percent_encoding::NON_ALPHANUMERIC;
        format!("GroupId={}", percent_encoding::utf8_percent_encode(group, all))
    });
    let pairs: Vec<&str> = kept.chain(group.as_deref()).collect();
    (!pairs.is_empty()).then(|| pairs.join("&"))
}

fn named_by_connection(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names =
        values.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase());
    names.filter(|name| !name.is_empty()).collect()
}

fn is_hop_by_hop(name: &HeaderName, named: &[String]) -> bool {
    HOP_BY_HOP.contains(name)
        || OLD_HOP_BY_HOP.contains(&name.as_str())
        // What says how long the body is or what it is made of cannot be taken out by a word of the client's.
        || (!name.as_str().starts_with("content-") && named.iter().any(|other| other == name.as_str()))
}

fn is_clients_own(name: &HeaderName) -> bool {
    CLIENTS_OWN.contains(name)
        || CLIENTS_OWN_BY_NAME.contains(&name.as_str())
        || name.as_str().starts_with("x-forwarded")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&str, &str)| {
            (name.parse::<HeaderName>().unwrap(), HeaderValue::try_from(*value).unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn sent(pairs: &[(&str, &str)], anthropic: bool, rewritten: bool) -> HeaderMap {
        let key = HeaderValue::from_static("up");
        let bearer = HeaderValue::from_static("Bearer up");
        let credentials = Credentials { key: &key, bearer: &bearer, anthropic };
        request(&map(pairs), &HeaderValue::from_static("h:1"), credentials, rewritten)
    }

    #[test]
    fn nothing_of_the_clients_own_reaches_upstream() {
        let headers = sent(
            &[
                ("host", "gateway"),
                ("authorization", "Bearer fg"),
                ("x-api-key", "fg"),
                ("cookie", "a=b"),
                ("x-group-id", "7"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-anything", "x"),
                ("forwarded", "for=1.2.3.4"),
                ("idempotency-key", "k"),
                ("expect", "100-continue"),
                ("connection", "close, X-Secret"),
                ("x-secret", "s"),
                ("keep-alive", "1"),
                ("te", "trailers"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "h2c"),
                ("proxy-authorization", "p"),
                ("x-http-method-override", "DELETE"),
                ("content-length", "3"),
            ],
            false,
            false,
        );
        assert_eq!(headers, map(&[("host", "h:1"), ("authorization", "Bearer up")]));
    }

    #[test]
    fn everything_else_does() {
        let pairs = [
            ("mm-api-source", "Minimax-MCP"),
            ("user-agent", "mmx-cli/1"),
            ("accept-encoding", "gzip, br"),
            ("content-type", "application/json"),
            ("anthropic-version", "2023-06-01"),
            ("accept", "text/event-stream"),
        ];
        let headers = sent(&pairs, true, false);
        for (name, value) in pairs {
            assert_eq!(headers[name], value);
        }
        assert_eq!(headers["x-api-key"], "up");
        assert_eq!(sent(&pairs, false, true)["accept-encoding"], "identity");
    }

    #[test]
    fn connection_cannot_take_out_what_describes_the_body() {
        let headers = sent(
            &[("connection", "content-type"), ("content-type", "application/json")],
            false,
            false,
        );
        assert_eq!(headers["content-type"], "application/json");
    }

    #[test]
    fn an_answer_loses_what_is_the_connections_or_the_hosts() {
        let headers = answer(&map(&[
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "acw_tc=1"),
            ("strict-transport-security", "max-age=1"),
            ("alt-svc", "h3"),
            ("trace-id", "t"),
            ("alb_receive_time", "1.5"),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
        ]));
        let left = [
            ("trace-id", "t"),
            ("alb_receive_time", "1.5"),
            ("content-length", "5"),
            ("content-encoding", "gzip"),
        ];
        assert_eq!(headers, map(&left));
    }

    #[test]
    fn a_query_loses_the_group_and_nothing_else() {
        let of = |text: &str| query(Some(text), None);
        assert_eq!(of("a=1&GroupId=5&b=%20+x&c"), Some("a=1&b=%20+x&c".to_owned()));
        assert_eq!(of("Group%49d=5&groupid=6&channel_id=1"), None);
        assert_eq!(of(""), None);
        assert_eq!(query(None, Some("a b")), Some("GroupId=a%20b".to_owned()));
        assert_eq!(query(Some("x=1&GroupId=2"), Some("9")), Some("x=1&GroupId=9".to_owned()));
    }
}
