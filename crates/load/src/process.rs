//! Servers that are measured: started, looked at, and killed whatever happens.
//!
//! Each is a process group of its own. What it uses is read from `/proc`, summed over it and all that it has started, so
//! this part is for Linux alone.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// How long a server may take to end when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(5);

/// Signals so close to the first are the same request to end.
const SAME_SIGNAL: Duration = Duration::from_secs(1);

/// The groups that are alive, for [`end_with_this_program`].
static ALIVE: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// This program was asked to end.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// A server and all that it starts. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    group: Pid,
}

impl Server {
    /// Starts `command` as a process group.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).spawn()?;
        let group = Pid::from_child(&child);
        alive(|all| all.push(group));
        let server = Self { child, group };
        // It may have been asked for between the two.
        if interrupted() {
            return Err(io::Error::other("interrupted"));
        }
        Ok(server)
    }

    /// The process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Why it has ended, if it has.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// It and all that it has started, as far as they live.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = all.get(at) {
            all.extend(children(*pid));
            at += 1;
        }
        all
    }

    /// Processor time of all of them, those that have ended included.
    pub fn cpu(&self) -> io::Result<Duration> {
        let mut ticks = 0;
        for pid in self.pids() {
            // One that ended meanwhile is counted with its parent.
            ticks += ticks_of(pid).unwrap_or(0);
        }
        if ticks == 0 {
            ticks_of(self.child.id())?;
        }
        Ok(of_ticks(ticks))
    }

    /// Resident memory now, in bytes, summed: pages that several processes share count for each.
    pub fn memory(&self) -> io::Result<u64> {
        self.status("VmRSS:")
    }

    /// The most it has been since the last [`Server::forget_peak`].
    pub fn memory_peak(&self) -> io::Result<u64> {
        self.status("VmHWM:")
    }

    /// Begins to look for the peak anew. Needs Linux with `CONFIG_PROC_PAGE_MONITOR`.
    pub fn forget_peak(&self) -> io::Result<()> {
        for pid in self.pids() {
            use std::io::Write as _;
            let file = fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/clear_refs"));
            match file.and_then(|mut file| file.write_all(b"5")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    fn status(&self, what: &str) -> io::Result<u64> {
        let mut kib = 0;
        let own = self.child.id();
        for pid in self.pids() {
            let status = match fs::read_to_string(format!("/proc/{pid}/status")) {
                Ok(status) => status,
                Err(_ended) if pid != own => continue,
                Err(error) => return Err(error),
            };
            let line = status.lines().find(|line| line.starts_with(what));
            let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
            kib += number.unwrap_or(0);
        }
        Ok(kib << 10)
    }

    /// Asks it to end, waits, and kills what is left.
    pub fn stop(mut self) -> io::Result<()> {
        // Gone already, then.
        let _asked = kill_process_group(self.group, Signal::TERM);
        let began = Instant::now();
        while self.child.try_wait()?.is_none() && began.elapsed() < STOP_MAX {
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone_already = kill_process_group(self.group, Signal::KILL);
        let _reaped = self.child.wait();
        alive(|all| all.retain(|group| *group != self.group));
    }
}

fn alive(change: impl FnOnce(&mut Vec<Pid>)) {
    change(&mut ALIVE.lock().unwrap_or_else(PoisonError::into_inner));
}

/// From now on, when this program is asked to end (SIGINT, SIGTERM, SIGHUP), all servers are killed, and [`interrupted`] is
/// true. What waits for them then fails and ends in order; at a second signal the program ends at once.
///
/// # Errors
/// If signals cannot be listened for.
pub fn end_with_this_program() -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut int, mut term, mut hup) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            let mut first: Option<Instant> = None;
            loop {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
                INTERRUPTED.store(true, Ordering::SeqCst);
                // `timeout` and some shells send one to the process and one to its group.
                let again = first.get_or_insert_with(Instant::now).elapsed() > SAME_SIGNAL;
                alive(|all| {
                    for group in all {
                        let _gone_already = kill_process_group(*group, Signal::KILL);
                    }
                });
                if again {
                    end_now();
                }
            }
        });
    });
    Ok(())
}

#[expect(clippy::exit, reason = "asked for twice; there is nothing left to kill")]
fn end_now() {
    std::process::exit(130);
}

/// This program was asked to end.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Processor time of the whole machine in ticks of `/proc/stat`, as durations.
#[derive(Debug, Clone, Copy, Default)]
pub struct Machine {
    /// All that was not idle, of all cores, that of the kernel's own threads included.
    pub busy: Duration,
    /// What the host gave to others.
    pub steal: Duration,
    /// That of the kernel's own threads, which write back and commit for whoever wrote.
    pub kernel: Duration,
}

impl Machine {
    /// Since the machine was started.
    pub fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u64> =
            line.split_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let field = |nth: usize| ticks.get(nth).copied().unwrap_or(0);
        // user nice system idle iowait irq softirq steal; guests are in user and nice.
        let busy = field(0) + field(1) + field(2) + field(5) + field(6);
        // kthreadd is process 2 and the parent of all of the kernel's own.
        let kernel = children(2).into_iter().filter_map(|pid| ticks_of(pid).ok()).sum();
        Ok(Self { busy: of_ticks(busy), steal: of_ticks(field(7)), kernel: of_ticks(kernel) })
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            busy: self.busy.saturating_sub(earlier.busy),
            steal: self.steal.saturating_sub(earlier.steal),
            kernel: self.kernel.saturating_sub(earlier.kernel),
        }
    }
}

fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    // A process is the child of the thread that started it.
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|all| {
            all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// User and system time of a process and of its children that have ended.
fn ticks_of(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything.
    let after = stat.rsplit_once(')').map_or("", |(_, after)| after);
    Ok(after
        .split_whitespace()
        .skip(11)
        .take(4)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum())
}

fn of_ticks(ticks: u64) -> Duration {
    let second = rustix::param::clock_ticks_per_second();
    Duration::from_secs_f64(ticks as f64 / second as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_with_its_children_and_killed_when_dropped() {
        let server =
            Server::start(Command::new("sh").args(["-c", "sleep 60 & sleep 60 & wait"])).unwrap();
        let began = Instant::now();
        while server.pids().len() < 3 {
            assert!(began.elapsed() < Duration::from_secs(20), "{:?}", server.pids());
            thread::yield_now();
        }
        let pids = server.pids();
        assert!(server.memory().unwrap() > 0);
        assert!(server.memory_peak().unwrap() >= server.memory().unwrap() / 2);
        server.cpu().unwrap();
        drop(server);
        let runs = |pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            !stat.is_empty() && !stat.contains(") Z ")
        };
        let began = Instant::now();
        while pids.iter().any(runs) {
            assert!(began.elapsed() < Duration::from_secs(20), "{pids:?}");
            thread::yield_now();
        }
    }

    #[test]
    fn the_machine_is_busy() {
        let machine = Machine::now().unwrap();
        assert!(machine.busy > Duration::ZERO && machine.busy >= machine.kernel);
    }
}
