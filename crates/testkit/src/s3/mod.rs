//! A real S3 server in the test's process: `s3s-fs` on a port of its own, with a switch in front that makes it
//! slow, break off, refuse, lie and go away.
//!
//! It checks signatures and refuses small parts as S3 does. It cannot list uploads in parts, which the layer
//! in front does for it, and knows no lifecycle rules. Nothing it stores is durable.

mod fault;
mod front;

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s_fs::FileSystem;
use tokio::sync::oneshot;

pub use fault::{Fault, Kind, When};
use front::Front;

const BUCKET: &str = "files";
const ACCESS_KEY: &str = "GKtest";
const SECRET_KEY: &str = "secret-of-the-test";

/// The server. Its objects go when it is dropped.
#[derive(Debug)]
pub struct S3Server {
    home: tempfile::TempDir,
    address: SocketAddr,
    front: Arc<Front>,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl S3Server {
    /// Starts one with an empty bucket.
    pub fn start_new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        std::fs::create_dir(home.path().join(BUCKET)).expect("room for a bucket");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("a bound port");
        let front = Arc::new(Front::new(service(home.path())));
        let server = Self { home, address, front, running: Mutex::new(None) };
        server.run(listener);
        server
    }

    /// The `blob_url` of everything below `prefix`.
    pub fn url(&self, prefix: &str) -> String {
        format!("s3://{BUCKET}/{prefix}?endpoint={}&region=us-east-1", self.endpoint())
    }

    /// `http://host:port`
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The key of the only user.
    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    /// The secret that goes with it.
    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// The settings of a gateway that keeps its blobs here, below `prefix`.
    pub fn settings(&self, prefix: &str) -> String {
        format!(
            "blob_url = \"{}\"\n[s3]\naccess_key_id = \"{ACCESS_KEY}\"\nsecret_access_key = \
             \"{SECRET_KEY}\"\n",
            self.url(prefix)
        )
    }

    /// The directory that is the bucket.
    pub fn root(&self) -> PathBuf {
        self.home.path().join(BUCKET)
    }

    /// Every object below `prefix` with its length, sorted by name.
    pub fn objects(&self, prefix: &str) -> Vec<(String, u64)> {
        let root = self.root();
        let mut found = Vec::new();
        let mut dirs = vec![root.join(prefix)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                match entry.metadata() {
                    Ok(meta) if meta.is_dir() => dirs.push(entry.path()),
                    Ok(meta) => {
                        let name = entry.path();
                        let name = name.strip_prefix(&root).expect("below the root");
                        let name = name.to_string_lossy().into_owned();
                        // What is being written has a name that begins with a dot.
                        if !name.rsplit('/').next().unwrap_or_default().starts_with('.') {
                            found.push((name, meta.len()));
                        }
                    }
                    Err(_) => {}
                }
            }
        }
        found.sort();
        found
    }

    /// Uploads in parts that are neither completed nor aborted.
    pub fn unfinished(&self) -> usize {
        self.front.unfinished()
    }

    /// Has `fault` happen `when`. The first rule that fits a request applies.
    pub fn fail(&self, when: When, fault: Fault) {
        self.front.rules().push(when, fault);
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.front.rules().clear();
    }

    /// Requests of a kind since the start.
    pub fn requests(&self, kind: Kind) -> u64 {
        self.front.rules().seen(kind)
    }

    /// The most bytes of bodies that were on their way up at a time, since the last call.
    pub fn most_in_flight(&self) -> u64 {
        self.front.most_in_flight()
    }

    /// Goes away: connections end, and new ones are refused.
    pub fn stop(&self) {
        let running = self.running.lock().expect("no holder panics").take();
        if let Some(Running { stop, thread }) = running {
            let _ended_by_itself = stop.send(());
            thread.join().expect("the server does not panic");
        }
    }

    /// Comes back on the same port, with what it had.
    pub fn start(&self) {
        self.stop();
        let listener = crate::server::eventually("the port is free again", || {
            TcpListener::bind(self.address).ok()
        });
        self.run(listener);
    }

    fn run(&self, listener: TcpListener) {
        listener.set_nonblocking(true).expect("a socket of the system's");
        let (stop, stopped) = oneshot::channel();
        let front = Arc::clone(&self.front);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                tokio::select! {
                    () = front::accept(listener, front) => {}
                    _ = stopped => {}
                }
            });
            // Drops every connection.
            runtime.shutdown_background();
        });
        *self.running.lock().expect("no holder panics") = Some(Running { stop, thread });
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn service(root: &Path) -> S3Service {
    let files = FileSystem::new(root).expect("a directory");
    let mut builder = S3ServiceBuilder::new(files);
    builder.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
    builder.build()
}
