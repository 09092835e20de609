//! One peer does one piece of work for a moment, on a directory of its own.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filegate_load::process::{Machine, Server, interrupted};
use filegate_load::{Outcome, Plan, Work, run};
use rustix::process::{Pid, Signal, kill_process};

use crate::Failed;
use crate::peer::{Peer, Programs, Running};
use crate::place::{self, Place};
use crate::results::{Syncs, Turn};
use crate::speak::{Downloads, Name, Uploads};
use crate::workload::{Content, What, Workload};

/// How long a server may take until it answers.
const START_MAX: Duration = Duration::from_secs(120);

/// Files that downloads ask for in turn.
const FILES: u64 = 256;

/// Part of the free disk that a turn may fill.
const ROOM: f64 = 0.6;

/// Numbers of calls that are left out between plans: each connection takes one more than it uses.
const SPARE: u64 = u16::MAX as u64;

/// How long syncs are counted.
const COUNTED: Duration = Duration::from_millis(700);

/// What counts as a sync.
const SYNCS: [&str; 6] = ["fsync", "fdatasync", "sync_file_range", "syncfs", "sync", "msync"];

/// What turns have in common.
#[derive(Debug)]
pub struct Course {
    /// Where the programs are.
    pub programs: Programs,
    /// Where the servers' directories are.
    pub place: Place,
    /// No call of a turn starts after this time.
    pub span: Duration,
    /// Uncounted, before each turn.
    pub warm_up: Duration,
    contents: HashMap<&'static str, Bytes>,
}

impl Course {
    /// Turns of a second, until said otherwise.
    pub fn new(programs: Programs, place: Place) -> Self {
        let (span, warm_up) = (Duration::from_secs(1), Duration::from_millis(400));
        Self { programs, place, span, warm_up, contents: HashMap::new() }
    }

    fn content(&mut self, kind: Content) -> Bytes {
        let (purpose, _) = kind.purpose_and_name();
        let key = if kind == Content::Small { "small" } else { purpose };
        self.contents.entry(key).or_insert_with(|| kind.bytes()).clone()
    }

    /// A turn.
    pub fn take(&mut self, workload: &Workload, peer: &Peer, round: u32) -> Result<Turn, Failed> {
        let mut stand = Stand::up(self, peer)?;
        let mut turn = Turn {
            workload: workload.name.to_owned(),
            peer: peer.name.to_owned(),
            round,
            start_ms: stand.started.as_secs_f64() * 1e3,
            ..Turn::default()
        };
        match workload.what {
            What::Start => turn.calls = 1,
            What::Uploads => {
                self.warm(&mut stand, workload)?;
                let uploads = stand.uploads(self, workload.content);
                let plan = self.plan(&stand, workload)?;
                self.measure(&mut stand, &plan, &uploads, &mut turn)?;
                stand.stored += turn.calls * uploads.moves();
            }
            What::Downloads => {
                let path = peer.read.ok_or_else(|| format!("{} gives no files", peer.name))?;
                let uploads = stand.uploads(self, workload.content);
                let names = stand.calls(&uploads, workload.connections, FILES)?.yields;
                let downloads = Downloads::new(&uploads, path, &names);
                let warm = Plan { span: self.warm_up, ..self.plan(&stand, workload)? };
                complete(&run(&warm, &downloads)?, &stand)?;
                let plan = self.plan(&stand, workload)?;
                self.measure(&mut stand, &plan, &downloads, &mut turn)?;
            }
            What::Memory => {
                let uploads = stand.uploads(self, workload.content);
                let needed = uploads.moves() * u64::from(workload.connections);
                let room = self.place.room()?;
                if room as f64 * ROOM < needed as f64 {
                    return Err(format!(
                        "{needed} bytes are too many for the {room} that are free"
                    )
                    .into());
                }
                // What the first answer left behind is given back by then, or it is not.
                thread::sleep(Duration::from_secs(1));
                turn.idle_mib = mib(stand.running.server.memory()?);
                let plan = Plan {
                    first: stand.next,
                    ..Plan::calls(&stand.running.host, workload.connections, workload.calls_max)
                };
                self.measure(&mut stand, &plan, &uploads, &mut turn)?;
                stand.stored += turn.calls * uploads.moves();
            }
        }
        stand.down(self)?;
        Ok(turn)
    }

    /// What it syncs, in a turn that is not timed. Nothing: it cannot be counted here.
    pub fn syncs(&mut self, workload: &Workload, peer: &Peer) -> Result<Option<Syncs>, Failed> {
        let mut stand = Stand::up(self, peer)?;
        self.warm(&mut stand, workload)?;
        let uploads = stand.uploads(self, workload.content);
        let plan = Plan { span: COUNTED, ..self.plan(&stand, workload)? };
        let file = stand.dir.join("perf");
        let Some(counter) = Counter::attach(&stand.running.server, &file) else {
            stand.down(self)?;
            return Ok(None);
        };
        let outcome = run(&plan, &uploads)?;
        complete(&outcome, &stand)?;
        stand.next += outcome.done;
        let by = counter.counted(&file)?;
        stand.down(self)?;
        let all: u64 = by.iter().map(|(_, count)| count).sum();
        Ok(Some(Syncs {
            workload: workload.name.to_owned(),
            peer: peer.name.to_owned(),
            per_call: all as f64 / outcome.done.max(1) as f64,
            by,
        }))
    }

    fn plan(&self, stand: &Stand<'_>, workload: &Workload) -> Result<Plan, Failed> {
        let mut plan = Plan::new(&stand.running.host, workload.connections, self.span);
        plan.first = stand.next;
        plan.calls_max = workload.calls_max;
        if workload.what == What::Uploads {
            let bytes = self.contents.values().map(Bytes::len).max().unwrap_or(1);
            let fit = self.place.room()? as f64 * ROOM / bytes as f64;
            // Large files are few; for small ones the bound of the workload is the closer one.
            plan.calls_max = plan.calls_max.min((fit as u64).max(1));
        }
        Ok(plan)
    }

    /// Small uploads for a while, and for large ones one on each connection.
    fn warm(&mut self, stand: &mut Stand<'_>, workload: &Workload) -> Result<(), Failed> {
        let small = stand.uploads(self, Content::Small);
        let plan = Plan {
            first: stand.next,
            ..Plan::new(&stand.running.host, workload.connections, self.warm_up)
        };
        let outcome = run(&plan, &small)?;
        complete(&outcome, stand)?;
        stand.count(&outcome, &small);
        if workload.content == Content::Wav {
            let large = stand.uploads(self, workload.content);
            stand.calls(&large, workload.connections, u64::from(workload.connections))?;
        }
        Ok(())
    }

    fn measure<W: Work>(
        &mut self,
        stand: &mut Stand<'_>,
        plan: &Plan,
        work: &W,
        turn: &mut Turn,
    ) -> Result<(), Failed> {
        self.place.settle()?;
        let server = &stand.running.server;
        // A kernel that cannot forget gives the peak since the start.
        let _since_start = server.forget_peak();
        let (machine, cpu, began) = (Machine::now()?, server.cpu()?, Instant::now());
        let outcome = run(plan, work)?;
        let mut seconds = outcome.seconds();
        if stand.peer.synced_after {
            let sync = Instant::now();
            self.place.settle()?;
            seconds += sync.elapsed().as_secs_f64();
        }
        let cpu = server.cpu()?.saturating_sub(cpu).as_secs_f64();
        let machine = Machine::now()?.since(machine);
        // Connecting is in it, which a turn's own time does not count.
        let window = began.elapsed().as_secs_f64();
        turn.peak_mib = mib(server.memory_peak()?);
        turn.calls = outcome.done;
        turn.failed = outcome.failed;
        turn.error = outcome.first_error.as_ref().map(ToString::to_string);
        turn.seconds = seconds;
        turn.per_second = outcome.done as f64 / seconds;
        turn.mb_per_second = outcome.moved as f64 / 1e6 / seconds;
        turn.p50_ms = outcome.percentile_ms(50.0);
        turn.p99_ms = outcome.percentile_ms(99.0);
        turn.cpu_per_gb = cpu / (outcome.moved as f64 / 1e9).max(1e-9);
        turn.load = outcome.own_share();
        turn.kernel = machine.kernel.as_secs_f64() / window;
        let others = machine.busy.as_secs_f64() - machine.kernel.as_secs_f64() - cpu;
        turn.foreign = (others - outcome.cpu.as_secs_f64()).max(0.0) / window;
        turn.stolen = machine.steal.as_secs_f64() / window;
        turn.doubt = outcome.doubt();
        stand.next += outcome.done + outcome.failed + SPARE;
        if interrupted() {
            return Err("interrupted".into());
        }
        Ok(())
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// That no call failed, while nothing is measured yet.
fn complete<Y>(outcome: &Outcome<Y>, stand: &Stand<'_>) -> Result<(), Failed> {
    match &outcome.first_error {
        None => Ok(()),
        Some(error) => Err(format!("{error}\n{}", stand.running.said()).into()),
    }
}

/// A peer that runs on a directory of its own.
struct Stand<'a> {
    peer: &'a Peer,
    running: Running,
    dir: PathBuf,
    /// From its start to its first answer.
    started: Duration,
    /// The number of the next call, which names its file.
    next: u64,
    /// Bytes that it said are stored.
    stored: u64,
}

impl<'a> Stand<'a> {
    /// Starts it, and waits until it has answered an upload.
    fn up(course: &mut Course, peer: &'a Peer) -> Result<Self, Failed> {
        let dir = course.place.fresh()?;
        let key = peer.prepare(&course.programs, &dir)?;
        let content = course.content(Content::Small);
        let began = Instant::now();
        let mut running = peer.start(&course.programs, &dir, key)?;
        loop {
            if std::net::TcpStream::connect(&running.host).is_ok() {
                break;
            }
            if running.server.ended()?.is_some() || began.elapsed() > START_MAX || interrupted() {
                return Err(format!("it does not start:\n{}", running.said()).into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        let (started, stored) = (Duration::ZERO, content.len() as u64);
        let mut stand = Self { peer, running, dir, started, next: 0, stored };
        let first = stand.uploads(course, Content::Small);
        loop {
            let plan = Plan { first: stand.next, ..Plan::calls(&stand.running.host, 1, 1) };
            let outcome = run(&plan, &first)?;
            stand.next += 1;
            if outcome.done == 1 {
                break;
            }
            if began.elapsed() > START_MAX || interrupted() {
                complete(&outcome, &stand)?;
            }
        }
        stand.started = began.elapsed();
        Ok(stand)
    }

    fn uploads(&self, course: &mut Course, kind: Content) -> Uploads {
        let content = course.content(kind);
        Uploads::new(self.peer.speak, &self.running.host, &self.running.key, kind, &content)
    }

    /// So many calls, all of which must go well.
    fn calls(
        &mut self,
        uploads: &Uploads,
        connections: u16,
        calls: u64,
    ) -> Result<Outcome<Name>, Failed> {
        let plan = Plan { first: self.next, ..Plan::calls(&self.running.host, connections, calls) };
        let outcome = run(&plan, uploads)?;
        complete(&outcome, self)?;
        self.count(&outcome, uploads);
        Ok(outcome)
    }

    fn count<W: Work>(&mut self, outcome: &Outcome<W::Yield>, work: &W) {
        self.next += outcome.done + outcome.failed + SPARE;
        self.stored += outcome.done * work.moves();
    }

    /// Stops it, looks whether it kept what it said, and gives the room back.
    fn down(self, course: &Course) -> Result<(), Failed> {
        let Self { peer, running, dir, stored, .. } = self;
        running.server.stop()?;
        let kept = place::empty(&dir)?;
        course.place.settle()?;
        if peer.keeps && kept < stored {
            return Err(format!("it said that {stored} bytes are stored and kept {kept}").into());
        }
        Ok(())
    }
}

/// `perf stat` on a server's system calls.
struct Counter(std::process::Child);

impl Counter {
    fn attach(server: &Server, file: &Path) -> Option<Self> {
        let pids: Vec<String> = server.pids().iter().map(u32::to_string).collect();
        let events: Vec<String> =
            SYNCS.iter().map(|call| format!("syscalls:sys_enter_{call}")).collect();
        let mut child = Command::new("perf")
            .args(["stat", "-x", ",", "-e", &events.join(","), "-p", &pids.join(","), "-o"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        // It says nothing when it has attached.
        thread::sleep(Duration::from_millis(300));
        if matches!(child.try_wait(), Ok(Some(_))) {
            return None;
        }
        Some(Self(child))
    }

    /// Ends it and reads what it has counted: lines of `number,,event,…`.
    fn counted(mut self, file: &Path) -> Result<Vec<(String, u64)>, Failed> {
        kill_process(Pid::from_child(&self.0), Signal::INT)?;
        self.0.wait()?;
        let text = fs::read_to_string(file)?;
        let of = |call: &&str| {
            let event = format!("syscalls:sys_enter_{call}");
            let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let line = lines.find(|fields| fields.get(2).is_some_and(|name| *name == event))?;
            Some(((*call).to_owned(), line[0].parse().ok()?))
        };
        Ok(SYNCS.iter().filter_map(of).collect())
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}
