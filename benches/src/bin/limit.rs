//! What the machine can do at most: programs that receive bodies over TCP and make them durable, and nothing else.
//!
//! ```text
//! limit PORT DIR file       a file each: written as it comes, one fdatasync
//! limit PORT DIR direct     the same with O_DIRECT: two buffers of 4 MiB, one is filled while a thread writes the other
//! limit PORT DIR log        all bodies that wait go to the end of one log, with one fdatasync for them together
//! limit PORT DIR discard    nothing is kept: what receiving alone costs
//! ```
//!
//! They read a request's Content-Length and nothing else of it, look at no byte of the body, and keep no names. Each
//! connection has a thread.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread;

use filegate_benches::Failed;
use rustix::fs::OFlags;

/// How much is read and written at a time.
const PIECE: usize = 1 << 20;

/// Bytes of a buffer that is written past the page cache.
const DIRECT_PIECE: usize = 4 << 20;

/// What such writes must be aligned to, in memory and in the file.
const ALIGNMENT: usize = 4096;

/// Directories of files: one of them would be a lock that all wait for.
const DIRECTORIES: u64 = 64;

/// Bodies that go to the log together, in bytes.
const BATCH_BYTES: usize = 64 << 20;

/// Longest head of a request.
const HEAD_BYTES_MAX: usize = 64 << 10;

const USAGE: &str = "limit PORT DIR file|direct|log|discard";

#[derive(Clone)]
enum Keep {
    File(Names),
    Direct(Names),
    Log(Sender<Waiting>),
    Discard,
}

/// Where the next file goes.
#[derive(Clone)]
struct Names {
    dir: PathBuf,
    next: Arc<AtomicU64>,
}

/// A body that waits for the log.
struct Waiting {
    body: Vec<u8>,
    /// Gets it back when it is durable.
    done: Sender<io::Result<Vec<u8>>>,
}

fn main() -> Result<(), Failed> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [port, dir, what] = words.as_slice() else { return Err(USAGE.into()) };
    let dir = Path::new(dir);
    let keep = match what.as_str() {
        "file" => Keep::File(Names::prepare(dir)?),
        "direct" => Keep::Direct(Names::prepare(dir)?),
        "log" => Keep::Log(start_log(dir)?),
        "discard" => Keep::Discard,
        _ => return Err(USAGE.into()),
    };
    let listener = TcpListener::bind(("127.0.0.1", port.parse::<u16>()?))?;
    for stream in listener.incoming() {
        let (stream, keep) = (stream?, keep.clone());
        thread::spawn(move || {
            // A client that goes away ends its thread.
            let _gone = serve(stream, &keep);
        });
    }
    Ok(())
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, keep: &Keep) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut body = Body { stream, head: Vec::with_capacity(HEAD_BYTES_MAX), left: 0 };
    let mut buffers = match keep {
        Keep::Direct(_) => Some([Aligned::new(), Aligned::new()]),
        _ => None,
    };
    let mut piece = vec![0; PIECE];
    let mut whole = Vec::new();
    while body.next_request()? {
        match keep {
            Keep::File(names) => to_file(&mut body, &names.create(OFlags::empty())?, &mut piece)?,
            Keep::Direct(names) => {
                let file = names.create(OFlags::DIRECT)?;
                buffers = Some(to_file_directly(&mut body, file, buffers.take())?);
            }
            Keep::Log(log) => whole = to_log(&mut body, log, whole)?,
            Keep::Discard => while body.read(&mut piece)? > 0 {},
        }
        body.stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?;
    }
    Ok(())
}

/// A request's body as it comes.
struct Body {
    stream: TcpStream,
    /// What was read with the head and belongs to the body.
    head: Vec<u8>,
    /// Bytes that are still to come, those in `head` included.
    left: usize,
}

impl Body {
    /// Reads a head. False: the client is done.
    fn next_request(&mut self) -> io::Result<bool> {
        self.head.clear();
        let end = loop {
            if let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let filled = self.head.len();
            if filled >= HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            self.head.resize(HEAD_BYTES_MAX, 0);
            let read = self.stream.read(&mut self.head[filled..])?;
            self.head.truncate(filled + read);
            if read == 0 {
                return Ok(false);
            }
        };
        let head = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length = length.map_or(Ok(0), |text| text.trim().parse::<usize>());
        self.left = length.map_err(io::Error::other)?;
        self.head.drain(..end);
        Ok(true)
    }

    /// Reads some of the body. 0: that was all.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let room = into.len().min(self.left);
        if room == 0 {
            return Ok(0);
        }
        let read = if self.head.is_empty() {
            match self.stream.read(&mut into[..room])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => read,
            }
        } else {
            let read = self.head.len().min(room);
            into[..read].copy_from_slice(&self.head[..read]);
            self.head.drain(..read);
            read
        };
        self.left -= read;
        Ok(read)
    }

    /// Fills `into` as far as there is something.
    fn fill(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            match self.read(&mut into[filled..])? {
                0 => return Ok(filled),
                read => filled += read,
            }
        }
    }
}

impl Names {
    fn prepare(dir: &Path) -> io::Result<Self> {
        for nth in 0..DIRECTORIES {
            std::fs::create_dir_all(dir.join(nth.to_string()))?;
        }
        Ok(Self { dir: dir.to_owned(), next: Arc::default() })
    }

    fn create(&self, flags: OFlags) -> io::Result<File> {
        let nth = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join((nth % DIRECTORIES).to_string()).join(nth.to_string());
        let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
        OpenOptions::new().write(true).create_new(true).custom_flags(flags).open(path)
    }
}

/// Written as it comes.
fn to_file(body: &mut Body, mut file: &File, piece: &mut [u8]) -> io::Result<()> {
    loop {
        match body.fill(piece)? {
            0 => return file.sync_data(),
            filled => file.write_all(&piece[..filled])?,
        }
    }
}

/// Memory whose part from `from` on is aligned.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
}

impl Aligned {
    fn new() -> Self {
        let memory = vec![0; DIRECT_PIECE + ALIGNMENT];
        let from = memory.as_ptr().align_offset(ALIGNMENT);
        Self { memory, from }
    }

    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + DIRECT_PIECE]
    }
}

/// Written past the page cache by a second thread; gives the buffers back.
fn to_file_directly(
    body: &mut Body,
    file: File,
    buffers: Option<[Aligned; 2]>,
) -> io::Result<[Aligned; 2]> {
    let [mut first, second] = buffers.unwrap_or_else(|| [Aligned::new(), Aligned::new()]);
    let length = body.left as u64;
    thread::scope(|scope| {
        let (full, written) = (sync_channel::<(Aligned, usize)>(1), sync_channel::<Aligned>(2));
        let (full_in, full_out) = full;
        let (written_in, written_out) = written;
        written_in.send(second).map_err(io::Error::other)?;
        let writer = scope.spawn(move || {
            for (mut buffer, filled) in full_out {
                // The last piece is written to the end of its block, which is then cut off.
                let padded = filled.next_multiple_of(ALIGNMENT);
                (&file).write_all(&buffer.bytes()[..padded])?;
                if written_in.send(buffer).is_err() {
                    break;
                }
            }
            file.set_len(length)?;
            file.sync_data()
        });
        loop {
            let filled = body.fill(first.bytes())?;
            if filled == 0 {
                break;
            }
            full_in.send((first, filled)).map_err(|_ended| io::Error::other("writing failed"))?;
            first = written_out.recv().map_err(|_ended| io::Error::other("writing failed"))?;
        }
        drop(full_in);
        let ended = writer.join().map_err(|_panic| io::Error::other("the writer panicked"))?;
        ended?;
        let second = written_out.recv().map_err(|_gone| io::Error::other("a buffer is gone"))?;
        Ok([first, second])
    })
}

/// Hands the body to the log and waits until it is durable.
fn to_log(body: &mut Body, log: &Sender<Waiting>, mut whole: Vec<u8>) -> io::Result<Vec<u8>> {
    whole.resize(body.left, 0);
    body.fill(&mut whole)?;
    let (done, durable) = channel();
    log.send(Waiting { body: whole, done }).map_err(|_gone| io::Error::other("no log"))?;
    durable.recv().map_err(|_gone| io::Error::other("no log"))?
}

fn start_log(dir: &Path) -> io::Result<Sender<Waiting>> {
    std::fs::create_dir_all(dir)?;
    let file = OpenOptions::new().append(true).create(true).open(dir.join("log"))?;
    let (log, waiting) = channel();
    thread::spawn(move || write_log(file, &waiting));
    Ok(log)
}

/// Takes all that wait, writes them one after the other, and syncs once.
fn write_log(mut file: File, waiting: &Receiver<Waiting>) {
    while let Ok(first) = waiting.recv() {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while bytes < BATCH_BYTES
            && let Ok(one) = waiting.try_recv()
        {
            bytes += one.body.len();
            batch.push(one);
        }
        let written = batch.iter().try_for_each(|one| file.write_all(&one.body));
        let outcome = written.and_then(|()| file.sync_data());
        for one in batch {
            let answer = match &outcome {
                Ok(()) => Ok(one.body),
                Err(error) => Err(io::Error::other(error.to_string())),
            };
            // Its client may have gone away.
            let _gone = one.done.send(answer);
        }
    }
}
