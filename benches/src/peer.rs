//! Who does the work: how each is started, and how it is spoken to.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use filegate_load::process::Server;

use crate::Failed;
use crate::chart::Kind;
use crate::speak::{Answer, Sign, Speak};

/// One of those that are compared.
#[derive(Debug)]
pub struct Peer {
    /// How it is named on the command line.
    pub name: &'static str,
    /// How it is named in tables and pictures.
    pub title: &'static str,
    /// Whose it is.
    pub kind: Kind,
    /// What it does with an upload, for those who judge whether the comparison is fair.
    pub about: &'static str,
    /// How it takes an upload.
    pub speak: Speak,
    /// What callers present to it; empty: nothing, or what is made anew at its start.
    pub key: &'static str,
    /// The path of a file by what its upload yielded, if it gives files.
    pub read: Option<fn(&str) -> String>,
    /// What its files lack of being durable is made up for at the end of a turn, within its time.
    pub synced_after: bool,
    /// Where the bytes are afterwards: in as many bytes of files.
    pub keeps: bool,
    how: How,
}

#[derive(Debug)]
enum How {
    /// The program of this project, as it comes.
    Filegate,
    /// A program beside this one: its name and the words after port and directory.
    Beside(&'static str, &'static [&'static str]),
    /// `benches/peers/NAME/run`.
    Script,
    /// nginx, whose `server` holds these lines; `DIR` is its directory.
    Nginx(&'static str),
    /// nginx in front of a program that throws everything away.
    NginxProxy,
}

const FORM: Speak = Speak::Form { path: "/files", purpose: None, answer: Answer::Bytes };
const DAV: Speak = Speak::Put { prefix: "/", sign: None, status: 201 };
const LIMIT: Speak = Speak::Put { prefix: "/", sign: None, status: 200 };
const DAV_CONF: &str = "location / { root DIR/files; dav_methods PUT; }";

const fn peer(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    how: How,
    speak: Speak,
) -> Peer {
    Peer {
        name,
        title,
        kind: Kind::Peer,
        about,
        speak,
        key: "",
        read: None,
        synced_after: false,
        keeps: true,
        how,
    }
}

const fn limit(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    what: &'static [&'static str],
) -> Peer {
    Peer { kind: Kind::Limit, ..peer(name, title, about, How::Beside("limit", what), LIMIT) }
}

const fn s3(access: &'static str, secret: &'static str, region: &'static str) -> Speak {
    Speak::Put { prefix: "/bench/", sign: Some(Sign { access, secret, region }), status: 200 }
}

/// All of them.
pub const PEERS: &[Peer] = &[
    Peer {
        kind: Kind::Ours,
        read: Some(|name| format!("/v1/files/retrieve_content?file_id={name}")),
        ..peer(
            "filegate",
            "filegate",
            "validated, SHA-256, file, name and row durable before the answer; default configuration",
            How::Filegate,
            Speak::Form { path: "/v1/files/upload", purpose: None, answer: Answer::Filegate },
        )
    },
    Peer {
        read: Some(|name| format!("/files/{name}")),
        ..peer(
            "by-hand-durable",
            "axum by hand, sync + SHA-256",
            "axum's Multipart, hashed, one fdatasync of the file; no rows, no validation",
            How::Beside("by-hand", &["--sync", "--sha256"]),
            FORM,
        )
    },
    peer(
        "by-hand-sync",
        "axum by hand, sync",
        "axum's Multipart, one fdatasync of the file",
        How::Beside("by-hand", &["--sync"]),
        FORM,
    ),
    Peer {
        read: Some(|name| format!("/files/{name}")),
        ..peer(
            "by-hand",
            "axum by hand, no sync",
            "axum's Multipart, written and closed, nothing synced",
            How::Beside("by-hand", &[]),
            FORM,
        )
    },
    Peer {
        read: Some(|name| format!("/{name}")),
        ..peer(
            "nginx",
            "nginx DAV PUT, no sync",
            "written to a temporary file and renamed, nothing synced",
            How::Nginx(DAV_CONF),
            DAV,
        )
    },
    Peer {
        synced_after: true,
        ..peer(
            "nginx-synced",
            "nginx DAV PUT, one sync at the end",
            "nginx has no sync: one syncfs after the last answer of a turn is in its time, far less than a sync for each answer",
            How::Nginx(DAV_CONF),
            DAV,
        )
    },
    Peer {
        keeps: false,
        kind: Kind::Limit,
        ..peer(
            "nginx-proxy",
            "nginx proxy_pass, nothing kept",
            "in front of a program that throws all away: what a gateway costs that does nothing",
            How::NginxProxy,
            LIMIT,
        )
    },
    peer(
        "fastapi",
        "FastAPI UploadFile, worker for each core, no sync",
        "uvicorn with a worker for each core; written and closed",
        How::Script,
        Speak::Form { path: "/upload", purpose: None, answer: Answer::Bytes },
    ),
    peer(
        "fastapi-one",
        "FastAPI UploadFile, one worker, no sync",
        "as uvicorn starts if it is not told otherwise; written and closed",
        How::Script,
        Speak::Form { path: "/upload", purpose: None, answer: Answer::Bytes },
    ),
    peer(
        "ogx",
        "ogx files API, row synced",
        "inline::localfs, rows in SQLite; file not synced",
        How::Script,
        Speak::Form { path: "/v1/files", purpose: Some("user_data"), answer: Answer::Bytes },
    ),
    Peer {
        key: "sk-bench",
        ..peer(
            "litellm",
            "LiteLLM proxy, no sync",
            "passes files to a provider, here a stub beside it that writes them without a sync",
            How::Script,
            Speak::Form {
                path: "/v1/files",
                purpose: Some("user_data"),
                answer: Answer::FormBytes,
            },
        )
    },
    peer(
        "rustus",
        "rustus, no sync",
        "tus: data and what it knows of them are files",
        How::Script,
        Speak::Tus { path: "/files/" },
    ),
    peer(
        "tusd",
        "@tus/server, no sync",
        "tus on Node: two files each, not synced",
        How::Script,
        Speak::Tus { path: "/files" },
    ),
    Peer {
        read: Some(|name| format!("/bench/{name}")),
        ..peer(
            "s3s-fs",
            "s3s-fs, no sync",
            "S3 over files: MD5, a temporary file, renamed, not synced",
            How::Script,
            s3("bench", "bench-secret", "us-east-1"),
        )
    },
    Peer {
        read: Some(|name| format!("/bench/{name}")),
        // It compresses.
        keeps: false,
        ..peer(
            "garage",
            "Garage, one node, synced",
            "data_fsync and metadata_fsync on",
            How::Script,
            s3(
                "GK0123456789abcdef01234567",
                "5555555555555555555555555555555555555555555555555555555555555555",
                "garage",
            ),
        )
    },
    limit(
        "limit-file",
        "limit: TCP to file, one fdatasync",
        "no name, no hash, no look at the body",
        &["file"],
    ),
    limit(
        "limit-direct",
        "limit: TCP to file, O_DIRECT",
        "two buffers of 4 MiB and a thread that writes",
        &["direct"],
    ),
    limit(
        "limit-log",
        "limit: TCP to one log",
        "all that waits is appended with one fdatasync",
        &["log"],
    ),
];

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    /// Those of this project: where this one lies.
    pub bin: PathBuf,
    /// The project's directory.
    pub project: PathBuf,
    /// nginx.
    pub nginx: String,
}

/// A peer that runs.
#[derive(Debug)]
pub struct Running {
    /// It, and all that it started.
    pub server: Server,
    /// What stands behind it and is not measured.
    _behind: Option<Server>,
    /// `host:port`.
    pub host: String,
    /// What its callers must present; empty: nothing.
    pub key: String,
    /// What it says goes here.
    pub log: PathBuf,
}

impl Peer {
    /// The peer of this name.
    pub fn named(name: &str) -> Option<&'static Peer> {
        PEERS.iter().find(|peer| peer.name == name)
    }

    /// Its script that installs it, if it has one.
    pub fn installer(&self, programs: &Programs) -> Option<PathBuf> {
        matches!(self.how, How::Script).then(|| programs.script(self.name, "install"))
    }

    /// Makes what must be there before it is started: its directory, and the key of its callers, which it gives.
    pub fn prepare(&self, programs: &Programs, dir: &Path) -> Result<String, Failed> {
        match self.how {
            How::Filegate => {
                let mut command = Command::new(programs.bin.join("filegate"));
                clean(&mut command);
                let made = command
                    .args(["key", "create", "--name", "bench", "--data-dir"])
                    .arg(dir.join("data"))
                    .output()?;
                if !made.status.success() {
                    let why = String::from_utf8_lossy(&made.stderr);
                    return Err(format!("filegate key create: {why}").into());
                }
                Ok(String::from_utf8(made.stdout)?.trim().to_owned())
            }
            How::Nginx(_) | How::NginxProxy => {
                fs::create_dir(dir.join("files"))?;
                Ok(String::new())
            }
            How::Beside(..) | How::Script => Ok(self.key.to_owned()),
        }
    }

    /// Starts it on a directory that was prepared.
    pub fn start(&self, programs: &Programs, dir: &Path, key: String) -> Result<Running, Failed> {
        let port = free_ports()?;
        let host = format!("127.0.0.1:{port}");
        let log = dir.join("log");
        let mut behind = None;
        let mut command = match self.how {
            How::Filegate => {
                let mut command = Command::new(programs.bin.join("filegate"));
                command.args(["serve", "--listen", &host, "--admin-listen"]);
                command
                    .arg(format!("127.0.0.1:{}", port + 1))
                    .arg("--data-dir")
                    .arg(dir.join("data"));
                command
            }
            How::Beside(program, words) => {
                programs.beside(program, port, &dir.join("files"), words)
            }
            How::Script => {
                let mut command = Command::new(programs.script(self.name, "run"));
                command.arg(port.to_string()).arg(dir.join("files"));
                command
            }
            How::Nginx(location) => programs.nginx(dir, &host, location)?,
            How::NginxProxy => {
                let to = free_ports()?;
                let mut discard = programs.beside("limit", to, dir, &["discard"]);
                behind = Some(start(&mut discard, &dir.join("log-behind"))?);
                let location = "location / { proxy_pass http://up; proxy_http_version 1.1; \
                    proxy_set_header Connection \"\"; proxy_request_buffering off; proxy_buffering off; }";
                let up = format!("upstream up {{ server 127.0.0.1:{to}; keepalive 256; }}");
                programs.nginx_with(dir, &host, &up, location)?
            }
        };
        clean(&mut command);
        let server = start(&mut command, &log)
            .map_err(|error| format!("{}: {error}", command.get_program().display()))?;
        Ok(Running { server, _behind: behind, host, key, log })
    }
}

impl Running {
    /// The end of what it said, for a message.
    pub fn said(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().rev().take(12).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Programs {
    fn script(&self, peer: &str, what: &str) -> PathBuf {
        self.project.join("benches/peers").join(peer).join(what)
    }

    fn beside(&self, program: &str, port: u16, dir: &Path, words: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.arg(port.to_string()).arg(dir).args(words);
        command
    }

    fn nginx(&self, dir: &Path, host: &str, location: &str) -> Result<Command, Failed> {
        self.nginx_with(dir, host, "", &location.replace("DIR", &dir.display().to_string()))
    }

    /// nginx with its settings as they come, but for paths, body sizes and connections that are kept.
    fn nginx_with(
        &self,
        dir: &Path,
        host: &str,
        up: &str,
        location: &str,
    ) -> Result<Command, Failed> {
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let at = dir.display();
        let config = format!(
            "daemon off; {user} pid {at}/pid; error_log {at}/error.log; worker_processes auto;\n\
             events {{ worker_connections 4096; }}\n\
             http {{ access_log {at}/access.log; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
             sendfile on; tcp_nopush on; keepalive_requests 10000000; {up}\n\
             server {{ listen {host}; client_max_body_size 0; {location} }} }}\n"
        );
        let file = dir.join("nginx.conf");
        File::create(&file)?.write_all(config.as_bytes())?;
        let mut command = Command::new(&self.nginx);
        command.arg("-c").arg(file);
        Ok(command)
    }
}

/// What is set for whoever runs this is not for what is measured.
fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"FILEGATE_") {
            command.env_remove(name);
        }
    }
}

fn start(command: &mut Command, log: &Path) -> Result<Server, Failed> {
    let log = File::options().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    Ok(Server::start(command)?)
}

/// A port that is free, and so is the next.
fn free_ports() -> Result<u16, Failed> {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0")?;
        let port = first.local_addr()?.port();
        let next = port.checked_add(1).map(|next| TcpListener::bind(("127.0.0.1", next)));
        if matches!(next, Some(Ok(_))) {
            return Ok(port);
        }
    }
    Err("no two free ports".into())
}
