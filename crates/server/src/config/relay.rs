//! Settings of the relay: what goes to upstream accounts, and how.

use filegate_types::Replicate;
use filegate_types::units::{Bytes, Span};
use serde::{Deserialize, Serialize};

use super::Secret;

/// What goes to upstream accounts, and how. It is on as soon as there is a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// Where the secret is that seals the keys of channels: 32 random bytes in base64 a line; the first
    /// seals, all open. Empty: `secret_key`, else `secret.key` in the data directory, made when it is needed.
    pub secret_key_file: String,
    /// The same, itself; for environments without files.
    pub secret_key: Secret,
    /// The hosts of upstream's regions. `channel test` asks each whether it knows the key.
    pub regions: Vec<String>,
    /// When files are copied to a channel; accounts may say otherwise.
    pub replicate: Replicate,
    /// Whether bytes of what is born upstream are kept here; accounts may say otherwise.
    pub keep_outputs: bool,
    /// Calls in progress at a time, sockets included.
    pub calls_max: usize,
    /// The largest body of a call; files are uploaded elsewhere. Bodies that are kept on disk take at most this times
    /// `calls_max`; on a full disk a call is answered 1013.
    pub body_max: Bytes,
    /// Up to this size a body is kept in memory, beyond it on disk, where it has to be read before it is sent.
    pub body_memory: Bytes,
    /// Time to connect to a channel.
    pub connect_timeout: Span,
    /// Time to the first byte of an answer.
    pub answer_timeout: Span,
    /// Longest silence within an answer; on a socket, in both directions.
    pub answer_idle: Span,
    /// Connections to a channel that are kept for the next call.
    pub idle_connections: usize,
    /// Calls that may be sent again to other channels, in per cent of all calls of the last ten seconds; ten in
    /// that time always may.
    pub retry_percent: u32,
    /// Channels tried for a call.
    pub attempts_max: usize,
    /// Failures in a row after which a channel is given a pause ...
    pub breaker_failures: u32,
    /// ... of this length at first, doubled each time the call after it fails as well.
    pub breaker_pause: Span,
    /// How often a channel that is not well is asked whether it is again. 0s: only by calls.
    pub probe_interval: Span,
    /// The pause after a limit of the channel that says none itself.
    pub cool_down: Span,
    /// The pause of a channel without money or with a key that is refused.
    pub unusable_pause: Span,
    /// Whether clients may be called back at loopback, private and link-local addresses.
    pub callback_private: bool,
    /// Units that are held for a call whose reply counts units, at least; what its body could count if that is
    /// more.
    pub units_held: u64,
}

impl Default for Relay {
    fn default() -> Self {
        Self {
            secret_key_file: String::new(),
            secret_key: Secret::default(),
            regions: [
                "https://api.minimax.io",
                "https://api.minimaxi.com",
                "https://api.minimax.cn",
            ]
            .map(str::to_owned)
            .into(),
            replicate: Replicate::OnUse,
            keep_outputs: false,
            calls_max: 2048,
            body_max: Bytes::mib(512),
            body_memory: Bytes::kib(256),
            connect_timeout: Span::seconds(3),
            answer_timeout: Span::seconds(300),
            answer_idle: Span::seconds(120),
            idle_connections: 64,
            retry_percent: 20,
            attempts_max: 3,
            breaker_failures: 5,
            breaker_pause: Span::seconds(5),
            probe_interval: Span::seconds(15),
            cool_down: Span::seconds(10),
            unusable_pause: Span::seconds(300),
            callback_private: false,
            units_held: 10_000,
        }
    }
}
