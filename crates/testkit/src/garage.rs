//! Three nodes of Garage on loopback, each object on all three: the real distributed store.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::random::Random;

/// Nodes, and copies of each object.
const NODES: usize = 3;

/// The bucket that is made.
pub const BUCKET: &str = "filegate";

/// The word that it takes for a region.
const REGION: &str = "garage";

/// How long the cluster may take until it serves.
const START_MAX: Duration = Duration::from_mins(1);

/// The cluster. Killed when dropped.
#[derive(Debug)]
pub struct Garage {
    nodes: Vec<Node>,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    home: tempfile::TempDir,
}

#[derive(Debug)]
struct Node {
    config: PathBuf,
    s3_port: u16,
    child: Option<Child>,
}

impl Garage {
    /// Starts the nodes, makes a key and the bucket, and waits until every node takes an object.
    ///
    /// # Panics
    /// If the program `garage` is not there; `./test --cluster` installs it.
    pub fn start() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut random = Random::new(u64::from(std::process::id()));
        let mut hex = |digits: usize| -> String {
            let digit = || char::from(b"0123456789abcdef"[random.below(16) as usize]);
            std::iter::repeat_with(digit).take(digits).collect()
        };
        let secret = hex(64);
        let (access_key, secret_key) = (format!("GK{}", hex(24)), hex(64));
        let nodes = (0..NODES).map(|_| Node::prepare(home.path(), &secret)).collect();
        let mut garage = Self { nodes, access_key, secret_key, home };
        for at in 0..NODES {
            garage.start_node(at);
        }
        garage.lay_out();
        garage.run(&[
            "key",
            "import",
            "--yes",
            "-n",
            "test",
            &garage.access_key,
            &garage.secret_key,
        ]);
        garage.run(&["bucket", "create", BUCKET]);
        let allow = ["bucket", "allow", "--read", "--write", "--owner", BUCKET, "--key"];
        garage.run(&[&allow[..], &[&garage.access_key]].concat());
        garage.wait_until_well();
        garage
    }

    /// Waits until every node takes an object: tables spread, and nodes find each other again, on their own time.
    pub fn wait_until_well(&self) {
        let started = Instant::now();
        while !(0..NODES).all(|node| self.takes_an_object(node)) {
            assert!(started.elapsed() < START_MAX, "Garage takes no object: {}", self.log());
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// Where a node serves S3: `host:port`.
    pub fn address(&self, node: usize) -> String {
        format!("127.0.0.1:{}", self.nodes[node].s3_port)
    }

    /// The `blob_url` of the bucket, at the address of a node or of what stands before all.
    pub fn url(&self, address: &str) -> String {
        format!("s3://{BUCKET}/files?endpoint=http://{address}&region={REGION}")
    }

    /// The process id of a node that runs.
    pub fn pid(&self, node: usize) -> u32 {
        self.nodes[node].child.as_ref().expect("it runs").id()
    }

    /// Kills a node as a power cut would.
    pub fn kill(&mut self, node: usize) {
        if let Some(mut child) = self.nodes[node].child.take() {
            let _gone_already = child.kill();
            let _reaped = child.wait();
        }
    }

    /// Starts a node (again) and waits until it answers.
    pub fn start_node(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(node.config.with_extension("log"));
        let log = log.expect("a log");
        let child = command(&node.config)
            .arg("server")
            .env("RUST_LOG", "garage=info")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn();
        node.child = Some(child.expect("garage is installed: ./test --cluster does it"));
        let started = Instant::now();
        while !command(&node.config)
            .args(["node", "id", "-q"])
            .output()
            .is_ok_and(|o| o.status.success())
            || std::net::TcpStream::connect(("127.0.0.1", node.s3_port)).is_err()
        {
            assert!(started.elapsed() < START_MAX, "Garage does not start: {}", self.log());
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// The logs of all nodes.
    pub fn log(&self) -> String {
        let logs = self.nodes.iter().map(|node| node.config.with_extension("log"));
        logs.map(|path| std::fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// The directory of everything.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    fn takes_an_object(&self, node: usize) -> bool {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--fail", "--output", "/dev/null", "--max-time", "5"]);
        curl.args(["--aws-sigv4", &format!("aws:amz:{REGION}:s3")]);
        curl.args(["--user", &format!("{}:{}", self.access_key, self.secret_key)]);
        curl.args(["--request", "PUT", "--data-binary", "ready"]);
        // SHA-256 of the body.
        let sum = "b24d6d33736ecd5604a4b17bc9c6481039fac362bb7df044ef1c10a2bfd21db6";
        curl.args(["--header", &format!("x-amz-content-sha256: {sum}")]);
        curl.arg(format!("http://{}/{BUCKET}/ready-{node}", self.address(node)));
        curl.status().expect("curl is installed").success()
    }

    /// Makes the nodes known to each other, each in a zone of its own.
    fn lay_out(&self) {
        let ids: Vec<String> =
            (0..NODES).map(|at| self.run_on(at, &["node", "id", "-q"]).trim().to_owned()).collect();
        for id in &ids[1..] {
            self.run(&["node", "connect", id]);
        }
        for (at, id) in ids.iter().enumerate() {
            let id = id.split('@').next().expect("an id");
            self.run(&["layout", "assign", "-z", &format!("z{at}"), "-c", "20G", id]);
        }
        self.run(&["layout", "apply", "--version", "1"]);
    }

    fn run(&self, words: &[&str]) -> String {
        self.run_on(0, words)
    }

    fn run_on(&self, at: usize, words: &[&str]) -> String {
        let output =
            command(&self.nodes[at].config).args(words).output().expect("garage is installed");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "garage {words:?}: {stderr}\n{}", self.log());
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Garage {
    fn drop(&mut self) {
        for node in 0..NODES {
            self.kill(node);
        }
    }
}

impl Node {
    fn prepare(home: &Path, secret: &str) -> Self {
        let [rpc, s3, admin] = ports();
        let name = home.join(format!("node-{rpc}"));
        std::fs::create_dir(&name).expect("a directory");
        let config = name.with_extension("toml");
        let text = format!(
            "metadata_dir = '{name}/meta'\ndata_dir = '{name}/data'\ndb_engine = 'lmdb'\nreplication_factor = {NODES}\n\
             metadata_fsync = true\ndata_fsync = true\n\
             rpc_bind_addr = '127.0.0.1:{rpc}'\nrpc_public_addr = '127.0.0.1:{rpc}'\nrpc_secret = '{secret}'\n\
             [s3_api]\napi_bind_addr = '127.0.0.1:{s3}'\ns3_region = '{REGION}'\n\
             [admin]\napi_bind_addr = '127.0.0.1:{admin}'\nadmin_token = '{secret}'\n",
            name = name.display()
        );
        let file = std::fs::File::create(&config);
        file.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .expect("room for it");
        Self { config, s3_port: s3, child: None }
    }
}

fn command(config: &Path) -> Command {
    let mut command = Command::new("garage");
    command.arg("-c").arg(config).env("RUST_LOG", "error");
    command
}

/// Three ports that are free, all different.
fn ports() -> [u16; 3] {
    let listeners: Vec<_> =
        (0..3).map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a free port")).collect();
    let port =
        |at: usize| listeners[at].local_addr().expect("a bound socket has an address").port();
    [port(0), port(1), port(2)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ() {
        let [a, b, c] = ports();
        assert!(a != b && b != c && a != c);
    }
}
