//! `filegate doctor`: names what is wrong with an installation, and what to do.

mod replicas;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use filegate_server::Stores;
use filegate_server::config::Config;
use filegate_store::{Catalog, Keeps};
use filegate_types::{ChannelState, Clock as _, SystemClock};
use serde_json::json;

use super::serve::ConfigArgs;
use crate::exit::{Exit, Failure};
use crate::printer::{Printer, Style};
use crate::text::size;

/// Free space below which the disk is as good as full.
const FREE_BYTES_MIN: u64 = 1 << 30;
/// Free inodes below which small files will soon be refused.
const FREE_INODES_MIN: u64 = 10_000;
/// Syncs slower than this at the median make every upload slow.
const SYNC_SLOW: Duration = Duration::from_millis(20);
/// Syncs that are timed.
const SYNCS: usize = 16;
/// SQLite before this could corrupt a WAL database under concurrent checkpoints.
const SQLITE_MIN: (u32, u32, u32) = (3, 51, 3);
/// 2026-01-01, before which this program did not exist.
const CLOCK_MIN_S: i64 = 1_767_225_600;
/// `f_type` of file systems that keep nothing, or that are on a network (linux/magic.h).
const TMPFS: i64 = 0x0102_1994;
const NETWORK_FS: [i64; 4] = [0x6969, 0x517B, 0xFF53_4D42, 0xFE53_4D42];

/// Look for what is wrong with an installation and say what to do
///
/// Checks the settings, the data directory (permissions, space, inodes, file system, how fast it syncs),
/// the catalog, the addresses, the limit of open files and the clocks; with PostgreSQL, S3 and Redis also
/// whether they answer, what they allow, and what should be set up there. Changes nothing but a test
/// file and a test object that it removes again.
#[derive(Debug, Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong (there may be warnings); 1 something is.")]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    config: ConfigArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Finding {
    verdict: Verdict,
    subject: &'static str,
    text: String,
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn ok(&mut self, subject: &'static str, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Ok, subject, text: text.into() });
    }

    fn warn(&mut self, subject: &'static str, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Warn, subject, text: text.into() });
    }

    fn fail(&mut self, subject: &'static str, text: impl Into<String>) {
        self.0.push(Finding { verdict: Verdict::Fail, subject, text: text.into() });
    }
}

pub(crate) fn run(args: &DoctorArgs, printer: &Printer) -> Result<Exit, Failure> {
    let mut found = Findings::default();
    match args.config.load() {
        Ok(config) => {
            found.ok("settings", "all are known and possible");
            check_url(&config, &mut found);
            let running = check_directory(&config, &mut found);
            for (subject, address) in
                [("listen", config.listen), ("admin_listen", config.admin_listen)]
            {
                check_address(subject, address, running, &mut found);
            }
            check_open_files(&config, &mut found);
            if config.keeps_here().rows {
                check_sqlite(&mut found);
            }
            super::server_runtime()?.block_on(check_services(&config, &mut found));
        }
        Err(failure) => found.fail("settings", failure.text().unwrap_or_default()),
    }
    check_clock(&mut found);
    print(&found, printer)
}

/// What is asked over sockets, and the catalog wherever it is.
async fn check_services(config: &Config, found: &mut Findings) {
    let there = replicas::check_database(config, found).await;
    // That an embedded store is not there yet was said.
    if there && Stores::refuse_absent(config).is_ok() {
        match Stores::open(config).await {
            Ok(stores) => {
                check_catalog(&stores.catalog, found).await;
                check_channels(config, &stores.catalog, found).await;
            }
            Err(error) => found.fail("catalog", format!("{:#}", anyhow::Error::from(error))),
        }
    }
    replicas::check_bucket(config, found).await;
    replicas::check_redis(config, found).await;
}

fn check_url(config: &Config, found: &mut Findings) {
    let url = config.public_url.as_str();
    if url.starts_with("https://") {
        found.ok("public_url", url);
    } else if url.is_empty() && config.listen.ip().is_loopback() {
        found.ok("public_url", "not set; links follow the Host of the request, fine on loopback");
    } else {
        found.warn(
            "public_url",
            "download links will be plain http, which some clients rewrite to https: set it to the \
             https address that clients use",
        );
    }
}

/// Says whether a server is running on the directory.
fn check_directory(config: &Config, found: &mut Findings) -> bool {
    let path = &config.data_dir;
    let Ok(meta) = fs::metadata(path) else {
        found.warn(
            "data_dir",
            format!("{} is not there; the first `filegate serve` makes it", path.display()),
        );
        return false;
    };
    let mode = meta.permissions().mode() & 0o777;
    let for_others = mode & 0o077;
    if for_others == 0 {
        found.ok("data_dir", format!("{} (mode {mode:o})", path.display()));
    } else {
        let text = format!("others can look into it (mode {mode:o}): chmod 700 {}", path.display());
        found.warn("data_dir", text);
    }
    check_space(path, config.keeps_here(), found);
    if config.keeps_here().any() {
        check_sync(path, found);
    }
    check_lock(path, found)
}

fn check_space(path: &Path, keeps: Keeps, found: &mut Findings) {
    let (Ok(space), Ok(kind)) = (rustix::fs::statvfs(path), rustix::fs::statfs(path)) else {
        found.fail("disk", "cannot be looked at: check the permissions of the data directory");
        return;
    };
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let text = format!("{} free", size(free));
    if free < FREE_BYTES_MIN {
        let why = format!("{text}; uploads are answered 1013 when it is full: free some space");
        found.warn("disk", why);
    } else {
        found.ok("disk", text);
    }
    // Some file systems have no fixed number of inodes and say 0 of 0.
    if space.f_files > 0 && space.f_favail < FREE_INODES_MIN {
        let text = format!("only {} are free, each file needs one", space.f_favail);
        found.warn("inodes", text);
    }
    let kind = kind.f_type;
    if !keeps.any() {
        // Only what is being received lies here; memory will do, if there is enough of it.
        found.ok("file system", format!("type {kind:#x}, for what is being received"));
    } else if kind == TMPFS {
        found.fail("file system", "tmpfs keeps nothing over a restart: put data_dir on a disk");
    } else if keeps.rows && NETWORK_FS.contains(&kind) {
        found.warn(
            "file system",
            "it is on the network, where SQLite's locks cannot be trusted: use a local disk",
        );
    } else {
        found.ok("file system", format!("local (type {kind:#x})"));
    }
}

fn check_sync(path: &Path, found: &mut Findings) {
    let probe = path.join(format!("doctor-{}", std::process::id()));
    let measured = (|| -> std::io::Result<Vec<Duration>> {
        let mut file = OpenOptions::new().create_new(true).write(true).open(&probe)?;
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let started = Instant::now();
            file.write_all(&[0; 4096])?;
            file.sync_data()?;
            times.push(started.elapsed());
        }
        times.sort_unstable();
        Ok(times)
    })();
    let _absent_if_never_made = fs::remove_file(&probe);
    match measured {
        Ok(times) => {
            let (median, worst) = (times[SYNCS / 2], times[SYNCS - 1]);
            let text = format!("fdatasync takes {median:.1?} at the median, {worst:.1?} at worst");
            if median > SYNC_SLOW {
                found
                    .warn("sync", format!("{text}; every upload waits for one: use a faster disk"));
            } else {
                found.ok("sync", text);
            }
        }
        Err(error) => found.fail("sync", format!("cannot write to the data directory: {error}")),
    }
}

/// Looks without taking the lock for longer than the look.
fn check_lock(path: &Path, found: &mut Findings) -> bool {
    let Ok(file) = File::open(path.join("lock")) else {
        found.ok("server", "none is running on this directory");
        return false;
    };
    let free = rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockShared).is_ok();
    let text = if free { "none is running on this directory" } else { "one is running here" };
    found.ok("server", text);
    !free
}

fn check_address(subject: &'static str, address: SocketAddr, running: bool, found: &mut Findings) {
    match TcpListener::bind(address) {
        Ok(_) => found.ok(subject, format!("{address} is free")),
        Err(_) if running => found.ok(subject, format!("{address} is taken, a server is running")),
        Err(error) => {
            found.fail(subject, format!("cannot listen on {address}: {error}; choose another"));
        }
    }
    if subject == "admin_listen" && !address.ip().is_loopback() {
        let text = format!("{address} is not loopback: make sure only operators reach it");
        found.warn(subject, text);
    }
}

fn check_open_files(config: &Config, found: &mut Findings) {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let have = limit.current.unwrap_or(u64::MAX);
    // A connection each on two listeners, a file for each upload, and some of our own.
    let want = (config.limits.connections_max * 2 + config.limits.uploads_max + 100) as u64;
    if have >= want {
        found.ok("open files", format!("{have} are allowed, {want} can be needed"));
    } else {
        let text = format!(
            "{have} are allowed, {want} can be needed: raise LimitNOFILE (ulimit -n) or lower \
             limits.connections_max"
        );
        found.warn("open files", text);
    }
}

fn check_sqlite(found: &mut Findings) {
    let linked = Catalog::sqlite_version();
    let mut parts = linked.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if version < SQLITE_MIN {
        found.fail(
            "sqlite",
            format!("{linked} has a bug that corrupts: build with 3.51.3 or later"),
        );
    } else {
        found.ok("sqlite", linked);
    }
}

/// Whether the keys of channels open. Whether upstream knows them is asked by `channel test`.
async fn check_channels(config: &Config, catalog: &Catalog, found: &mut Findings) {
    // That the catalog cannot be read was said.
    let Ok(channels) = catalog.channels().await else { return };
    let live = channels.iter().filter(|channel| channel.state != ChannelState::Removed).count();
    let unusable = filegate_server::unusable_keys(config, &channels);
    if unusable.is_empty() && live > 0 {
        found.ok("channels", format!("{live}, the keys of all can be opened"));
    }
    for why in unusable {
        found.fail("channels", why);
    }
}

async fn check_catalog(catalog: &Catalog, found: &mut Findings) {
    match (catalog.integrity().await, catalog.counts().await) {
        (Ok(verdict), Ok(counts)) if verdict == "ok" => {
            let text = format!(
                "sound: {} files, {}, {} jobs waiting",
                counts.files,
                size(counts.bytes),
                counts.jobs
            );
            found.ok("catalog", text);
        }
        (Ok(verdict), Ok(_)) => {
            found.fail("catalog", format!("{verdict}: restore it from a backup"));
        }
        (Err(error), _) | (_, Err(error)) => {
            found.fail("catalog", format!("{:#}", anyhow::Error::from(error)));
        }
    }
}

fn check_clock(found: &mut Findings) {
    let now = SystemClock.now().seconds();
    if now < CLOCK_MIN_S {
        found.fail("clock", "it stands before 2026: set it, ids and expiry depend on it");
    } else {
        found.ok("clock", crate::text::time(now));
    }
}

fn print(found: &Findings, printer: &Printer) -> Result<Exit, Failure> {
    let word = |verdict| match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "warn",
        Verdict::Fail => "FAIL",
    };
    for finding in &found.0 {
        if printer.style() == Style::Json {
            printer.json(&json!({
                "verdict": word(finding.verdict).to_lowercase(),
                "subject": finding.subject, "text": finding.text,
            }))?;
        } else {
            let Finding { verdict, subject, text } = finding;
            printer.result(&format!("{:<5} {subject:<13} {text}", word(*verdict)))?;
        }
    }
    let failed = found.0.iter().any(|finding| finding.verdict == Verdict::Fail);
    Ok(if failed { Exit::Refused } else { Exit::Ok })
}
