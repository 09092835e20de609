//! Turns as lines of JSON, and their medians.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failed;

/// A line of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Record {
    /// A run began: those below it until the next are of one run, and only they are compared.
    Run(Run),
    /// One peer did one piece of work for a moment.
    Turn(Turn),
    /// What it synced for that.
    Syncs(Syncs),
}

/// When and where.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Run {
    /// UTC.
    pub began: String,
    /// What the machine is.
    pub machine: String,
    /// Seconds of a turn.
    pub seconds: f64,
}

/// What a turn showed.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Turn {
    /// The piece of work.
    pub workload: String,
    /// Who did it.
    pub peer: String,
    /// From 0.
    pub round: u32,
    /// Calls that went well.
    pub calls: u64,
    /// And that did not.
    pub failed: u64,
    /// Why the first of those did not.
    pub error: Option<String>,
    /// From the first request to the last answer, and the sync after it where that counts.
    pub seconds: f64,
    /// Calls a second of that time.
    pub per_second: f64,
    /// Content of that time, in 10^6 bytes a second.
    pub mb_per_second: f64,
    /// Latencies in milliseconds.
    pub p50_ms: f64,
    /// 99 % were not longer.
    pub p99_ms: f64,
    /// Processor time of the server and all that it started, in seconds for 10^9 bytes of content.
    pub cpu_per_gb: f64,
    /// Most memory of it, in MiB.
    pub peak_mib: f64,
    /// Memory before the work, in MiB.
    pub idle_mib: f64,
    /// From start to first answer, in milliseconds.
    pub start_ms: f64,
    /// Part of a core that the load took.
    pub load: f64,
    /// Part of a core that the kernel's own threads took, which write back what was written.
    pub kernel: f64,
    /// Part of a core that anything else took.
    pub foreign: f64,
    /// Part of a core that the host gave to others.
    pub stolen: f64,
    /// Why the load itself may have been what limits.
    pub doubt: Option<String>,
}

/// What was synced.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Syncs {
    /// The piece of work.
    pub workload: String,
    /// Who did it.
    pub peer: String,
    /// Calls of fsync, fdatasync, sync_file_range, syncfs, sync and msync together, for each upload.
    pub per_call: f64,
    /// Each of them.
    pub by: Vec<(String, u64)>,
}

/// A file that lines are added to.
#[derive(Debug)]
pub struct Writer(File);

impl Writer {
    /// Goes on at the end of a file, or begins one.
    pub fn open(path: &Path, keep: bool) -> Result<Self, Failed> {
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let mut options = File::options();
        options.create(true).append(keep).write(true).truncate(!keep);
        Ok(Self(options.open(path)?))
    }

    /// Adds a line.
    pub fn add(&mut self, record: &Record) -> Result<(), Failed> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        Ok(self.0.write_all(&line)?)
    }
}

/// All that is known of a file.
#[derive(Debug, Default)]
pub struct Results {
    /// The runs.
    pub runs: Vec<Run>,
    /// Each turn, with the number of its run.
    turns: Vec<(usize, Turn)>,
    syncs: Vec<Syncs>,
}

impl Results {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, Failed> {
        let file = File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut results = Self::default();
        for line in BufReader::new(file).lines() {
            results.add(serde_json::from_str(&line?)?);
        }
        Ok(results)
    }

    /// Adds one record.
    pub fn add(&mut self, record: Record) {
        match record {
            Record::Run(run) => self.runs.push(run),
            Record::Turn(turn) => self.turns.push((self.runs.len(), turn)),
            Record::Syncs(syncs) => {
                self.syncs
                    .retain(|old| (&old.workload, &old.peer) != (&syncs.workload, &syncs.peer));
                self.syncs.push(syncs);
            }
        }
    }

    /// A turn of this round was taken, whatever came of it.
    pub fn has(&self, workload: &str, peer: &str, round: u32) -> bool {
        self.turns
            .iter()
            .any(|(_, turn)| turn.workload == workload && turn.peer == peer && turn.round == round)
    }

    /// Syncs were counted.
    pub fn has_syncs(&self, workload: &str, peer: &str) -> bool {
        self.syncs(workload, peer).is_some()
    }

    /// What was synced.
    pub fn syncs(&self, workload: &str, peer: &str) -> Option<&Syncs> {
        self.syncs.iter().find(|syncs| syncs.workload == workload && syncs.peer == peer)
    }

    /// The last of all runs in which the peer did this work, and the median of each figure of its turns that went well.
    pub fn median(&self, workload: &str, peer: &str) -> Option<Median> {
        let of_peer = |turn: &Turn| turn.workload == workload && turn.peer == peer;
        let run = self.turns.iter().rev().find(|(_, turn)| of_peer(turn))?.0;
        let turns: Vec<&Turn> = self
            .turns
            .iter()
            .filter(|(at, turn)| *at == run && of_peer(turn))
            .map(|(_, turn)| turn)
            .collect();
        let well: Vec<&Turn> = turns.iter().copied().filter(|turn| turn.calls > 0).collect();
        let of = |figure: fn(&Turn) -> f64| {
            median(well.iter().map(|turn| figure(turn)).collect()).unwrap_or(0.0)
        };
        Some(Median {
            run,
            rounds: well.len(),
            turn: Turn {
                workload: workload.to_owned(),
                peer: peer.to_owned(),
                calls: well.iter().map(|turn| turn.calls).sum(),
                failed: turns.iter().map(|turn| turn.failed).sum(),
                error: turns.iter().find_map(|turn| turn.error.clone()),
                doubt: turns.iter().find_map(|turn| turn.doubt.clone()),
                round: 0,
                seconds: of(|turn| turn.seconds),
                per_second: of(|turn| turn.per_second),
                mb_per_second: of(|turn| turn.mb_per_second),
                p50_ms: of(|turn| turn.p50_ms),
                p99_ms: of(|turn| turn.p99_ms),
                cpu_per_gb: of(|turn| turn.cpu_per_gb),
                peak_mib: of(|turn| turn.peak_mib),
                idle_mib: of(|turn| turn.idle_mib),
                start_ms: of(|turn| turn.start_ms),
                load: of(|turn| turn.load),
                kernel: of(|turn| turn.kernel),
                foreign: of(|turn| turn.foreign),
                stolen: of(|turn| turn.stolen),
            },
        })
    }
}

/// Of the turns of one run.
#[derive(Debug, Clone)]
pub struct Median {
    /// Which run: figures of different ones are not to be compared.
    pub run: usize,
    /// Turns that went well.
    pub rounds: usize,
    /// The median of each figure by itself; calls and failures are sums.
    pub turn: Turn,
}

/// The one in the middle, or the mean of both.
pub fn median(mut all: Vec<f64>) -> Option<f64> {
    all.sort_by(f64::total_cmp);
    let half = all.len() / 2;
    let upper = *all.get(half)?;
    Some(if all.len().is_multiple_of(2) { f64::midpoint(all[half - 1], upper) } else { upper })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(round: u32, per_second: f64) -> Record {
        let [workload, peer] = ["small-1", "nginx"].map(str::to_owned);
        Record::Turn(Turn { workload, peer, round, calls: 1, per_second, ..Turn::default() })
    }

    fn run() -> Record {
        Record::Run(Run { began: String::new(), machine: String::new(), seconds: 1.0 })
    }

    #[test]
    fn medians_are_of_the_last_run_alone() {
        let mut results = Results::default();
        for record in
            [run(), turn(0, 1.0), turn(1, 2.0), run(), turn(0, 30.0), turn(1, 10.0), turn(2, 20.0)]
        {
            results.add(record);
        }
        let median = results.median("small-1", "nginx").unwrap();
        assert_eq!((median.run, median.rounds, median.turn.per_second.round() as u32), (2, 3, 20));
        assert!(results.median("small-1", "filegate").is_none());
        assert!(results.has("small-1", "nginx", 2) && !results.has("small-1", "nginx", 3));
    }

    #[test]
    fn a_file_reads_as_it_was_written() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("deep/results.jsonl");
        let mut writer = Writer::open(&path, false).unwrap();
        writer.add(&run()).unwrap();
        drop(writer);
        let mut writer = Writer::open(&path, true).unwrap();
        writer.add(&turn(0, 5.0)).unwrap();
        let results = Results::read(&path).unwrap();
        assert_eq!(results.runs.len(), 1);
        assert!(results.has("small-1", "nginx", 0));
        drop(Writer::open(&path, false).unwrap());
        assert!(Results::read(&path).unwrap().runs.is_empty());
    }

    #[test]
    fn medians() {
        let of = |all: &[f64]| median(all.to_vec()).map(|median| (median * 10.0).round() as i32);
        assert_eq!(
            [of(&[]), of(&[3.0]), of(&[9.0, 1.0]), of(&[9.0, 1.0, 2.0])],
            [None, Some(30), Some(50), Some(20)]
        );
    }
}
