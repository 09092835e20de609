//! The requests of an upload or a download, as each kind of server wants them, and what is right as an answer.

use bytes::Bytes;
use filegate_client::FormEnvelope;
use filegate_load::{CallError, Next, Reply, Request, Work};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use crate::hex;
use crate::workload::Content;

/// How often all bytes of a download are compared; the length and both ends are in each.
const COMPARED_EACH: u64 = 16;

/// Bytes at both ends of a download that are compared each time.
const ENDS: usize = 64;

/// What a form has around its file, at most.
const FORM_BYTES_MAX: u64 = 2048;

/// How a server takes an upload.
#[derive(Debug, Clone, Copy)]
pub enum Speak {
    /// A form with a purpose and a file, answered in JSON.
    Form {
        /// Where.
        path: &'static str,
        /// What the file is said to be for; nothing: what filegate takes it for.
        purpose: Option<&'static str>,
        /// The answer.
        answer: Answer,
    },
    /// A PUT of the bytes to a path of their own.
    Put {
        /// What the path begins with.
        prefix: &'static str,
        /// How it is signed, if it is.
        sign: Option<Sign>,
        /// The right status.
        status: u16,
    },
    /// The tus protocol 1.0, an upload that is created with its content.
    Tus {
        /// Where.
        path: &'static str,
    },
}

/// What the JSON of an answer must say.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// filegate: success and the size.
    Filegate,
    /// The size; and the hash, if there is one.
    Bytes,
    /// The size of the form that the file was passed on in.
    FormBytes,
}

/// A key for AWS Signature Version 4.
#[derive(Debug, Clone, Copy)]
pub struct Sign {
    /// The access key.
    pub access: &'static str,
    /// Its secret.
    pub secret: &'static str,
    /// The region's name.
    pub region: &'static str,
}

/// Uploads of one content to one server.
#[derive(Debug)]
pub struct Uploads {
    /// `host:port`.
    host: String,
    key: String,
    speak: Speak,
    content: Bytes,
    /// Lower-case hex, if answers are known to hold it.
    sha256: Option<String>,
    /// The whole head, where it is the same for each call.
    head: Bytes,
    tail: Bytes,
    signer: Option<Signer>,
}

impl Uploads {
    /// Prepares them. `key` is what the server's callers must present; empty: nothing. `content` is that of `kind`.
    pub fn new(speak: Speak, host: &str, key: &str, kind: Content, content: &Bytes) -> Self {
        let (purpose, name) = kind.purpose_and_name();
        let mut uploads = Self {
            host: host.to_owned(),
            key: if key.is_empty() {
                String::new()
            } else {
                format!("Authorization: Bearer {key}\r\n")
            },
            speak,
            content: content.clone(),
            sha256: None,
            head: Bytes::new(),
            tail: Bytes::new(),
            signer: None,
        };
        match speak {
            Speak::Form { path, purpose: other, answer } => {
                let form = FormEnvelope::new(other.unwrap_or(purpose), name);
                let length = form.content_length(content.len() as u64);
                let lines = format!("Content-Type: {}\r\n", form.content_type);
                let head = uploads.head("POST", path, length, &lines);
                uploads.head = [head.as_bytes(), &form.head].concat().into();
                uploads.tail = form.tail;
                if matches!(answer, Answer::Bytes) {
                    uploads.sha256 = Some(hex(&Sha256::digest(content)));
                }
            }
            Speak::Put { sign, .. } => uploads.signer = sign.map(|sign| Signer::new(sign, host)),
            Speak::Tus { path } => {
                let length = content.len() as u64;
                let lines = format!(
                    "Tus-Resumable: 1.0.0\r\nUpload-Length: {length}\r\nContent-Type: application/offset+octet-stream\r\n"
                );
                uploads.head = uploads.head("POST", path, length, &lines).into();
            }
        }
        uploads
    }

    fn head(&self, method: &str, path: &str, length: u64, lines: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{}{lines}Content-Length: {length}\r\n\r\n",
            self.host, self.key
        )
    }
}

/// What the answers to forms have in common; the rest is theirs.
#[derive(Deserialize)]
struct Stored {
    bytes: u64,
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    id: serde_json::Value,
}

/// What is needed to get a file back: what its server called it.
pub type Name = String;

impl Work for Uploads {
    type Yield = Name;

    fn request(&self, nth: u64) -> Request {
        let head = match self.speak {
            Speak::Put { prefix, .. } => {
                let path = format!("{prefix}{nth}.bin");
                let lines = self.signer.as_ref().map(|signer| signer.lines("PUT", &path));
                let lines = lines.unwrap_or_default();
                self.head("PUT", &path, self.content.len() as u64, &lines).into()
            }
            Speak::Form { .. } | Speak::Tus { .. } => self.head.clone(),
        };
        Request { head, body: self.content.clone(), tail: self.tail.clone() }
    }

    fn judge(&self, nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<Name>, CallError> {
        let broken = |what: String| CallError::Broken(what);
        let length = self.content.len() as u64;
        let wrong = |bytes: u64| broken(format!("{length} bytes were sent and {bytes} stored"));
        match self.speak {
            Speak::Form { answer: Answer::Filegate, .. } => {
                reply.expect_status(200)?;
                let answer: filegate_types::wire::UploadReply = serde_json::from_slice(reply.body)
                    .map_err(|why| broken(format!("the answer is not filegate's: {why}")))?;
                let base = answer.base_resp;
                if base.status_code != 0 {
                    return Err(CallError::Refused {
                        code: base.status_code,
                        message: base.status_msg,
                    });
                }
                let file =
                    answer.file.ok_or_else(|| broken("an answer without a file".to_owned()))?;
                if file.bytes != length {
                    return Err(wrong(file.bytes));
                }
                Ok(Next::Done(file.file_id.to_string()))
            }
            Speak::Form { answer, .. } => {
                reply.expect_status(200)?;
                let stored: Stored = serde_json::from_slice(reply.body).map_err(|why| {
                    broken(format!("the answer does not say what is stored: {why}"))
                })?;
                let most = if matches!(answer, Answer::FormBytes) { FORM_BYTES_MAX } else { 0 };
                if !(length..=length + most).contains(&stored.bytes) {
                    return Err(wrong(stored.bytes));
                }
                if stored.sha256.is_some() && stored.sha256 != self.sha256 {
                    return Err(broken("the hash in the answer is another".to_owned()));
                }
                let id = stored.id;
                Ok(Next::Done(id.as_str().map_or_else(|| id.to_string(), str::to_owned)))
            }
            Speak::Put { status, .. } => {
                reply.expect_status(status)?;
                Ok(Next::Done(format!("{nth}.bin")))
            }
            Speak::Tus { .. } => {
                reply.expect_status(201)?;
                let offset = reply.header("upload-offset").and_then(|text| text.parse().ok());
                match offset {
                    Some(bytes) if bytes == length => {}
                    other => return Err(wrong(other.unwrap_or(0))),
                }
                let location = reply.header("location").unwrap_or_default();
                Ok(Next::Done(location.to_owned()))
            }
        }
    }

    fn moves(&self) -> u64 {
        self.content.len() as u64
    }
}

/// Downloads of files that were uploaded before, in turn.
#[derive(Debug)]
pub struct Downloads {
    requests: Vec<Bytes>,
    content: Bytes,
}

impl Downloads {
    /// Prepares them: `path` gives that of a file by its name.
    pub fn new(uploads: &Uploads, path: impl Fn(&str) -> String, names: &[Name]) -> Self {
        let requests = names.iter().map(|name| {
            let path = path(name);
            let lines = uploads.signer.as_ref().map(|signer| signer.lines("GET", &path));
            let lines = lines.unwrap_or_default();
            let Uploads { host, key, .. } = uploads;
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{key}{lines}\r\n").into()
        });
        Self { requests: requests.collect(), content: uploads.content.clone() }
    }
}

impl Work for Downloads {
    type Yield = ();

    fn request(&self, nth: u64) -> Request {
        let requests = self.requests.len() as u64;
        Request::whole(self.requests[(nth % requests) as usize].clone())
    }

    fn judge(&self, nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<()>, CallError> {
        reply.expect_status(200)?;
        let (got, sent) = (reply.body, &self.content[..]);
        let ends = ENDS.min(sent.len());
        let same = got.len() == sent.len()
            && got[..ends] == sent[..ends]
            && got[got.len() - ends..] == sent[sent.len() - ends..]
            && (!nth.is_multiple_of(COMPARED_EACH) || got == sent);
        if same {
            Ok(Next::Done(()))
        } else {
            Err(CallError::Broken("what came back is not what was uploaded".to_owned()))
        }
    }

    fn moves(&self) -> u64 {
        self.content.len() as u64
    }
}

/// AWS Signature Version 4 in headers, for bodies that are not hashed.
#[derive(Debug)]
struct Signer {
    sign: Sign,
    host: String,
    /// `20261126T015003Z`. Signatures are good for a quarter of an hour.
    time: String,
    scope: String,
    key: Vec<u8>,
}

impl Signer {
    fn new(sign: Sign, host: &str) -> Self {
        let time = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        Self::at(sign, host, &time.replace(['-', ':'], ""))
    }

    fn at(sign: Sign, host: &str, time: &str) -> Self {
        let (day, region) = (&time[..8], sign.region);
        let first = format!("AWS4{}", sign.secret).into_bytes();
        let words = [day, region, "s3", "aws4_request"];
        let key = words.iter().fold(first, |key, word| mac(&key, word.as_bytes()));
        let scope = words.join("/");
        Self { sign, host: host.to_owned(), time: time.to_owned(), scope, key }
    }

    /// The lines of a head that sign it.
    fn lines(&self, method: &str, path: &str) -> String {
        const SIGNED: &str = "host;x-amz-content-sha256;x-amz-date";
        let Self { sign, host, time, scope, key } = self;
        let request = format!(
            "{method}\n{path}\n\nhost:{host}\nx-amz-content-sha256:UNSIGNED-PAYLOAD\nx-amz-date:{time}\n\n{SIGNED}\n\
             UNSIGNED-PAYLOAD"
        );
        let request = hex(&Sha256::digest(request));
        let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{request}");
        let signature = hex(&mac(key, text.as_bytes()));
        format!(
            "x-amz-content-sha256: UNSIGNED-PAYLOAD\r\nx-amz-date: {time}\r\nAuthorization: AWS4-HMAC-SHA256 \
             Credential={}/{scope}, SignedHeaders={SIGNED}, Signature={signature}\r\n",
            sign.access
        )
    }
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}
