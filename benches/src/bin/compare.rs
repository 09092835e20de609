//! `benches/compare`: the same work, done by filegate and by its peers in turns. See `benches/compare --help`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use filegate_benches::Failed;
use filegate_benches::peer::{PEERS, Peer, Programs};
use filegate_benches::place::{Place, touch_memory};
use filegate_benches::report;
use filegate_benches::results::{Record, Results, Run, Turn, Writer};
use filegate_benches::turn::Course;
use filegate_benches::workload::{WORKLOADS, What, Workload};
use filegate_load::process::{end_with_this_program, interrupted};

/// Do the same work with filegate and with its peers, in turns, and compare
///
/// Installs what is missing, starts each on a directory of its own, checks every answer, and prints tables of medians and
/// of what filegate was to reach. Each round lets all take a turn at one piece of work, so that a machine that slows down
/// slows all of them: figures are to be compared within one run only. Everything is on this machine, the load too.
#[derive(Debug, Parser)]
#[command(name = "benches/compare", after_help = AFTER)]
#[expect(clippy::struct_excessive_bools, reason = "switches of a command line")]
struct Arguments {
    /// What is done, and by whom: WORKLOAD, WORKLOAD/PEER or /PEER, each may end in *; several with commas
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD/PEER")]
    only: Vec<String>,

    /// Turns of each peer at each piece of work, of which the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// No call of a turn starts after so many seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// Where turns are written, as lines of JSON
    #[arg(long, value_name = "FILE", default_value = "target/compare/results.jsonl")]
    results: PathBuf,

    /// Keep what is in the file, and take only the turns that are missing
    #[arg(long)]
    resume: bool,

    /// Measure nothing: tables and pictures from a file
    #[arg(long, value_name = "FILE")]
    redraw: Option<PathBuf>,

    /// Where pictures go
    #[arg(long, value_name = "DIR", default_value = "docs/performance")]
    pictures: PathBuf,

    /// Where servers keep their files: it must be on the disk that is to be measured
    #[arg(long, value_name = "DIR", default_value = "target/compare/data")]
    data: PathBuf,

    /// nginx
    #[arg(long, value_name = "PROGRAM", default_value = "nginx")]
    nginx: String,

    /// Install no peer: those that are missing take no part
    #[arg(long)]
    no_install: bool,

    /// Do not count syncs, which takes a short turn more for each
    #[arg(long)]
    no_syncs: bool,

    /// Say what work and which peers there are
    #[arg(long)]
    list: bool,
}

const AFTER: &str = "\
How to read it: `filegate to it` is filegate's calls a second divided by the peer's. `syncs each` counts the system
calls that wait for the disk, `–` where it could not be counted (it needs perf, and root). `load, foreign` are the parts
of a core that the load program itself and that anything else on the machine took: the first is taken from
everybody, the second spoils the turn. Read the warnings below a table before its figures.

Examples:
  benches/compare                                  all, about 20 minutes
  benches/compare --only small-32 --rounds 5       one piece of work
  benches/compare --only 'small-32/nginx*,small-32/filegate'
  benches/compare --resume                         go on after a break
  benches/compare --redraw target/compare/results.jsonl

Peers are installed into target/peers ($BENCH_PEERS) by benches/peers/NAME/install. Use a machine that does nothing else, with
15 GB of free disk.";

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return Ok(());
    }
    if let Some(file) = &arguments.redraw {
        return show(&Results::read(file)?, &arguments.pictures);
    }
    end_with_this_program()?;
    let plan = plan(&arguments.only)?;
    let mut compare = Compare::new(&arguments)?;
    let outcome = compare.run(&plan);
    show(&Results::read(&arguments.results)?, &arguments.pictures)?;
    outcome
}

/// Work, and who does it.
type Plan = Vec<(&'static Workload, Vec<&'static Peer>)>;

/// What the words name.
fn plan(only: &[String]) -> Result<Plan, Failed> {
    let mut plan = Plan::new();
    for workload in WORKLOADS {
        let takes_part = |peer: &&Peer| {
            let usual = workload.peers.contains(&peer.name);
            if only.is_empty() {
                return usual;
            }
            only.iter().any(|word| {
                let (work, who) = word.split_once('/').unwrap_or((word, ""));
                fits(work, workload.name)
                    && if who.is_empty() { usual } else { named(who, peer.name, usual) }
            })
        };
        let peers: Vec<_> = PEERS.iter().filter(takes_part).collect();
        if !peers.is_empty() {
            plan.push((workload, peers));
        }
    }
    if plan.is_empty() {
        return Err("nothing is named so; see --list".into());
    }
    Ok(plan)
}

/// Whoever is named in full may do what he usually does not.
fn named(pattern: &str, name: &str, usual: bool) -> bool {
    if pattern.ends_with('*') { usual && fits(pattern, name) } else { pattern == name }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => pattern.is_empty() || pattern == name,
    }
}

struct Compare<'a> {
    arguments: &'a Arguments,
    course: Course,
    writer: Writer,
    /// What was there before.
    known: Results,
    /// Those that cannot be installed, with the reason.
    missing: Vec<(&'static str, String)>,
}

impl<'a> Compare<'a> {
    fn new(arguments: &'a Arguments) -> Result<Self, Failed> {
        let bin = std::env::current_exe()?.parent().ok_or("no directory of programs")?.to_owned();
        let project =
            Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("no project")?.to_owned();
        let programs = Programs { bin, project, nginx: arguments.nginx.clone() };
        let place = Place::new(&arguments.data)?;
        if let Some(why) = &place.warning {
            say(&format!("directories may lie close to each other, which ext4 punishes: {why}"));
        }
        let known = if arguments.resume && arguments.results.try_exists()? {
            Results::read(&arguments.results)?
        } else {
            Results::default()
        };
        let mut writer = Writer::open(&arguments.results, arguments.resume)?;
        let began = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        if known.runs.is_empty() {
            let run = Run { began, machine: machine(), seconds: arguments.seconds };
            writer.add(&Record::Run(run))?;
        }
        let mut course = Course::new(programs, place);
        course.span = Duration::from_secs_f64(arguments.seconds);
        Ok(Self { arguments, course, writer, known, missing: Vec::new() })
    }

    fn run(&mut self, plan: &Plan) -> Result<(), Failed> {
        self.install(plan);
        say("touching memory");
        touch_memory()?;
        for (workload, peers) in plan {
            let present = |peer: &&&Peer| !self.missing.iter().any(|(name, _)| *name == peer.name);
            let peers: Vec<&Peer> = peers.iter().filter(present).copied().collect();
            self.rounds(workload, &peers)?;
        }
        Ok(())
    }

    fn install(&mut self, plan: &Plan) {
        let all = plan.iter().flat_map(|(_, peers)| peers);
        let mut seen = Vec::new();
        for peer in all {
            if seen.contains(&peer.name) {
                continue;
            }
            seen.push(peer.name);
            let Some(script) = peer.installer(&self.course.programs) else { continue };
            say(&format!("installing {}", peer.name));
            let outcome = if self.arguments.no_install {
                let run = script.with_file_name("run");
                run.is_file().then_some(()).ok_or_else(|| "it is not there".to_owned())
            } else {
                match Command::new(&script).stdout(std::io::stderr()).status() {
                    Ok(status) if status.success() => Ok(()),
                    Ok(status) => Err(format!("{} ended with {status}", script.display())),
                    Err(error) => Err(format!("{}: {error}", script.display())),
                }
            };
            if let Err(why) = outcome {
                say(&format!("{} takes no part: {why}", peer.name));
                self.missing.push((peer.name, why));
            }
        }
    }

    fn rounds(&mut self, workload: &Workload, peers: &[&Peer]) -> Result<(), Failed> {
        for round in 0..self.arguments.rounds {
            for nth in 0..peers.len() {
                // Nobody is always the first.
                let peer = peers[(nth + round as usize) % peers.len()];
                if !self.known.has(workload.name, peer.name, round) {
                    self.turn(workload, peer, round)?;
                }
            }
        }
        if workload.what != What::Uploads || self.arguments.no_syncs {
            return Ok(());
        }
        for peer in peers {
            if self.known.has_syncs(workload.name, peer.name) {
                continue;
            }
            match self.course.syncs(workload, peer) {
                Ok(Some(syncs)) => {
                    say(&format!(
                        "{} {}: {:.2} syncs each",
                        workload.name, peer.name, syncs.per_call
                    ));
                    self.writer.add(&Record::Syncs(syncs))?;
                }
                Ok(None) => {
                    say("syncs are not counted: perf cannot be used here");
                    return Ok(());
                }
                Err(why) if interrupted() => return Err(why),
                Err(why) => {
                    say(&format!("{} {}: syncs not counted: {why}", workload.name, peer.name));
                }
            }
        }
        Ok(())
    }

    fn turn(&mut self, workload: &Workload, peer: &Peer, round: u32) -> Result<(), Failed> {
        let began = Instant::now();
        let turn = match self.course.take(workload, peer, round) {
            Ok(turn) => turn,
            Err(why) if interrupted() => return Err(why),
            // It failed, the others go on.
            Err(why) => Turn {
                workload: workload.name.to_owned(),
                peer: peer.name.to_owned(),
                round,
                failed: 1,
                error: Some(why.to_string()),
                ..Turn::default()
            },
        };
        let took = began.elapsed().as_secs_f64();
        let what = match workload.what {
            What::Start => format!("{:.0} ms", turn.start_ms),
            What::Memory => format!("idle {:.0}, peak {:.0} MiB", turn.idle_mib, turn.peak_mib),
            What::Uploads | What::Downloads => {
                let Turn { per_second, mb_per_second, p50_ms, p99_ms, .. } = turn;
                format!(
                    "{per_second:.1}/s, {mb_per_second:.0} MB/s, p50 {p50_ms:.2}, p99 {p99_ms:.2} ms"
                )
            }
        };
        let (work, who, nth) = (workload.name, peer.name, round + 1);
        let Turn { load, foreign, .. } = turn;
        say(&format!(
            "{work} {who} round {nth}: {what}, load {load:.2}, foreign {foreign:.2} ({took:.1} s)"
        ));
        for warning in turn.error.iter().chain(&turn.doubt) {
            say(&format!("  WARNING: {warning}"));
        }
        self.writer.add(&Record::Turn(turn))
    }
}

/// What this was measured on.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("unknown processor", |(_, model)| model);
    format!("{cores} cores of {model}, Linux {}", version.trim())
}

fn show(results: &Results, pictures: &Path) -> Result<(), Failed> {
    print(&report::markdown(results));
    let names = report::pictures(results, pictures)?;
    say(&format!("pictures in {}: {}", pictures.display(), names.join(", ")));
    Ok(())
}

fn list() {
    print("Work:\n");
    for workload in WORKLOADS {
        print(&format!("  {:12} {}\n", workload.name, workload.title));
    }
    print("\nPeers:\n");
    for peer in PEERS {
        print(&format!("  {:16} {}: {}\n", peer.name, peer.title, peer.about));
    }
}

#[expect(clippy::print_stdout, reason = "tables are what this is for")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "how far it is")]
fn say(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planned(only: &[&str]) -> Vec<(&'static str, Vec<&'static str>)> {
        let only: Vec<String> = only.iter().map(|word| (*word).to_owned()).collect();
        let plan = plan(&only).unwrap();
        plan.iter()
            .map(|(work, peers)| (work.name, peers.iter().map(|peer| peer.name).collect()))
            .collect()
    }

    #[test]
    fn words_name_work_and_peers() {
        assert_eq!(planned(&[]).len(), WORKLOADS.len());
        assert_eq!(
            planned(&["small-32/nginx*", "start/filegate"]),
            [
                ("small-32", vec!["nginx", "nginx-synced", "nginx-proxy"]),
                ("start", vec!["filegate"])
            ]
        );
        // Not what it usually does, but it was named.
        assert_eq!(planned(&["large-1/litellm"]), [("large-1", vec!["litellm"])]);
        assert_eq!(planned(&["/tusd"]).len(), WORKLOADS.len());
        assert!(plan(&["small".to_owned()]).is_err());
    }
}
