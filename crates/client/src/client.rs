//! The calls of the Files API.

use std::time::{Duration, Instant};

use filegate_types::FileId;
use filegate_types::wire::{
    DeleteReply, DeleteRequest, FileObject, ListReply, RetrieveReply, UploadReply,
};
use futures_util::stream::{self, Stream, TryStreamExt as _};
use reqwest::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, IF_RANGE, RANGE};
use reqwest::{Method, RequestBuilder, Response, Url};

use crate::config::{Base, ClientConfig};
use crate::content::Content;
use crate::error::Error;
use crate::form::FormEnvelope;
use crate::reply::{read_error, read_json, trace_id};
use crate::upload::{Link, OverOnDrop, Upload};

/// How many files a page of [`Client::pages`] asks for.
const PAGE_FILES: u32 = 1000;

/// A client of one server with one key. Cheap to clone; clones share their connections.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: Base,
    idle: Duration,
    answer: Duration,
}

/// Which files to list.
#[derive(Debug, Clone, Default)]
pub struct ListQuery {
    /// Only those of this purpose.
    pub purpose: Option<String>,
    /// At most so many; the server has a default and a maximum.
    pub limit: Option<u32>,
    /// Only those after this one, that is, older ones.
    pub after: Option<FileId>,
}

impl Client {
    /// A client; connects only when called.
    ///
    /// # Errors
    /// [`Error::Config`] when the URL or the key cannot be used.
    ///
    /// # Panics
    /// If the program has not installed a rustls provider.
    pub fn new(config: &ClientConfig) -> Result<Self, Error> {
        let mut base = Base::parse(&config.base_url)?;
        base.group_id.clone_from(&config.group_id);
        let mut headers = HeaderMap::new();
        if let Some(key) = &config.key {
            headers.insert(AUTHORIZATION, key.bearer()?);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("filegate/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .connect_timeout(config.connect_timeout);
        if base.loopback {
            builder = builder.no_proxy();
        }
        if !base.https {
            // Plain HTTP must work where no CA certificates are installed, as in small containers.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build().map_err(|error| Error::Config(error.to_string()))?;
        Ok(Self { http, base, idle: config.idle_timeout, answer: config.answer_timeout })
    }

    /// Uploads a file, or with `validate_only` has it checked.
    ///
    /// The reply has `file` after an upload and `validated` after a check.
    ///
    /// An answer that comes while the body is still being sent ends the sending and is returned
    /// like any other. A server that closes the connection in the same instant, without reading
    /// on, can still make it look like [`Error::Network`].
    pub async fn upload(&self, upload: Upload) -> Result<UploadReply, Error> {
        let form = FormEnvelope::new(&upload.purpose, &upload.filename);
        let validate_only = upload.validate_only;
        let query: &[_] = if validate_only { &[("validate_only", "true".to_owned())] } else { &[] };
        let mut request = self
            .request(Method::POST, self.base.files("upload", query)?)
            .header(CONTENT_TYPE, &form.content_type);
        if let Some(length) = upload.length {
            request = request.header(CONTENT_LENGTH, form.content_length(length));
        }
        let link = Link::new();
        let _over = OverOnDrop(link.clone());
        let body = reqwest::Body::wrap_stream(upload.into_body(&form, link.clone()));
        let started = Instant::now();
        let response = self.send_upload(request.body(body), &link).await?;
        link.answered();
        log_answer("upload", &response, started);
        let reply: UploadReply = read_json(response, self.idle).await?;
        let present = if validate_only { reply.validated.is_some() } else { reply.file.is_some() };
        if present { Ok(reply) } else { Err(missing("file")) }
    }

    async fn send_upload(&self, request: RequestBuilder, link: &Link) -> Result<Response, Error> {
        let send = request.send();
        tokio::pin!(send);
        loop {
            // The phase may change to one with less patience while this sleeps.
            let longest = Instant::now() + self.idle.min(self.answer);
            let look = link.deadline(self.idle, self.answer).min(longest.into());
            tokio::select! {
                outcome = &mut send => {
                    return outcome.map_err(|error| match link.failure() {
                        Some(source) => Error::Source(source),
                        None => Error::network("sending", error),
                    });
                }
                () = tokio::time::sleep_until(look) => {
                    if link.deadline(self.idle, self.answer) <= tokio::time::Instant::now() {
                        return Err(link.timeout(self.idle, self.answer));
                    }
                }
            }
        }
    }

    /// One page of files, newest first.
    pub async fn list(&self, query: &ListQuery) -> Result<ListReply, Error> {
        let mut pairs = Vec::new();
        if let Some(purpose) = &query.purpose {
            pairs.push(("purpose", purpose.clone()));
        }
        if let Some(limit) = query.limit {
            pairs.push(("limit", limit.to_string()));
        }
        if let Some(after) = query.after {
            pairs.push(("after", after.to_string()));
        }
        let url = self.base.files("list", &pairs)?;
        let response = self.send("list", self.request(Method::GET, url)).await?;
        read_json(response, self.idle).await
    }

    /// All files, page by page.
    pub fn pages(&self, purpose: Option<&str>) -> Pages {
        let query =
            ListQuery { purpose: purpose.map(str::to_owned), limit: Some(PAGE_FILES), after: None };
        Pages { client: self.clone(), query, done: false }
    }

    /// All files, one by one.
    pub fn list_all(
        &self,
        purpose: Option<&str>,
    ) -> impl Stream<Item = Result<FileObject, Error>> + Send + use<> {
        stream::try_unfold(self.pages(purpose), |mut pages| async move {
            Ok::<_, Error>(pages.next().await?.map(|page| (page, pages)))
        })
        .map_ok(|page| stream::iter(page.into_iter().map(Ok)))
        .try_flatten()
    }

    /// Everything known of a file, with its `download_url`.
    pub async fn retrieve(&self, id: FileId) -> Result<FileObject, Error> {
        let url = self.base.files("retrieve", &[("file_id", id.to_string())])?;
        let response = self.send("retrieve", self.request(Method::GET, url)).await?;
        let reply: RetrieveReply = read_json(response, self.idle).await?;
        reply.file.ok_or_else(|| missing("file"))
    }

    /// The bytes of a file, to be read with [`Content::chunk`].
    pub async fn content(&self, id: FileId) -> Result<Content, Error> {
        let response = self.send_content(self.content_request(id)?).await?;
        Content::whole(id, response, self.idle)
    }

    /// The bytes from `first` to `last` (inclusive), or to the end. They are not verified.
    pub async fn content_range(
        &self,
        id: FileId,
        first: u64,
        last: Option<u64>,
    ) -> Result<Content, Error> {
        let last = last.map_or_else(String::new, |last| last.to_string());
        let request = self.content_request(id)?.header(RANGE, format!("bytes={first}-{last}"));
        let response = self.send_content(request).await?;
        Content::part(id, response, self.idle, first)
    }

    /// Goes on with a download of a whole file that broke off; the end is verified as if it
    /// had come in one piece.
    pub async fn resume(&self, content: &mut Content) -> Result<(), Error> {
        let mut request = self
            .content_request(content.id)?
            .header(RANGE, format!("bytes={}-", content.received()));
        if let Some(etag) = content.etag.as_deref().filter(|etag| etag.starts_with('"')) {
            request = request.header(IF_RANGE, etag);
        }
        let response = self.send_content(request).await?;
        content.go_on(response)
    }

    /// Deletes a file, if it has this purpose when one is given.
    pub async fn delete(&self, id: FileId, purpose: Option<&str>) -> Result<DeleteReply, Error> {
        let body = DeleteRequest { file_id: id, purpose: purpose.map(str::to_owned) };
        let request = self.request(Method::POST, self.base.files("delete", &[])?).json(&body);
        read_json(self.send("delete", request).await?, self.idle).await
    }

    /// Whether a server runs there. Needs no key.
    pub async fn health(&self) -> Result<(), Error> {
        let request = self.http.get(self.base.outside("healthz")?);
        let response = self.send("healthz", request).await?;
        if response.status().is_success() {
            return Ok(());
        }
        Err(Error::Http {
            status: response.status().as_u16(),
            trace_id: trace_id(response.headers()),
        })
    }

    /// The URL of a call (`upload`, `retrieve`, …), for tools that make it themselves.
    pub fn endpoint(&self, call: &str) -> Result<String, Error> {
        self.base.files(call, &[]).map(String::from)
    }

    fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    fn content_request(&self, id: FileId) -> Result<RequestBuilder, Error> {
        let url = self.base.files("retrieve_content", &[("file_id", id.to_string())])?;
        Ok(self.request(Method::GET, url))
    }

    async fn send(&self, call: &'static str, request: RequestBuilder) -> Result<Response, Error> {
        let started = Instant::now();
        let response = tokio::time::timeout(self.answer, request.send())
            .await
            .map_err(|_elapsed| Error::timeout("waiting for the answer", self.answer))?
            .map_err(|error| Error::network("sending", error))?;
        log_answer(call, &response, started);
        Ok(response)
    }

    /// The answer if it is content: refusals come as JSON under HTTP 200 as well.
    async fn send_content(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = self.send("retrieve_content", request).await?;
        let json = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/json"));
        if json || !response.status().is_success() {
            return Err(read_error(response, self.idle).await);
        }
        Ok(response)
    }
}

/// The pages of a listing.
#[derive(Debug)]
pub struct Pages {
    client: Client,
    query: ListQuery,
    done: bool,
}

impl Pages {
    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Vec<FileObject>>, Error> {
        if self.done {
            return Ok(None);
        }
        let reply = self.client.list(&self.query).await?;
        let last = reply.files.last().map(|file| file.file_id);
        // A server that knows no pages says nothing of more, and has given all.
        self.done = reply.has_more != Some(true) || last.is_none();
        if !self.done && last == self.query.after {
            let what = "the next page of the list is the same again".to_owned();
            return Err(Error::Protocol { what, trace_id: None });
        }
        self.query.after = last;
        Ok(Some(reply.files))
    }
}

fn missing(what: &str) -> Error {
    Error::Protocol { what: format!("success without the {what}"), trace_id: None }
}

fn log_answer(call: &'static str, response: &Response, started: Instant) {
    tracing::debug!(
        call,
        status = response.status().as_u16(),
        trace_id = trace_id(response.headers()),
        ms = started.elapsed().as_millis() as u64,
        "answered"
    );
}
