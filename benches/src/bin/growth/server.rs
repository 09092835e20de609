//! filegate as a process, and what the kernel knows of it.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use filegate_benches::Failed;
use filegate_load::process::Server as Process;

use crate::work::Target;

/// The binary, and where it keeps everything.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) binary: PathBuf,
    pub(crate) data: PathBuf,
}

/// A running server. It is killed when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) target: Target,
}

/// What a server has used since its start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    pub(crate) cpu: Duration,
    /// Bytes that came from the disk.
    pub(crate) read: u64,
    /// Bytes of pages that it made dirty.
    pub(crate) written: u64,
}

impl Place {
    pub(crate) fn catalog(&self) -> PathBuf {
        self.data.join("catalog.db")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--data-dir").arg(&self.data).stdin(Stdio::null());
        filegate_testkit::server::clean_environment(&mut command);
        command
    }

    /// A new key of the large account.
    pub(crate) fn key(&self) -> Result<String, Failed> {
        let words = ["key", "create", "--name", "growth", "--account", "account-1"];
        let made = self.command(&words).output().map_err(|error| self.not_run(&error))?;
        if !made.status.success() {
            return Err(String::from_utf8_lossy(&made.stderr).into_owned().into());
        }
        Ok(String::from_utf8(made.stdout)?.trim().to_owned())
    }

    /// Starts it with these settings, given as environment variables, and waits until it says where it listens. Its
    /// log goes to a file beside the data directory.
    pub(crate) fn start(&self, key: &str, settings: &[(&str, &str)]) -> Result<Server, Failed> {
        let log = self.data.with_extension("log");
        let mut command = self.command(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(["--admin-listen", "127.0.0.1:0"]).envs(settings.iter().copied());
        command.stdout(Stdio::null()).stderr(File::create(&log)?);
        let mut process = Process::start(&mut command).map_err(|error| self.not_run(&error))?;
        let address = listens(&mut process, &log)?;
        Ok(Server { process, target: Target { address, key: key.to_owned() } })
    }

    fn not_run(&self, error: &std::io::Error) -> String {
        format!("{}: {error}; say where it is with --filegate", self.binary.display())
    }
}

impl Server {
    pub(crate) fn used(&self) -> Result<Used, Failed> {
        let io = fs::read_to_string(format!("/proc/{}/io", self.process.pid()))?;
        let field = |name: &str| {
            let value = io
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .ok_or("a part of /proc/PID/io")?;
            Ok::<u64, Failed>(value.trim().parse()?)
        };
        Ok(Used {
            cpu: self.process.cpu()?,
            read: field("read_bytes:")?,
            written: field("write_bytes:")?,
        })
    }
}

impl Used {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            read: self.read - before.read,
            written: self.written - before.written,
        }
    }
}

fn listens(process: &mut Process, log: &Path) -> Result<SocketAddr, Failed> {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(log)?;
        let address = text
            .split_once("listening on http://")
            .and_then(|(_, rest)| rest.split([' ', '\n']).next()?.parse().ok());
        if let Some(address) = address {
            return Ok(address);
        }
        if process.ended()?.is_some() || began.elapsed() > Duration::from_mins(2) {
            return Err(format!("filegate did not start:\n{text}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
