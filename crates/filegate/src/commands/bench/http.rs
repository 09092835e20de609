//! The calls of the Files API: their requests, and what is right as an answer.

use bytes::Bytes;
use filegate_client::{FormEnvelope, Key};
use filegate_load::{CallError, Next, Reply, Request, Work, body};
use filegate_types::FileId;
use filegate_types::wire::{ErrorReply, UploadReply};

use crate::exit::Exit;

/// Purposes whose files are texts.
const TEXT_PURPOSES: [&str; 3] = ["t2a_async_input", "retrieval", "assistants"];

/// The server, and what every request to it has in its head.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    /// `host:port`.
    pub(crate) address: String,
    /// As in the URL.
    host: String,
    /// `/…/v1/files/`.
    path: String,
    key: Key,
}

impl Target {
    /// Takes apart the URL of the upload call.
    pub(crate) fn parse(upload_url: &str, key: Key) -> Result<Self, String> {
        let Some(rest) = upload_url.strip_prefix("http://") else {
            return Err("bench speaks plain http:// only".to_owned());
        };
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let path = path.strip_suffix("upload").unwrap_or(path);
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let address = if has_port { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { address, host: host.to_owned(), path: format!("/{path}"), key })
    }

    /// The head of a request, with the empty line.
    fn head(
        &self,
        method: &str,
        call: &str,
        query: &str,
        content_type: &str,
        length: Option<u64>,
    ) -> String {
        let content = length.map_or_else(String::new, |length| {
            format!("Content-Type: {content_type}\r\nContent-Length: {length}\r\n")
        });
        format!(
            "{method} {}{call}{query} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\n\
             User-Agent: filegate-bench/{}\r\n{content}\r\n",
            self.path,
            self.host,
            self.key.expose(),
            env!("CARGO_PKG_VERSION"),
        )
    }

    /// An upload of a valid file of `size` bytes, or a few less.
    pub(crate) fn upload(&self, purpose: &str, size: u64) -> Load {
        let (name, content) = if TEXT_PURPOSES.contains(&purpose) {
            ("bench.txt", body::text(size))
        } else {
            ("bench.wav", body::wav(size))
        };
        let form = FormEnvelope::new(purpose, name);
        let moves = content.len() as u64;
        let length = form.content_length(moves);
        let head = self.head("POST", "upload", "", &form.content_type, Some(length));
        let parts = [head.as_bytes(), &form.head, &content, &form.tail];
        Load { requests: vec![parts.concat().into()], moves, expect: Expect::Upload }
    }

    /// What is known of a file.
    pub(crate) fn retrieve(&self, id: FileId) -> Load {
        Load { requests: vec![self.get("retrieve", id)], moves: 0, expect: Expect::Json }
    }

    /// A download of `size` bytes.
    pub(crate) fn content(&self, id: FileId, size: u64) -> Load {
        let requests = vec![self.get("retrieve_content", id)];
        Load { requests, moves: size, expect: Expect::Content }
    }

    /// One delete for each.
    pub(crate) fn deletes(&self, ids: &[FileId]) -> Load {
        let delete = |id: &FileId| {
            let body = format!("{{\"file_id\":{id}}}");
            let length = Some(body.len() as u64);
            (self.head("POST", "delete", "", "application/json", length) + &body).into()
        };
        Load { requests: ids.iter().map(delete).collect(), moves: 0, expect: Expect::Json }
    }

    fn get(&self, call: &str, id: FileId) -> Bytes {
        self.head("GET", call, &format!("?file_id={id}"), "", None).into()
    }
}

/// Calls to repeat, whose requests are sent in turn.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    requests: Vec<Bytes>,
    /// Bytes of content that a call moves.
    moves: u64,
    expect: Expect,
}

#[derive(Debug, Clone, Copy)]
enum Expect {
    Upload,
    Json,
    Content,
}

impl Work for Load {
    /// What was uploaded.
    type Yield = Option<FileId>;

    fn request(&self, nth: u64) -> Request {
        let requests = self.requests.len() as u64;
        Request::whole(self.requests[(nth % requests) as usize].clone())
    }

    fn judge(
        &self,
        _nth: u64,
        _step: u32,
        reply: &Reply<'_>,
    ) -> Result<Next<Option<FileId>>, CallError> {
        match self.expect {
            Expect::Upload => uploaded(reply).map(Some),
            Expect::Json => success(reply).map(|()| None),
            Expect::Content => content(reply, self.moves).map(|()| None),
        }
        .map(Next::Done)
    }

    fn moves(&self) -> u64 {
        self.moves
    }
}

/// The exit code that a failed call stands for.
pub(crate) fn exit_of(error: &CallError) -> Exit {
    match error {
        CallError::Refused { .. } => Exit::Refused,
        CallError::Broken(_) => Exit::Unavailable,
    }
}

/// The id of the file that was uploaded.
fn uploaded(reply: &Reply<'_>) -> Result<FileId, CallError> {
    success(reply)?;
    serde_json::from_slice::<UploadReply>(reply.body)
        .ok()
        .and_then(|reply| reply.file)
        .map(|file| file.file_id)
        .ok_or_else(|| CallError::Broken("the reply to an upload has no file".to_owned()))
}

/// That `base_resp` says success.
fn success(reply: &Reply<'_>) -> Result<(), CallError> {
    let broken = |what: String| CallError::Broken(what);
    if !reply.json && reply.status != 200 {
        return Err(broken(format!("the server answered HTTP {}", reply.status)));
    }
    let answer: ErrorReply = serde_json::from_slice(reply.body)
        .map_err(|_not_json| broken("the reply is not the JSON of the Files API".to_owned()))?;
    let base = answer.base_resp;
    if base.status_code == 0 {
        return Ok(());
    }
    Err(CallError::Refused { code: base.status_code, message: base.status_msg })
}

/// That it was content of `size` bytes.
fn content(reply: &Reply<'_>, size: u64) -> Result<(), CallError> {
    if reply.json || reply.status != 200 {
        success(reply)?;
    }
    if reply.body_bytes == size {
        return Ok(());
    }
    let what = format!("{} bytes of content where {size} were uploaded", reply.body_bytes);
    Err(CallError::Broken(what))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Result<Target, String> {
        Target::parse(url, Key::new("fg-k").unwrap())
    }

    #[test]
    fn targets() {
        for (url, address, path) in [
            ("http://h:1/v1/files/upload", "h:1", "/v1/files/"),
            ("http://h/minimax/v1/files/upload", "h:80", "/minimax/v1/files/"),
            ("http://[::1]/v1/files/upload", "[::1]:80", "/v1/files/"),
            ("http://[::1]:8/v1/files/upload", "[::1]:8", "/v1/files/"),
        ] {
            let target = target(url).unwrap();
            assert_eq!((target.address.as_str(), target.path.as_str()), (address, path));
        }
        assert!(target("https://h/v1/files/upload").is_err());
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let target = target("http://h:1/v1/files/upload").unwrap();
        for purpose in ["voice_clone", "retrieval"] {
            let load = target.upload(purpose, 100_000);
            assert_eq!(load.moves(), 100_000);
            let request = load.request(0).head;
            let end = request.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
            let head = std::str::from_utf8(&request[..end]).unwrap();
            assert!(head.starts_with("POST /v1/files/upload HTTP/1.1\r\nHost: h:1\r\n"), "{head}");
            let length = format!("Content-Length: {}\r\n", request.len() - end);
            assert!(head.contains(&length), "{head}");
        }
    }
}
