//! What the relay costs, beside nginx as a plain proxy and beside no proxy at all.
//!
//! ```sh
//! cargo bench -p filegate --bench relay
//! cargo bench -p filegate --bench relay -- --rounds 5 --seconds 3 --nginx /usr/sbin/nginx
//! cargo bench -p filegate --bench relay -- --only "1 KB"
//! ```
//!
//! One small upstream of this program's own answers all three. They take turns within each round, so that a machine
//! that slows down slows all of them; medians of the rounds are printed. nginx has `proxy_buffering` and
//! `proxy_request_buffering` off and keeps connections to the upstream, as the relay does; both write their log of
//! requests to a file. Processor time and memory are of all processes of each.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filegate_load::process::{Server, end_with_this_program};
use filegate_load::{CallError, Next, Plan, Reply, Work, run};
use filegate_testkit::http::Request;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Bytes of a large body.
const LARGE: usize = 20_000_000;
/// Bytes of a small one.
const SMALL: usize = 1_000;
/// Relays at once whose memory is looked at.
const MANY: u16 = 256;

/// What is measured: a name, bytes up, bytes down, connections.
const CELLS: [(&str, usize, usize, u16); 6] = [
    ("20 MB up, 1 connection", LARGE, 2, 1),
    ("20 MB up, 8 connections", LARGE, 2, 8),
    ("20 MB down, 1 connection", 0, LARGE, 1),
    ("20 MB down, 8 connections", 0, LARGE, 8),
    ("1 KB there and back, 1 connection", SMALL, SMALL, 1),
    ("1 KB there and back, 32 connections", SMALL, SMALL, 32),
];

struct Arguments {
    rounds: usize,
    seconds: f64,
    nginx: String,
    /// What the names of the cells that are measured hold; of all, memory is looked at too.
    only: String,
}

/// Somewhere to send requests to.
struct Side {
    name: &'static str,
    address: SocketAddr,
    /// The key that its callers have.
    key: String,
    /// Who listens there, if that is a program of its own. Killed when dropped, so that an error leaves nobody behind.
    server: Option<Server>,
}

/// What a turn showed.
#[derive(Clone, Copy, Default)]
struct Turn {
    calls: u64,
    /// Of all calls together, a second.
    bytes_s: f64,
    p50_us: f64,
    p99_us: f64,
    /// Milliseconds of processor time for a call.
    cpu_ms: f64,
}

fn main() -> Result<(), Failed> {
    let arguments = arguments()?;
    end_with_this_program()?;
    let upstream = Runtime::new()?;
    let address = upstream.block_on(serve())?;
    let home = tempfile::tempdir()?;
    let sides = [
        Side { name: "direct", address, key: String::new(), server: None },
        start_nginx(&arguments.nginx, home.path(), address)?,
        start_filegate(home.path(), address)?,
    ];
    say("| | direct | nginx | filegate | filegate to nginx |\n|---|---|---|---|---|");
    let cells = CELLS.into_iter().filter(|(name, ..)| name.contains(&arguments.only));
    for (name, up, down, connections) in cells {
        let mut turns = BTreeMap::<&str, Vec<Turn>>::new();
        for round in 0..=arguments.rounds {
            for side in &sides {
                let turn = turn(side, up, down, connections, arguments.seconds)?;
                // The first round only warms up.
                if round > 0 {
                    turns.entry(side.name).or_default().push(turn);
                }
            }
        }
        let median = |side: &str| median(&turns[side]);
        print_cell(
            name,
            up.max(down) == LARGE,
            median("direct"),
            median("nginx"),
            median("filegate"),
        );
    }
    say("");
    let most = |side: &Side| -> Result<String, Failed> {
        let bytes = side.server.as_ref().map_or(Ok(0), Server::memory_peak)?;
        Ok(format!("most memory {} MiB", bytes >> 20))
    };
    for side in &sides[1..] {
        say(&format!("{}: so far {}", side.name, most(side)?));
    }
    let many = [("up", LARGE, 2), ("down", 0, LARGE)];
    for (what, up, down) in many.into_iter().filter(|_| arguments.only.is_empty()) {
        for side in &sides[1..] {
            turn(side, up, down, MANY, 5.0)?;
            say(&format!("{}: {MANY} relays of 20 MB {what} at once: {}", side.name, most(side)?));
        }
    }
    for server in sides.into_iter().filter_map(|side| side.server) {
        server.stop()?;
    }
    Ok(())
}

fn print_cell(name: &str, large: bool, direct: Turn, nginx: Turn, filegate: Turn) {
    let show = |turn: Turn| {
        let cpu =
            if turn.cpu_ms > 0.0 { format!(", {:.3} ms CPU", turn.cpu_ms) } else { String::new() };
        let (p50, p99) = (turn.p50_us / 1e3, turn.p99_us / 1e3);
        if large {
            format!("{:.0} MB/s{cpu}", turn.bytes_s / 1e6)
        } else {
            format!("p50 {p50:.3}, p99 {p99:.3} ms{cpu}")
        }
    };
    let ratio = if large {
        format!("{:.2} of the throughput", filegate.bytes_s / nginx.bytes_s)
    } else {
        let added = |turn: Turn| turn.p50_us - direct.p50_us;
        format!("{:.2} times the added p50", added(filegate) / added(nginx))
    };
    say(&format!("| {name} | {} | {} | {} | {ratio} |", show(direct), show(nginx), show(filegate)));
}

#[expect(clippy::print_stdout, reason = "what a bench is for")]
fn say(line: &str) {
    println!("{line}");
}

/// The median of each figure.
fn median(turns: &[Turn]) -> Turn {
    let of = |figure: fn(&Turn) -> f64| {
        let mut all: Vec<f64> = turns.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Turn {
        calls: turns.iter().map(|turn| turn.calls).sum(),
        bytes_s: of(|turn| turn.bytes_s),
        p50_us: of(|turn| turn.p50_us),
        p99_us: of(|turn| turn.p99_us),
        cpu_ms: of(|turn| turn.cpu_ms),
    }
}

/// Calls on so many connections, each begun within `seconds`.
fn turn(
    side: &Side,
    up: usize,
    down: usize,
    connections: u16,
    seconds: f64,
) -> Result<Turn, Failed> {
    let processor = || side.server.as_ref().map_or(Ok(Duration::ZERO), Server::cpu);
    let call = Call { request: request(&side.key, up, down).into(), moves: up + down, down };
    let before = processor()?;
    let span = Duration::from_secs_f64(seconds);
    let outcome = run(&Plan::new(side.address.to_string(), connections, span), &call)?;
    let cpu = processor()?.saturating_sub(before);
    if let Some(error) = &outcome.first_error {
        return Err(format!("{}: {error}", side.name).into());
    }
    if let Some(doubt) = outcome.doubt() {
        say(&format!("WARNING, {}: {doubt}", side.name));
    }
    Ok(Turn {
        calls: outcome.done,
        bytes_s: outcome.megabytes_per_second() * 1e6,
        p50_us: outcome.percentile_ms(50.0) * 1e3,
        p99_us: outcome.percentile_ms(99.0) * 1e3,
        cpu_ms: cpu.as_secs_f64() * 1e3 / outcome.done as f64,
    })
}

/// A request that is answered with so many bytes.
struct Call {
    request: Bytes,
    moves: usize,
    down: usize,
}

impl Work for Call {
    type Yield = ();

    fn request(&self, _nth: u64) -> filegate_load::Request {
        filegate_load::Request::whole(self.request.clone())
    }

    fn judge(&self, _nth: u64, _step: u32, reply: &Reply<'_>) -> Result<Next<()>, CallError> {
        reply.expect_status(200)?;
        if reply.body_bytes == self.down as u64 {
            return Ok(Next::Done(()));
        }
        Err(CallError::Broken(format!("{} bytes and not {}", reply.body_bytes, self.down)))
    }

    fn moves(&self) -> u64 {
        self.moves as u64
    }
}

/// A whole request. Its type is one whose body the relay does not read, and its path says in hex how much is to come
/// back: six digits in a row would be the id of a task.
fn request(key: &str, up: usize, down: usize) -> Vec<u8> {
    let method = if up == 0 { "GET" } else { "POST" };
    let mut request = format!(
        "{method} /v1/bench/x{down:x} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {up}\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + up, b'x');
    request
}

/// Reads a head; gives how much of the body came with it, and its length.
async fn head(
    read: &mut (impl tokio::io::AsyncRead + Unpin),
    buffer: &mut [u8],
) -> io::Result<(usize, usize)> {
    let mut filled = 0;
    loop {
        let n = read.read(&mut buffer[filled..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        filled += n;
        let Some(end) = buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") else {
            continue;
        };
        let text = String::from_utf8_lossy(&buffer[..end]).to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(Ok(0), |length| length.trim().parse());
        return Ok((filled - end - 4, length.map_err(io::Error::other)?));
    }
}

/// The upstream: reads what comes, and answers as many bytes as the path says.
#[expect(clippy::disallowed_methods, reason = "a program that measures has no task tracker")]
async fn serve() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream));
        }
    });
    Ok(address)
}

/// What is answered. One for all connections: to fill one for each would be measured as time of whoever opens it.
static BODY: LazyLock<Vec<u8>> = LazyLock::new(|| vec![b'y'; LARGE]);

async fn talk(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 256 << 10];
    let body = &*BODY;
    loop {
        let (mut have, length) = head(&mut stream, &mut buffer).await?;
        let line = String::from_utf8_lossy(&buffer[..64]).into_owned();
        let down = line.split(' ').nth(1).and_then(|path| path.rsplit('/').next());
        let down = down.and_then(|down| usize::from_str_radix(down.strip_prefix('x')?, 16).ok());
        let down = down.unwrap_or(0).min(LARGE);
        while have < length {
            match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                n => have += n,
            }
        }
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: {down}\r\n\r\n"
        );
        if down <= SMALL {
            stream.write_all(&[head.as_bytes(), &body[..down]].concat()).await?;
        } else {
            stream.write_all(head.as_bytes()).await?;
            stream.write_all(&body[..down]).await?;
        }
    }
}

/// Its workers end with it: they are of one group.
fn start_nginx(binary: &str, home: &Path, upstream: SocketAddr) -> Result<Side, Failed> {
    let free = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = free.local_addr()?;
    drop(free);
    let home = home.join("nginx");
    fs::create_dir(&home)?;
    let dir = home.display();
    let config = format!(
        "daemon off; pid {dir}/pid; error_log {dir}/error.log; worker_processes auto;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n access_log {dir}/access.log; client_body_temp_path {dir}/body;\n\
         proxy_temp_path {dir}/proxy; fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u;\n\
         scgi_temp_path {dir}/s; keepalive_requests 10000000;\n\
         upstream up {{ server {upstream}; keepalive 64; keepalive_requests 10000000; }}\n\
         server {{ listen {address}; client_max_body_size 0; tcp_nodelay on;\n\
         location / {{ proxy_pass http://up; proxy_http_version 1.1;\n\
         proxy_set_header Connection \"\"; proxy_buffering off; proxy_request_buffering off; }} }} }}\n"
    );
    let file = home.join("nginx.conf");
    fs::File::create(&file)?.write_all(config.as_bytes())?;
    let mut command = Command::new(binary);
    command.arg("-c").arg(&file).stdin(Stdio::null()).stderr(Stdio::null());
    let server = Server::start(&mut command)
        .map_err(|error| format!("{binary}: {error}; say where nginx is with --nginx"))?;
    wait_for(address)?;
    Ok(Side { name: "nginx", address, key: String::new(), server: Some(server) })
}

fn start_filegate(home: &Path, upstream: SocketAddr) -> Result<Side, Failed> {
    let binary = env!("CARGO_BIN_EXE_filegate");
    let data = home.join("filegate");
    let log = home.join("filegate.log");
    let mut command = Command::new(binary);
    command
        .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .arg("--data-dir")
        .arg(&data)
        .stdin(Stdio::null())
        .stderr(File::create(&log)?);
    let server = Server::start(&mut command)?;
    let began = Instant::now();
    let (text, address) = loop {
        let text = fs::read_to_string(&log)?;
        let address = text
            .split_once("listening on http://")
            .and_then(|(_, rest)| rest.split([' ', '\n']).next()?.parse::<SocketAddr>().ok());
        match address {
            Some(address) if text.contains("make an API key") => break (text, address),
            _ if began.elapsed() > Duration::from_secs(30) => {
                return Err("filegate did not start".into());
            }
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let after = |word: &str, ends: &[char]| {
        let rest = text.split_once(word).map(|(_, rest)| rest).unwrap_or_default();
        rest.split(ends).next().unwrap_or_default().to_owned()
    };
    let admin = after("operators: http://", &[')', ' ']);
    let token = after("shown only this once: ", &['\n']);
    let made = Command::new(binary)
        .args(["key", "create", "--name", "bench", "--data-dir"])
        .arg(&data)
        .output()?;
    let key = String::from_utf8(made.stdout)?.trim().to_owned();
    let channel = format!(
        r#"{{"name":"bench","base_url":"http://{upstream}","key":"upstream-key","settings":{{}}}}"#
    );
    let add = Request::new(&admin, "POST", "/admin/v1/channels").bearer(&token);
    let added = add.header("Content-Type", "application/json").body(channel).try_send()?;
    if added.status != 200 {
        return Err(format!("adding the channel was answered {}", added.text()).into());
    }
    Ok(Side { name: "filegate", address, key, server: Some(server) })
}

fn wait_for(address: SocketAddr) -> Result<(), Failed> {
    for _ in 0..200 {
        if std::net::TcpStream::connect(address).is_ok() {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Err("nobody listens".into())
}

fn arguments() -> Result<Arguments, Failed> {
    let mut arguments =
        Arguments { rounds: 3, seconds: 2.0, nginx: "nginx".to_owned(), only: String::new() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--rounds" => arguments.rounds = value()?.parse::<usize>()?.max(1),
            "--seconds" => arguments.seconds = value()?.parse()?,
            "--nginx" => arguments.nginx = value()?,
            "--only" => arguments.only = value()?,
            // What cargo itself adds.
            "--bench" => {}
            other => return Err(format!("{other} is no argument of this benchmark").into()),
        }
    }
    Ok(arguments)
}
