//! strace on a running server: what it asks of the kernel, and faults put in its way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long attaching to all threads may take.
const ATTACH_MAX: Duration = Duration::from_secs(10);

/// A strace that follows all threads of a process. It lets go when stopped or dropped.
#[derive(Debug)]
pub struct Trace {
    strace: Child,
    output: tempfile::NamedTempFile,
}

/// One system call.
#[derive(Debug, Clone)]
pub struct Call {
    /// The thread.
    pub thread: u32,
    /// Such as `openat`.
    pub name: String,
    /// Arguments and result as strace writes them, descriptors with their paths.
    pub text: String,
    /// The line on which it began.
    pub begun: usize,
    /// The line on which it had ended; the last line plus one if it never did.
    pub ended: usize,
}

impl Trace {
    /// Attaches to `pid` with further flags such as `["-e", "trace=write"]`.
    ///
    /// # Panics
    /// If strace is not there or may not attach.
    pub fn attach(pid: u32, flags: &[&str]) -> Self {
        let output = tempfile::NamedTempFile::new().expect("a temporary file");
        let said = tempfile::tempfile().expect("a temporary file");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-y", "-s", "48", "-o"]).arg(output.path()).args(flags);
        command.args(["-p", &pid.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(said.try_clone().expect("a second handle"));
        let mut strace = command.spawn().expect("strace is installed");
        let started = Instant::now();
        while !all_traced(pid) {
            let ended = strace.try_wait().expect("a child can be waited for");
            let late = started.elapsed() > ATTACH_MAX;
            assert!(
                ended.is_none() && !late,
                "strace cannot attach (needs root or kernel.yama.ptrace_scope=0): {}",
                said_in(&said)
            );
            thread::sleep(Duration::from_millis(2));
        }
        Self { strace, output }
    }

    /// Lets go, and gives the calls in the order in which they began.
    pub fn stop(mut self) -> Vec<Call> {
        self.let_go();
        let bytes = fs::read(self.output.path()).expect("strace's output");
        parse(&String::from_utf8_lossy(&bytes))
    }

    /// Waits for the process to end by itself; gives the calls.
    pub fn wait(mut self) -> Vec<Call> {
        let _status = self.strace.wait();
        self.stop()
    }

    fn let_go(&mut self) {
        if let Ok(None) = self.strace.try_wait() {
            let pid = self.strace.id().to_string();
            let _gone_already = Command::new("kill").args(["-s", "TERM", &pid]).status();
        }
        let _reaped = self.strace.wait();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        self.let_go();
    }
}

fn said_in(mut said: &fs::File) -> String {
    use std::io::{Read as _, Seek as _};
    let mut text = String::new();
    let _best_effort = said.rewind().and_then(|()| said.read_to_string(&mut text));
    text
}

/// Whether every thread of `pid` has a tracer. A process that is gone has none.
fn all_traced(pid: u32) -> bool {
    let tasks: Vec<PathBuf> = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    let traced = |task: &PathBuf| {
        let status = fs::read_to_string(task.join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n") && !status.is_empty()
    };
    !tasks.is_empty() && tasks.iter().all(traced)
}

/// Puts `<unfinished ...>` and `<... resumed>` together.
fn parse(output: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let lines = output.lines().count();
    for (at, line) in output.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Ok(thread) = thread.parse::<u32>() else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let open = calls.iter_mut().rev().find(|c| c.thread == thread && c.ended > lines);
            if let (Some(call), Some((_, tail))) = (open, resumed.split_once(" resumed>")) {
                call.text.push_str(tail);
                call.ended = at;
            }
        } else if let Some((name, arguments)) = rest.split_once('(')
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        {
            let unfinished = arguments.strip_suffix("<unfinished ...>");
            // What a kill cut off has no result.
            let cut = unfinished.is_some() || arguments.ends_with("= ?");
            calls.push(Call {
                thread,
                name: name.to_owned(),
                text: unfinished.unwrap_or(arguments).to_owned(),
                begun: at,
                ended: if cut { lines + 1 } else { at },
            });
        }
    }
    calls
}
