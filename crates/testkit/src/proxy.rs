//! A TCP proxy that misbehaves on demand, put before PostgreSQL, Redis, an S3 store or a server.
//!
//! What it does is one value, [`Faults`], which can be replaced at any time. Delay, throttle and stall apply at once to every
//! connection; what is to become of a connection otherwise is settled when it is accepted.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::random::Random;

/// Read and written at a time.
const PIECE: usize = 16 << 10;

/// How long a proxy may take to do as it is told.
const OBEY_MAX: Duration = Duration::from_secs(10);

/// How long a request that is answered in place of the server may take to arrive.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What a proxy does to connections. The default forwards everything as it comes.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Nobody listens: connecting is refused.
    pub refuse: bool,
    /// Connections are accepted, and nothing is forwarded either way until this ends.
    pub stall: bool,
    /// Each piece arrives so much later.
    pub delay: Duration,
    /// Each direction of each connection carries so much in a second.
    pub bytes_per_second: Option<u32>,
    /// New connections are reset when so many bytes have gone from the client to the server.
    pub reset_after_sent: Option<u64>,
    /// New connections are reset when so many bytes have gone from the server to the client.
    pub reset_after_received: Option<u64>,
    /// Resets at random.
    pub resets: Option<Resets>,
    /// Answers given in place of the server.
    pub answers: Option<Answers>,
}

/// Which new connections are reset at random, and where.
#[derive(Debug, Clone, Copy)]
pub struct Resets {
    /// So many of a thousand connections.
    pub per_mille: u32,
    /// After 1 to so many bytes, in either direction.
    pub within: u64,
}

/// Which new connections are answered in place of the server.
#[derive(Debug, Clone)]
pub struct Answers {
    /// So many of a thousand connections.
    pub per_mille: u32,
    /// What they are told; then they are closed.
    pub bytes: Vec<u8>,
}

impl Answers {
    /// What an S3 store says that is asked too much.
    pub fn slow_down(per_mille: u32) -> Self {
        let body = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>";
        let length = body.len();
        let head = "HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close";
        let bytes = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes();
        Self { per_mille, bytes }
    }
}

/// A proxy on a port of its own, on a thread of its own. Ends with all its connections when dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// Keeps the port while nobody listens on it.
    _port: TcpSocket,
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct Shared {
    faults: watch::Sender<Faults>,
    /// Connections numbered below this are to end.
    cut: watch::Sender<u64>,
    target: Mutex<String>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    random: Random,
    listening: bool,
    /// The number of the next connection.
    next: u64,
    open: BTreeSet<u64>,
    reset: u64,
    answered: u64,
}

/// What will become of a connection.
#[derive(Debug, Default)]
struct Fate {
    reset_after_sent: Option<u64>,
    reset_after_received: Option<u64>,
    answer: Option<Vec<u8>>,
}

impl Proxy {
    /// Before `target` (`host:port`); whatever is random is decided by `seed`.
    pub fn start(target: &str, seed: u64) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("proxy")
            .enable_all()
            .build()
            .expect("a runtime");
        let _inside = runtime.enter();
        let port = socket_on(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port");
        let address = port.local_addr().expect("a bound socket has an address");
        let shared = Arc::new(Shared {
            faults: watch::Sender::new(Faults::default()),
            cut: watch::Sender::new(0),
            target: Mutex::new(target.to_owned()),
            state: Mutex::new(State {
                random: Random::new(seed),
                listening: false,
                next: 0,
                open: BTreeSet::new(),
                reset: 0,
                answered: 0,
            }),
            changed: Condvar::new(),
        });
        runtime.spawn(listen(address, Arc::clone(&shared)));
        shared.wait(|state| state.listening);
        Self { address, shared, _port: port, runtime: Some(runtime) }
    }

    /// Where it listens: `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// From now on does this. Returns when it is so.
    pub fn set(&self, faults: Faults) {
        let refuse = faults.refuse;
        self.shared.faults.send_replace(faults);
        self.shared.wait(|state| state.listening != refuse);
    }

    /// Forwards everything as it comes.
    pub fn pass(&self) {
        self.set(Faults::default());
    }

    /// Refuses new connections and forwards those that there are.
    pub fn refuse(&self) {
        self.set(Faults { refuse: true, ..Faults::default() });
    }

    /// Accepts and forwards nothing.
    pub fn stall(&self) {
        self.set(Faults { stall: true, ..Faults::default() });
    }

    /// Resets every connection that there is. Returns when they are gone.
    pub fn drop_all(&self) {
        let next = self.shared.state().next;
        self.shared.cut.send_modify(|cut| *cut = next.max(*cut));
        self.shared.wait(|state| state.open.first().is_none_or(|oldest| *oldest >= next));
    }

    /// As if the other side were gone: refuses new connections, and resets those that there are.
    pub fn away(&self) {
        self.refuse();
        self.drop_all();
    }

    /// New connections go there: a server that was started again is on another port.
    pub fn retarget(&self, target: &str) {
        target.clone_into(&mut self.shared.target.lock().expect("no holder panics"));
    }

    /// Connections that are open.
    pub fn open(&self) -> usize {
        self.shared.state().open.len()
    }

    /// Connections that were accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.state().next
    }

    /// Connections that did not end well: reset by [`drop_all`](Self::drop_all), by a fault, or by either side.
    pub fn reset(&self) -> u64 {
        self.shared.state().reset
    }

    /// Connections that were answered in place of the server.
    pub fn answered(&self) -> u64 {
        self.shared.state().answered
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn update(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    fn wait(&self, reached: impl Fn(&State) -> bool) {
        let waited =
            self.changed.wait_timeout_while(self.state(), OBEY_MAX, |state| !reached(state));
        let timed_out = waited.expect("no holder panics").1.timed_out();
        assert!(!timed_out, "the proxy does not do as it is told");
    }

    /// Counts a connection in and says what will become of it.
    fn accept(&self) -> (u64, Fate) {
        let faults = self.faults.borrow().clone();
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.open.insert(number);
        let mut fate = Fate {
            reset_after_sent: faults.reset_after_sent,
            reset_after_received: faults.reset_after_received,
            answer: None,
        };
        if let Some(resets) = faults.resets
            && state.random.chance(resets.per_mille)
        {
            let after = Some(1 + state.random.below(resets.within));
            if state.random.chance(500) {
                fate.reset_after_sent = after;
            } else {
                fate.reset_after_received = after;
            }
        }
        if let Some(answers) = faults.answers
            && state.random.chance(answers.per_mille)
        {
            fate.answer = Some(answers.bytes);
        }
        (number, fate)
    }
}

/// A socket on an address that others of this process may share, so that the port stays taken.
fn socket_on(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}

async fn until(faults: &mut watch::Receiver<Faults>, reached: impl FnMut(&Faults) -> bool) {
    // An error would mean that the proxy is gone, and with it this task.
    drop(faults.wait_for(reached).await);
}

/// Accepts for ever, except while it is to refuse.
async fn listen(address: SocketAddr, shared: Arc<Shared>) {
    let mut faults = shared.faults.subscribe();
    loop {
        until(&mut faults, |faults| !faults.refuse).await;
        let listener = socket_on(address).and_then(|socket| socket.listen(1024));
        let listener = listener.expect("the port is ours");
        shared.update(|state| state.listening = true);
        tokio::select! {
            () = accept(&listener, &shared) => {}
            () = until(&mut faults, |faults| faults.refuse) => {}
        }
        drop(listener);
        shared.update(|state| state.listening = false);
    }
}

async fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    loop {
        // What fails here is a client that has gone again.
        let Ok((client, _)) = listener.accept().await else { continue };
        let (number, fate) = shared.accept();
        let shared = Arc::clone(shared);
        tokio::runtime::Handle::current().spawn(async move {
            serve(client, number, fate, &shared).await;
            shared.update(|state| {
                state.open.remove(&number);
            });
        });
    }
}

async fn serve(mut client: TcpStream, number: u64, fate: Fate, shared: &Shared) {
    let mut cut = shared.cut.subscribe();
    if let Some(bytes) = fate.answer {
        shared.update(|state| state.answered += 1);
        tokio::select! {
            _late = tokio::time::timeout(ANSWER_MAX, answer(&mut client, &bytes)) => {}
            _cut = cut.wait_for(|cut| number < *cut) => {}
        }
        return;
    }
    let target = shared.target.lock().expect("no holder panics").clone();
    let Ok(mut server) = TcpStream::connect(target).await else {
        reset(&client);
        return;
    };
    let whole = tokio::select! {
        whole = forward(&mut client, &mut server, &fate, shared) => whole,
        _cut = cut.wait_for(|cut| number < *cut) => Err(io::ErrorKind::ConnectionReset.into()),
    };
    if whole.is_err() {
        reset(&client);
        reset(&server);
        shared.update(|state| state.reset += 1);
    }
}

/// Has the connection end with a reset when it is dropped.
fn reset(stream: &TcpStream) {
    let _gone_already = stream.set_zero_linger();
}

async fn forward(
    client: &mut TcpStream,
    server: &mut TcpStream,
    fate: &Fate,
    shared: &Shared,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        carry(from_client, to_server, fate.reset_after_sent, shared),
        carry(from_server, to_client, fate.reset_after_received, shared),
    )?;
    Ok(())
}

/// One direction, until its end or until it is to be reset.
async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    reset_after: Option<u64>,
    shared: &Shared,
) -> io::Result<()> {
    let mut faults = shared.faults.subscribe();
    let mut piece = vec![0; PIECE];
    let mut carried = 0;
    loop {
        let read = from.read(&mut piece).await?;
        until(&mut faults, |faults| !faults.stall).await;
        let (delay, rate) = {
            let faults = faults.borrow();
            (faults.delay, faults.bytes_per_second)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let left = reset_after.map_or(u64::MAX, |after| after.saturating_sub(carried));
        let read = read.min(usize::try_from(left).unwrap_or(usize::MAX));
        // In small pieces, so that what is slow comes steadily and not in lumps.
        let step = rate.map_or(PIECE, |rate| (rate as usize / 20).max(1));
        for part in piece[..read].chunks(step) {
            if let Some(rate) = rate {
                let time = part.len() as f64 / f64::from(rate.max(1));
                tokio::time::sleep(Duration::from_secs_f64(time)).await;
            }
            to.write_all(part).await?;
        }
        carried += read as u64;
        if reset_after.is_some_and(|after| carried >= after) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
    }
}

/// Reads the head of a request, answers, and lets the client read the answer while it is still writing.
async fn answer(client: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut seen = Vec::new();
    let mut piece = vec![0; PIECE];
    while !seen.windows(4).any(|w| w == b"\r\n\r\n") && seen.len() < PIECE {
        match client.read(&mut piece).await? {
            0 => break,
            read => seen.extend_from_slice(&piece[..read]),
        }
    }
    client.write_all(bytes).await?;
    client.shutdown().await?;
    while client.read(&mut piece).await? > 0 {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// A server that sends back what it gets, on a thread for each connection.
    fn echo() -> String {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut from = stream.try_clone().unwrap();
                    let _ended = io::copy(&mut from, &mut stream);
                    let _gone = stream.shutdown(net::Shutdown::Write);
                });
            }
        });
        address
    }

    fn connect(proxy: &Proxy) -> net::TcpStream {
        let stream = net::TcpStream::connect(proxy.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    /// Sends and reads back so many bytes; how many came.
    fn round(stream: &mut net::TcpStream, bytes: usize) -> io::Result<usize> {
        stream.write_all(&vec![b'x'; bytes])?;
        let mut got = 0;
        let mut piece = vec![0; 4096];
        while got < bytes {
            match stream.read(&mut piece)? {
                0 => break,
                n => got += n,
            }
        }
        Ok(got)
    }

    #[test]
    fn bytes_pass_both_ways_and_so_does_the_end() {
        let proxy = Proxy::start(&echo(), 1);
        let mut stream = connect(&proxy);
        assert_eq!(round(&mut stream, 100_000).unwrap(), 100_000);
        stream.shutdown(net::Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        crate::server::eventually("it is closed", || (proxy.open() == 0).then_some(()));
        assert_eq!((proxy.accepted(), proxy.reset()), (1, 0));
    }

    #[test]
    fn refused_connections_come_back_on_the_same_port() {
        let proxy = Proxy::start(&echo(), 1);
        let mut before = connect(&proxy);
        // What nobody has accepted yet is reset with the listener.
        assert_eq!(round(&mut before, 10).unwrap(), 10);
        for _ in 0..3 {
            proxy.refuse();
            let refused = net::TcpStream::connect(proxy.address()).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
            assert_eq!(round(&mut before, 10).unwrap(), 10);
            proxy.pass();
            assert_eq!(round(&mut connect(&proxy), 10).unwrap(), 10);
        }
    }

    #[test]
    fn all_connections_are_reset_at_once() {
        let proxy = Proxy::start(&echo(), 1);
        let mut streams: Vec<_> = (0..5).map(|_| connect(&proxy)).collect();
        for stream in &mut streams {
            assert_eq!(round(stream, 10).unwrap(), 10);
        }
        proxy.drop_all();
        assert_eq!((proxy.open(), proxy.reset()), (0, 5));
        for mut stream in streams {
            assert_eq!(
                stream.read(&mut [0; 1]).unwrap_err().kind(),
                io::ErrorKind::ConnectionReset
            );
        }
        assert_eq!(round(&mut connect(&proxy), 10).unwrap(), 10);
    }

    #[test]
    fn a_stalled_connection_goes_on_where_it_was() {
        let proxy = Proxy::start(&echo(), 1);
        let mut stream = connect(&proxy);
        assert_eq!(round(&mut stream, 10).unwrap(), 10);
        proxy.stall();
        stream.write_all(b"later").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let silent = stream.read(&mut [0; 5]).unwrap_err();
        assert!(matches!(silent.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut));
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        proxy.pass();
        let mut got = [0; 5];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"later");
    }

    #[test]
    fn delay_and_throttle_take_their_time() {
        let proxy = Proxy::start(&echo(), 1);
        proxy.set(Faults { delay: Duration::from_millis(100), ..Faults::default() });
        let mut stream = connect(&proxy);
        let started = Instant::now();
        assert_eq!(round(&mut stream, 10).unwrap(), 10);
        assert!(started.elapsed() >= Duration::from_millis(200));
        proxy.set(Faults { bytes_per_second: Some(20_000), ..Faults::default() });
        let started = Instant::now();
        assert_eq!(round(&mut stream, 10_000).unwrap(), 10_000);
        assert!(started.elapsed() >= Duration::from_millis(500));
    }

    #[test]
    fn a_connection_is_reset_after_so_many_bytes() {
        let proxy = Proxy::start(&echo(), 1);
        proxy.set(Faults { reset_after_received: Some(1000), ..Faults::default() });
        let mut stream = connect(&proxy);
        assert_eq!(round(&mut stream, 999).unwrap(), 999);
        // Of what is on the way when a reset comes, nothing may be read any more.
        let broken = round(&mut stream, 1000);
        assert!(broken.is_err(), "{broken:?}");
        proxy.set(Faults { reset_after_sent: Some(500), ..Faults::default() });
        let mut stream = connect(&proxy);
        assert_eq!(round(&mut stream, 499).unwrap(), 499);
        assert!(round(&mut stream, 1).is_err());
        assert_eq!(proxy.reset(), 2);
    }

    #[test]
    fn random_resets_are_the_same_for_the_same_seed() {
        let target = echo();
        let fates = |seed| -> Vec<bool> {
            let proxy = Proxy::start(&target, seed);
            let resets = Some(Resets { per_mille: 300, within: 100 });
            proxy.set(Faults { resets, ..Faults::default() });
            (0..40).map(|_| round(&mut connect(&proxy), 1000).is_ok_and(|n| n == 1000)).collect()
        };
        let first = fates(7);
        assert_eq!(first, fates(7));
        assert_ne!(first, fates(8));
        assert!(first.contains(&true) && first.contains(&false), "{first:?}");
    }

    #[test]
    fn some_requests_are_answered_in_place_of_the_server() {
        let proxy = Proxy::start(&echo(), 1);
        proxy.set(Faults { answers: Some(Answers::slow_down(1000)), ..Faults::default() });
        let request = crate::http::Request::new(&proxy.address(), "PUT", "/bucket/key");
        // More than fits on the way: the answer comes while it is still being written.
        let reply = request.body(vec![b'x'; 3 << 20]).send();
        assert_eq!(reply.status, 503);
        assert!(reply.text().contains("SlowDown"));
        assert_eq!(proxy.answered(), 1);
        proxy.pass();
        assert_eq!(round(&mut connect(&proxy), 10).unwrap(), 10);
    }

    #[test]
    fn a_server_that_is_not_there_resets_its_clients_until_another_is_named() {
        let nobody = net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let proxy = Proxy::start(&nobody.to_string(), 1);
        assert!(round(&mut connect(&proxy), 10).is_err());
        proxy.retarget(&echo());
        assert_eq!(round(&mut connect(&proxy), 10).unwrap(), 10);
    }
}
