//! A small TCP load balancer: each connection goes to the next backend that can be connected to.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::server::eventually;

/// How long connecting to a backend may take before the next is tried.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// A balancer on a port of its own, on a thread of its own. Ends with all its connections when dropped.
#[derive(Debug)]
pub struct Balancer {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    runtime: Option<Runtime>,
}

#[derive(Debug, Default)]
struct State {
    backends: Vec<String>,
    /// Where the search for the next connection's backend begins.
    turn: usize,
    /// The backend of each connection that is open.
    open: Vec<String>,
    served: u64,
    failed: u64,
}

impl Balancer {
    /// Over `backends` (`host:port`).
    pub fn start(backends: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("balancer")
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.set_nonblocking(true).expect("a socket of ours");
            let _inside = runtime.enter();
            TcpListener::from_std(listener).expect("a socket of ours")
        };
        let address = listener.local_addr().expect("a bound socket has an address");
        let backends = backends.iter().map(|&backend| backend.to_owned()).collect();
        let shared = Arc::new(Mutex::new(State { backends, ..State::default() }));
        runtime.spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, runtime: Some(runtime) }
    }

    /// Where it listens: `host:port`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Gives new connections to this backend, too.
    pub fn add(&self, backend: &str) {
        let mut state = lock(&self.shared);
        if !state.backends.iter().any(|known| known == backend) {
            state.backends.push(backend.to_owned());
        }
    }

    /// Gives this backend no new connection. Those that it has live on.
    pub fn remove(&self, backend: &str) {
        lock(&self.shared).backends.retain(|known| known != backend);
    }

    /// [`remove`](Self::remove)s it and waits until its last connection has ended.
    pub fn drain(&self, backend: &str) {
        self.remove(backend);
        eventually("the backend has no connection", || (self.open(backend) == 0).then_some(()));
    }

    /// Connections that a backend has through this balancer.
    pub fn open(&self, backend: &str) -> usize {
        lock(&self.shared).open.iter().filter(|of| *of == backend).count()
    }

    /// Connections that a backend took.
    pub fn served(&self) -> u64 {
        lock(&self.shared).served
    }

    /// Connections for which there was no backend: they were reset.
    pub fn failed(&self) -> u64 {
        lock(&self.shared).failed
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().expect("no holder panics")
}

async fn accept(listener: TcpListener, shared: Arc<Mutex<State>>) {
    loop {
        // What fails here is a client that has gone again.
        let Ok((client, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        tokio::runtime::Handle::current().spawn(async move { serve(client, &shared).await });
    }
}

async fn serve(mut client: TcpStream, shared: &Mutex<State>) {
    let Some((backend, mut server)) = connect(shared).await else {
        lock(shared).failed += 1;
        let _gone_already = client.set_zero_linger();
        return;
    };
    let _slower_without = (client.set_nodelay(true), server.set_nodelay(true));
    let ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    if ended.is_err() {
        // What one side did not get whole must not look to the other as if it had ended well.
        let _gone_already = (client.set_zero_linger(), server.set_zero_linger());
    }
    let mut state = lock(shared);
    let at = state.open.iter().position(|of| *of == backend).expect("it was counted in");
    state.open.swap_remove(at);
}

/// A connection to the first backend from whose turn it is that takes one; counted as open before it is tried, so
/// that a backend without connections has none on its way either.
async fn connect(shared: &Mutex<State>) -> Option<(String, TcpStream)> {
    let mut refused = Vec::new();
    loop {
        let backend = {
            let mut state = lock(shared);
            let backend = state.next(&refused)?;
            state.open.push(backend.clone());
            backend
        };
        let connected = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(&backend)).await;
        let mut state = lock(shared);
        if let Ok(Ok(server)) = connected {
            state.served += 1;
            return Some((backend, server));
        }
        let at = state.open.iter().position(|of| *of == backend).expect("it was counted in");
        state.open.swap_remove(at);
        refused.push(backend);
    }
}

impl State {
    /// The backend whose turn it is, of those that have not refused already.
    fn next(&mut self, refused: &[String]) -> Option<String> {
        let count = self.backends.len();
        let turns = (0..count).map(|step| (self.turn + step) % count);
        let at = turns.into_iter().find(|at| !refused.contains(&self.backends[*at]))?;
        self.turn = (at + 1) % count;
        Some(self.backends[at].clone())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read as _, Write as _};
    use std::net;
    use std::thread;

    use super::*;

    /// A server that says a letter to each connection, then sends back what it gets.
    fn named(letter: u8) -> String {
        let listener = net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let mut from = stream.try_clone().unwrap();
                    let said = stream.write_all(&[letter]);
                    let _ended = said.and_then(|()| std::io::copy(&mut from, &mut stream));
                    let _gone = stream.shutdown(net::Shutdown::Both);
                });
            }
        });
        address
    }

    fn nobody() -> String {
        net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    /// A connection, and the letter of who took it.
    fn connect(balancer: &Balancer) -> (net::TcpStream, u8) {
        let mut stream = net::TcpStream::connect(balancer.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut letter = [0; 1];
        stream.read_exact(&mut letter).unwrap();
        (stream, letter[0])
    }

    #[test]
    fn connections_go_round() {
        let (a, b, c) = (named(b'a'), named(b'b'), named(b'c'));
        let balancer = Balancer::start(&[&a, &b, &c]);
        let mut count = BTreeMap::new();
        for _ in 0..9 {
            *count.entry(connect(&balancer).1).or_insert(0) += 1;
        }
        assert_eq!(count, BTreeMap::from([(b'a', 3), (b'b', 3), (b'c', 3)]));
        assert_eq!((balancer.served(), balancer.failed()), (9, 0));
    }

    #[test]
    fn a_backend_that_refuses_is_passed_over() {
        let a = named(b'a');
        let balancer = Balancer::start(&[&nobody(), &a, &nobody()]);
        for _ in 0..6 {
            assert_eq!(connect(&balancer).1, b'a');
        }
        balancer.remove(&a);
        let mut stream = net::TcpStream::connect(balancer.address()).unwrap();
        assert!(stream.read(&mut [0; 1]).is_err(), "it is reset");
        assert_eq!(balancer.failed(), 1);
    }

    #[test]
    fn connections_of_a_removed_backend_live_on() {
        let (a, b) = (named(b'a'), named(b'b'));
        let balancer = Balancer::start(&[&a]);
        let (mut old, letter) = connect(&balancer);
        assert_eq!(letter, b'a');
        balancer.add(&b);
        balancer.add(&b);
        balancer.remove(&a);
        for _ in 0..4 {
            assert_eq!(connect(&balancer).1, b'b');
        }
        assert_eq!(balancer.open(&a), 1);
        old.write_all(b"?").unwrap();
        let mut back = [0; 1];
        old.read_exact(&mut back).unwrap();
        assert_eq!(&back, b"?");
        drop(old);
        balancer.drain(&a);
        balancer.add(&a);
        let letters: Vec<u8> = (0..2).map(|_| connect(&balancer).1).collect();
        assert!(letters.contains(&b'a') && letters.contains(&b'b'));
    }

    #[test]
    fn a_backend_that_dies_resets_its_clients() {
        let proxy = crate::proxy::Proxy::start(&named(b'a'), 1);
        let balancer = Balancer::start(&[&proxy.address()]);
        let (mut stream, _) = connect(&balancer);
        proxy.drop_all();
        assert!(stream.read(&mut [0; 1]).is_err(), "not an end that looks like a good one");
    }
}
