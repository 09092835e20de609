//! ClamAV's daemon, asked over its socket with INSTREAM (clamd(8)).
//!
//! ```text
//! zINSTREAM\0, then for each piece: its length (4 bytes, big-endian), its bytes; length 0 ends
//! answer: stream: OK\0 | stream: NAME FOUND\0 | INSTREAM size limit exceeded. ERROR\0 | … ERROR\0
//! ```
//!
//! The daemon may answer and hang up while pieces are still being sent, so a failed write is followed
//! by a look for the answer. Blocks: runs on a thread of its own, with deadlines on the socket.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::config::ClamdAddress;

/// Bytes sent at a time.
const PIECE_BYTES: usize = 64 << 10;
/// Longest answer that is read: `stream: `, the name of a signature, ` FOUND`.
const ANSWER_BYTES_MAX: usize = 4096;

/// What the daemon said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scan {
    Clean,
    /// The name of the signature.
    Found(String),
    /// Longer than its `StreamMaxLength`.
    TooLarge,
}

/// Why it said nothing useful.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClamdError {
    #[error("connecting to clamd")]
    Connect(#[source] io::Error),
    #[error("talking to clamd")]
    Talk(#[source] io::Error),
    #[error("clamd took too long")]
    TimedOut,
    #[error("clamd answered {0:?}")]
    Answer(String),
    #[error("reading the file for clamd")]
    Source(#[source] io::Error),
}

/// Has `source` scanned by the daemon at `address`, until `deadline`.
pub(super) fn scan(
    address: &ClamdAddress,
    connect_timeout: Duration,
    deadline: Instant,
    source: &mut dyn Read,
) -> Result<Scan, ClamdError> {
    let connect_timeout = connect_timeout.min(left(deadline)?);
    match address {
        // A local socket connects at once or not at all.
        ClamdAddress::Unix(path) => {
            let stream = UnixStream::connect(path).map_err(ClamdError::Connect)?;
            converse(&mut Timed { stream, deadline }, source)
        }
        ClamdAddress::Tcp(address) => {
            let stream = connect(address, connect_timeout).map_err(ClamdError::Connect)?;
            converse(&mut Timed { stream, deadline }, source)
        }
    }
}

fn connect(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()?.take(4) {
        match TcpStream::connect_timeout(&address, timeout / 4) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn left(deadline: Instant) -> Result<Duration, ClamdError> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ClamdError::TimedOut) } else { Ok(left) }
}

/// The conversation of the module's table.
fn converse<S: Read + Write>(stream: &mut S, source: &mut dyn Read) -> Result<Scan, ClamdError> {
    let cut_off = match send(stream, source) {
        Ok(()) => None,
        // It may have hung up after an answer; without one this is the cause.
        Err(ClamdError::Talk(error)) if !is_timeout(&error) => Some(error),
        Err(error) => return Err(talk(error)),
    };
    let answer = match (receive(stream), cut_off) {
        (Ok(answer), _) if !answer.is_empty() => answer,
        (Err(ClamdError::Talk(error)), _) if is_timeout(&error) => {
            return Err(ClamdError::TimedOut);
        }
        (_, Some(error)) => return Err(ClamdError::Talk(error)),
        (answer, None) => answer?,
    };
    understand(&answer)
}

fn send(stream: &mut dyn Write, source: &mut dyn Read) -> Result<(), ClamdError> {
    stream.write_all(b"zINSTREAM\0").map_err(ClamdError::Talk)?;
    // The length and the piece in one write.
    let mut frame = vec![0; 4 + PIECE_BYTES];
    loop {
        let (length, piece) = frame.split_at_mut(4);
        let n = match source.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(ClamdError::Source)?,
        };
        length.copy_from_slice(&(n as u32).to_be_bytes());
        stream.write_all(frame.get(..4 + n).unwrap_or_default()).map_err(ClamdError::Talk)?;
        if n == 0 {
            return stream.flush().map_err(ClamdError::Talk);
        }
    }
}

fn receive(stream: &mut dyn Read) -> Result<Vec<u8>, ClamdError> {
    let mut answer = Vec::new();
    let mut piece = [0; 512];
    loop {
        let n = match stream.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(ClamdError::Talk)?,
        };
        answer.extend_from_slice(piece.get(..n).unwrap_or_default());
        if let Some(end) = answer.iter().position(|byte| *byte == 0) {
            answer.truncate(end);
            return Ok(answer);
        }
        if n == 0 || answer.len() > ANSWER_BYTES_MAX {
            return Ok(answer);
        }
    }
}

fn understand(answer: &[u8]) -> Result<Scan, ClamdError> {
    let answer = String::from_utf8_lossy(answer);
    let answer = answer.trim();
    if answer.contains("size limit exceeded") {
        return Ok(Scan::TooLarge);
    }
    let about = answer.strip_prefix("stream: ");
    match about {
        Some("OK") => Ok(Scan::Clean),
        Some(found) => match found.strip_suffix(" FOUND") {
            Some(name) => Ok(Scan::Found(name.to_owned())),
            None => Err(strange(answer)),
        },
        None => Err(strange(answer)),
    }
}

fn strange(answer: &str) -> ClamdError {
    ClamdError::Answer(answer.chars().take(200).collect())
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

fn talk(error: ClamdError) -> ClamdError {
    match error {
        ClamdError::Talk(error) if is_timeout(&error) => ClamdError::TimedOut,
        other => other,
    }
}

/// A socket on which every wait ends at the deadline.
struct Timed<S> {
    stream: S,
    deadline: Instant,
}

impl<S: Socket> Timed<S> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

trait Socket: Read + Write {
    fn read_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
    fn write_timeout(&self, timeout: Option<Duration>) -> io::Result<()>;
}

impl Socket for UnixStream {
    fn read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(timeout)
    }
}

impl Socket for TcpStream {
    fn read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout)
    }

    fn write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_write_timeout(timeout)
    }
}

impl<S: Socket> Read for Timed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl<S: Socket> Write for Timed<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes what is written until `room` is used up, and gives `answer` in single bytes.
    struct Daemon {
        written: Vec<u8>,
        room: usize,
        answer: Vec<u8>,
    }

    impl Daemon {
        fn answering(answer: &[u8]) -> Self {
            Self { written: vec![], room: usize::MAX, answer: answer.to_vec() }
        }
    }

    impl Read for Daemon {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.answer.is_empty() || buffer.is_empty() {
                return Ok(0);
            }
            buffer[0] = self.answer.remove(0);
            Ok(1)
        }
    }

    impl Write for Daemon {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.written.len() + bytes.len() > self.room {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.written.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_goes_in_pieces_with_their_lengths() {
        let content: Vec<u8> = (0..PIECE_BYTES + 3).map(|i| i as u8).collect();
        let mut daemon = Daemon::answering(b"stream: OK\0");
        assert_eq!(converse(&mut daemon, &mut content.as_slice()).unwrap(), Scan::Clean);
        let mut expected = b"zINSTREAM\0\x00\x01\x00\x00".to_vec();
        expected.extend_from_slice(&content[..PIECE_BYTES]);
        expected.extend_from_slice(&[0, 0, 0, 3]);
        expected.extend_from_slice(&content[PIECE_BYTES..]);
        expected.extend_from_slice(&[0; 4]);
        assert_eq!(daemon.written, expected);
    }

    #[test]
    fn every_answer_is_told_apart() {
        let said = |answer: &[u8]| converse(&mut Daemon::answering(answer), &mut &b"x"[..]);
        assert_eq!(
            said(b"stream: Win.Test.EICAR_HDB-1 FOUND\0").unwrap(),
            Scan::Found("Win.Test.EICAR_HDB-1".to_owned())
        );
        assert_eq!(said(b"INSTREAM size limit exceeded. ERROR\0").unwrap(), Scan::TooLarge);
        for strange in [
            &b"stream: Can't allocate memory ERROR\0"[..],
            b"UNKNOWN COMMAND\0",
            b"",
            b"stream: OK, or so FOU",
            b"OK\0",
        ] {
            let error = said(strange).unwrap_err();
            assert!(matches!(error, ClamdError::Answer(_)), "{error}");
        }
        let endless = vec![b'x'; 1 << 20];
        assert!(matches!(said(&endless), Err(ClamdError::Answer(text)) if text.len() == 200));
    }

    #[test]
    fn an_answer_before_the_end_is_heard() {
        let content = vec![7; PIECE_BYTES * 4];
        let mut daemon = Daemon::answering(b"INSTREAM size limit exceeded. ERROR\0");
        daemon.room = PIECE_BYTES * 2;
        assert_eq!(converse(&mut daemon, &mut content.as_slice()).unwrap(), Scan::TooLarge);
        let mut silent = Daemon::answering(b"");
        silent.room = PIECE_BYTES;
        assert!(matches!(
            converse(&mut silent, &mut content.as_slice()),
            Err(ClamdError::Talk(error)) if error.kind() == io::ErrorKind::BrokenPipe
        ));
    }

    #[test]
    fn silence_ends_at_the_deadline() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let deadline = Instant::now() + Duration::from_millis(50);
        let mut timed = Timed { stream: ours, deadline };
        assert!(matches!(converse(&mut timed, &mut &b"x"[..]), Err(ClamdError::TimedOut)));
    }
}
