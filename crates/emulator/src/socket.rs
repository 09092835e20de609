//! The server's side of a WebSocket (RFC 6455), as much as a stand-in needs.
//!
//! By hand, because the crates for it would bring second versions of SHA-1 and all below it into the binary, for a
//! handshake and a header of two to fourteen bytes. No extensions; text messages only; all sizes bounded.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// What every handshake appends to the key (RFC 6455 1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a message, all its frames together.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

/// The answer to a handshake; `None` if the request is none.
pub(crate) fn handshake(headers: &HeaderMap) -> Option<axum::response::Response> {
    let has = |name, token: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let asked = has(UPGRADE, "websocket") && has(CONNECTION, "upgrade");
    if !asked || !has(SEC_WEBSOCKET_VERSION, "13") {
        return None;
    }
    let mut response = axum::response::Response::new(axum::body::Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answers = response.headers_mut();
    answers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    answers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    answers.insert(SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept(key)).ok()?);
    Some(response)
}

fn accept(key: &str) -> String {
    let digest = ring::digest::digest(
        &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}{GUID}").as_bytes(),
    );
    STANDARD.encode(digest.as_ref())
}

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Socket<S>(S);

struct Frame {
    is_final: bool,
    opcode: u8,
    payload: Vec<u8>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(stream)
    }

    /// The next text; `None` when the client closes. Pings are answered on the way.
    pub(crate) async fn next(&mut self) -> io::Result<Option<String>> {
        let mut message = Vec::new();
        let mut begun = false;
        loop {
            let frame = self.frame(MESSAGE_BYTES_MAX - message.len()).await?;
            match frame.opcode {
                CLOSE => {
                    self.send(CLOSE, frame.payload.get(..2).unwrap_or_default()).await?;
                    return Ok(None);
                }
                PING => self.send(PONG, &frame.payload).await?,
                PONG => {}
                TEXT | CONTINUATION if begun == (frame.opcode == CONTINUATION) => {
                    message.extend_from_slice(&frame.payload);
                    begun = true;
                    if frame.is_final {
                        return String::from_utf8(message).map(Some).map_err(io::Error::other);
                    }
                }
                _ => return Err(io::Error::other("a frame out of order or of an unknown kind")),
            }
        }
    }

    pub(crate) async fn text(&mut self, text: &str) -> io::Result<()> {
        self.send(TEXT, text.as_bytes()).await
    }

    /// Says goodbye: 1000, normal closure.
    pub(crate) async fn close(&mut self) -> io::Result<()> {
        self.send(CLOSE, &1000_u16.to_be_bytes()).await?;
        self.0.shutdown().await
    }

    async fn frame(&mut self, bytes_max: usize) -> io::Result<Frame> {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await?;
        let length = match head[1] & 0x7F {
            126 => u64::from(self.0.read_u16().await?),
            127 => self.0.read_u64().await?,
            length => u64::from(length),
        };
        if head[0] & 0x70 != 0 || head[1] & 0x80 == 0 {
            return Err(io::Error::other("a frame with extensions or without a mask"));
        }
        let opcode = head[0] & 0x0F;
        let bytes_max = if opcode >= CLOSE { 125 } else { bytes_max as u64 };
        if length > bytes_max {
            return Err(io::Error::other("a frame that is too long"));
        }
        let mut mask = [0; 4];
        self.0.read_exact(&mut mask).await?;
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).await?;
        for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
            *byte ^= mask;
        }
        Ok(Frame { is_final: head[0] & 0x80 != 0, opcode, payload })
    }

    async fn send(&mut self, opcode: u8, payload: &[u8]) -> io::Result<()> {
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            length @ ..126 => frame.push(length as u8),
            length @ 126..0x1_0000 => {
                frame.push(126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                frame.push(127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(payload);
        self.0.write_all(&frame).await?;
        self.0.flush().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[tokio::test]
    async fn frames_are_put_together_and_bounded() {
        // "Hel" and "lo" of the standard's examples, masked, with a ping in between.
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let masked = |head: u8, text: &[u8]| {
            let body = text.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
            let head = [head, 0x80 | text.len() as u8];
            head.into_iter().chain(mask).chain(body).collect::<Vec<u8>>()
        };
        let sent = [masked(0x01, b"Hel"), masked(0x89, b"?"), masked(0x80, b"lo")].concat();
        let (mut client, server) = tokio::io::duplex(1024);
        client.write_all(&sent).await.unwrap();
        let mut socket = Socket::new(server);
        assert_eq!(socket.next().await.unwrap().as_deref(), Some("Hello"));
        let mut pong = [0; 3];
        client.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong, [0x8A, 1, b'?']);

        for wrong in [
            // Without a mask; with an extension; a continuation of nothing; a ping of 126 bytes; a text of 2 MiB.
            &[0x81, 0x01, b'a'][..],
            &[0xC1, 0x80, 0, 0, 0, 0],
            &[0x80, 0x80, 0, 0, 0, 0],
            &[0x89, 0xFE, 0, 126],
            &[0x81, 0xFF, 0, 0, 0, 0, 0, 0x20, 0, 0],
        ] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(wrong).await.unwrap();
            assert!(Socket::new(server).next().await.is_err(), "{wrong:x?}");
        }
    }
}
