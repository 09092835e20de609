//! Channels behind TLS, with authorities of the test's own: who is not whom the channel says is told nothing.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use filegate_testkit::server::TestServer;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use crate::kit::{KEY, add, answer, call, setup};

const SPEECH: &str = "/v1/t2a_v2";

/// An authority, and what it has signed.
struct Authority {
    home: tempfile::TempDir,
}

impl Authority {
    fn new() -> Self {
        let authority = Self { home: tempfile::tempdir().unwrap() };
        authority.openssl(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=authority \
             -keyout ca.key -out ca.pem",
        );
        authority
    }

    /// Certificates that are trusted because of it.
    fn certificate(&self) -> PathBuf {
        self.home.path().join("ca.pem")
    }

    /// Signs a certificate for `name`, such as `IP:127.0.0.1`.
    fn sign(&self, name: &str) -> ServerConfig {
        self.openssl(
            "req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=upstream \
             -keyout one.key -out one.csr",
        );
        let extensions = format!("subjectAltName={name}\nextendedKeyUsage=serverAuth\n");
        let mut file = std::fs::File::create(self.home.path().join("one.ext")).unwrap();
        io::Write::write_all(&mut file, extensions.as_bytes()).unwrap();
        self.openssl(
            "x509 -req -in one.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile one.ext -out one.pem",
        );
        let in_home = |name: &str| self.home.path().join(name);
        let certificate = CertificateDer::from_pem_file(in_home("one.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(in_home("one.key")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions =
            ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        versions.unwrap().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap()
    }

    fn openssl(&self, words: &str) {
        let output = Command::new("openssl")
            .args(words.split_whitespace())
            .current_dir(self.home.path())
            .output()
            .expect("openssl can be run");
        assert!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// An upstream behind TLS that answers each call with success. It listens until it is dropped.
struct Secure {
    address: SocketAddr,
    /// What came through TLS: heads.
    heads: Arc<Mutex<Vec<String>>>,
    /// Everything that was sent by whoever connected, as it came.
    raw: Arc<Mutex<Vec<u8>>>,
    ended: Arc<AtomicBool>,
}

impl Secure {
    fn start(config: ServerConfig) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let secure =
            Self { address, heads: Arc::default(), raw: Arc::default(), ended: Arc::default() };
        let (config, heads, raw) =
            (Arc::new(config), Arc::clone(&secure.heads), Arc::clone(&secure.raw));
        let ended = Arc::clone(&secure.ended);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if ended.load(Ordering::Acquire) {
                    return;
                }
                let (config, heads, raw) =
                    (Arc::clone(&config), Arc::clone(&heads), Arc::clone(&raw));
                thread::spawn(move || {
                    let tls = ServerConnection::new(config).unwrap();
                    let stream = StreamOwned::new(tls, Noting { stream, raw });
                    let _until_it_is_closed = talk(stream, &heads);
                });
            }
        });
        secure
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        let _wakes_it = TcpStream::connect(self.address);
    }
}

/// Notes what is read.
struct Noting {
    stream: TcpStream,
    raw: Arc<Mutex<Vec<u8>>>,
}

impl io::Read for Noting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.stream.read(buffer)?;
        self.raw.lock().unwrap().extend_from_slice(&buffer[..n]);
        Ok(n)
    }
}

impl io::Write for Noting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

fn talk(stream: impl io::Read + io::Write, heads: &Mutex<Vec<String>>) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
            if line == "\r\n" {
                break;
            }
            head.push_str(&line);
        }
        reader.read_exact(&mut vec![0; length])?;
        heads.lock().unwrap().push(head);
        let body = json!({"data": {}, "base_resp": {"status_code": 0, "status_msg": "success"}});
        let bytes =
            answer(200, &[("content-type", "application/json")], body.to_string().as_bytes());
        reader.get_mut().write_all(&bytes)?;
        reader.get_mut().flush()?;
    }
}

/// A gateway that trusts what these authorities sign, and nobody else.
fn trusting(authority: &Path) -> TestServer {
    let settings = "[relay]\nprobe_interval = \"1h\"\n";
    setup().config(settings).env("SSL_CERT_FILE", authority.to_str().unwrap()).start()
}

fn speak(server: &TestServer) -> filegate_testkit::http::Reply {
    call(server, SPEECH, &json!({"model": "speech-02-hd", "text": "Hello"})).send()
}

#[test]
fn a_channel_whose_certificate_is_trusted_is_called_through_tls() {
    let authority = Authority::new();
    let upstream = Secure::start(authority.sign("IP:127.0.0.1"));
    let server = trusting(&authority.certificate());
    add(&server, "tls", &format!("https://{}", upstream.address), json!({}));
    for _ in 0..2 {
        let reply = speak(&server);
        assert_eq!(reply.code(), 0, "{}", reply.text());
    }
    let calls = upstream.heads().into_iter().filter(|head| head.contains(SPEECH));
    let calls: Vec<String> = calls.collect();
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(calls.iter().all(|head| head.contains(KEY)), "{calls:?}");
    let raw = upstream.raw.lock().unwrap().clone();
    assert!(!raw.is_empty() && !holds(&raw, KEY.as_bytes()), "the key was to be seen on the wire");
}

#[test]
fn who_is_not_whom_the_channel_says_gets_no_key() {
    let (authority, other) = (Authority::new(), Authority::new());
    for (what, config) in [
        ("another authority's", other.sign("IP:127.0.0.1")),
        ("another host's", authority.sign("DNS:upstream.example")),
    ] {
        let upstream = Secure::start(config);
        let server = trusting(&authority.certificate());
        add(&server, "tls", &format!("https://{}", upstream.address), json!({}));
        let reply = speak(&server);
        assert_eq!(reply.code(), 1013, "{what}: {}", reply.text());
        assert!(reply.message().contains("unreachable"), "{what}: {}", reply.text());
        assert_eq!(upstream.heads(), Vec::<String>::new(), "{what}: it was told something");
        let raw = upstream.raw.lock().unwrap().clone();
        assert!(!raw.is_empty(), "{what}: nobody tried");
        assert!(!holds(&raw, KEY.as_bytes()), "{what}: it got the key");
    }
}

fn holds(bytes: &[u8], some: &[u8]) -> bool {
    bytes.windows(some.len()).any(|part| part == some)
}
