//! What is done, and what filegate is to reach.

use bytes::Bytes;
use filegate_load::body;

/// A piece of work.
#[derive(Debug)]
pub struct Workload {
    /// How it is named on the command line and in file names.
    pub name: &'static str,
    /// How it is named in tables and pictures.
    pub title: &'static str,
    /// What is looked at.
    pub what: What,
    /// Connections at once.
    pub connections: u16,
    /// The content of an upload.
    pub content: Content,
    /// Calls of a turn, at most: room on the disk.
    pub calls_max: u64,
    /// Who takes part, unless others are asked for by name.
    pub peers: &'static [&'static str],
}

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Uploads a second.
    Uploads,
    /// Downloads a second, of files uploaded before.
    Downloads,
    /// The most memory while all connections upload one file each, and memory before that.
    Memory,
    /// From the start of the process to the answer of its first upload.
    Start,
}

/// What a file holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// 100 KB of wav, for `voice_clone`.
    Small,
    /// 20 MB of wav, for `voice_clone`.
    Wav,
    /// 512 MiB of AVI, for `video_understanding`: that size is within filegate's default limits.
    Video,
}

impl Content {
    /// The purpose that filegate takes it for, and its name there.
    pub fn purpose_and_name(self) -> (&'static str, &'static str) {
        match self {
            Self::Small | Self::Wav => ("voice_clone", "bench.wav"),
            Self::Video => ("video_understanding", "bench.avi"),
        }
    }

    /// The bytes, made anew.
    pub fn bytes(self) -> Bytes {
        match self {
            Self::Small => body::wav(100_000),
            Self::Wav => body::wav(20_000_000),
            Self::Video => body::avi(512 << 20),
        }
        .into()
    }
}

/// All that take small uploads; the last two are slow.
const ALL: &[&str] = &[
    "filegate",
    "by-hand-durable",
    "by-hand-sync",
    "by-hand",
    "nginx",
    "nginx-synced",
    "nginx-proxy",
    "fastapi",
    "fastapi-one",
    "rustus",
    "tusd",
    "s3s-fs",
    "garage",
    "limit-file",
    "limit-log",
    "ogx",
    "litellm",
];

/// Those that take uploads as quickly as they can, and the limits.
const FAST: &[&str] = ALL.split_at(ALL.len() - 2).0;

/// All pieces of work, in the order in which they are done.
pub const WORKLOADS: &[Workload] = &[
    Workload {
        name: "small-32",
        title: "100 KB uploads, 32 connections",
        what: What::Uploads,
        connections: 32,
        content: Content::Small,
        calls_max: 20_000,
        peers: ALL,
    },
    Workload {
        name: "small-1",
        title: "100 KB uploads, 1 connection",
        what: What::Uploads,
        connections: 1,
        content: Content::Small,
        calls_max: 20_000,
        peers: FAST,
    },
    Workload {
        name: "small-256",
        title: "100 KB uploads, 256 connections",
        what: What::Uploads,
        connections: 256,
        content: Content::Small,
        calls_max: 20_000,
        peers: &[
            "filegate",
            "by-hand-durable",
            "by-hand",
            "nginx",
            "fastapi",
            "garage",
            "limit-file",
            "limit-log",
        ],
    },
    Workload {
        name: "wav-8",
        title: "20 MB uploads, 8 connections",
        what: What::Uploads,
        connections: 8,
        content: Content::Wav,
        calls_max: 150,
        peers: &[
            "filegate",
            "by-hand-durable",
            "by-hand-sync",
            "by-hand",
            "nginx",
            "nginx-synced",
            "nginx-proxy",
            "fastapi",
            "rustus",
            "tusd",
            "s3s-fs",
            "garage",
            "limit-file",
            "limit-direct",
        ],
    },
    Workload {
        name: "large-1",
        title: "512 MiB uploads, 1 connection",
        what: What::Uploads,
        connections: 1,
        content: Content::Video,
        calls_max: 4,
        peers: &[
            "filegate",
            "by-hand-durable",
            "by-hand-sync",
            "nginx",
            "nginx-synced",
            "fastapi",
            "rustus",
            "s3s-fs",
            "garage",
            "limit-file",
            "limit-direct",
        ],
    },
    Workload {
        name: "read-32",
        title: "100 KB downloads, 32 connections",
        what: What::Downloads,
        connections: 32,
        content: Content::Small,
        calls_max: u64::MAX,
        peers: &["filegate", "by-hand", "nginx", "s3s-fs", "garage"],
    },
    Workload {
        name: "memory-256",
        title: "256 uploads of 20 MB at a time",
        what: What::Memory,
        connections: 256,
        content: Content::Wav,
        calls_max: 256,
        peers: &["filegate", "by-hand-durable", "nginx", "fastapi", "rustus", "s3s-fs", "garage"],
    },
    Workload {
        name: "start",
        title: "From start to first answered upload",
        what: What::Start,
        connections: 1,
        content: Content::Small,
        calls_max: 1,
        peers: &[
            "filegate", "by-hand", "nginx", "fastapi", "rustus", "tusd", "s3s-fs", "garage", "ogx",
            "litellm",
        ],
    },
];

/// A figure of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Calls a second: more is better.
    PerSecond,
    /// p99 divided by p50: less is better.
    TailOverMedian,
    /// Most memory, in MiB: less is better.
    PeakMib,
    /// Memory before the first upload, in MiB: less is better.
    IdleMib,
    /// From start to first answer, in milliseconds: less is better.
    StartMs,
}

/// What filegate is to reach.
#[derive(Debug)]
pub struct Target {
    /// The [`Workload`].
    pub workload: &'static str,
    /// What of it.
    pub figure: Figure,
    /// Divided by the same figure of this peer; nothing: as it is.
    pub against: Option<&'static str>,
    /// The least that is good enough.
    pub at_least: f64,
    /// What is aimed for.
    pub aim: f64,
}

const fn ratio(workload: &'static str, against: &'static str, at_least: f64, aim: f64) -> Target {
    Target { workload, figure: Figure::PerSecond, against: Some(against), at_least, aim }
}

const fn bound(workload: &'static str, figure: Figure, at_least: f64, aim: f64) -> Target {
    Target { workload, figure, against: None, at_least, aim }
}

/// All targets.
pub const TARGETS: &[Target] = &[
    ratio("small-32", "by-hand-durable", 1.4, 1.8),
    ratio("small-32", "nginx", 0.55, 0.8),
    ratio("small-32", "fastapi", 2.0, 3.0),
    ratio("small-32", "fastapi-one", 2.0, 3.0),
    ratio("small-32", "ogx", 25.0, 45.0),
    ratio("small-32", "litellm", 100.0, 250.0),
    ratio("small-1", "by-hand-durable", 1.1, 1.6),
    bound("small-256", Figure::TailOverMedian, 4.0, 3.0),
    ratio("wav-8", "by-hand-durable", 1.3, 1.9),
    ratio("wav-8", "nginx-synced", 1.2, 1.7),
    ratio("large-1", "by-hand-durable", 1.5, 2.4),
    ratio("large-1", "limit-direct", 0.6, 0.9),
    ratio("read-32", "nginx", 0.3, 0.6),
    bound("memory-256", Figure::PeakMib, 64.0, 48.0),
    bound("memory-256", Figure::IdleMib, 24.0, 16.0),
    bound("start", Figure::StartMs, 150.0, 50.0),
];

impl Target {
    /// Whether less is better.
    pub fn less_is_better(&self) -> bool {
        self.figure != Figure::PerSecond
    }

    /// `value` is good enough.
    pub fn is_met(&self, value: f64) -> bool {
        if self.less_is_better() { value <= self.at_least } else { value >= self.at_least }
    }

    /// `value` is what is aimed for.
    pub fn is_aim(&self, value: f64) -> bool {
        if self.less_is_better() { value <= self.aim } else { value >= self.aim }
    }
}

/// The piece of work of this name.
pub fn workload(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::PEERS;

    #[test]
    fn whoever_is_named_exists() {
        let known = |name: &str| PEERS.iter().any(|peer| peer.name == name);
        for workload in WORKLOADS {
            assert!(workload.peers.contains(&"filegate"), "{}", workload.name);
            for peer in workload.peers {
                assert!(known(peer), "{peer} of {}", workload.name);
            }
        }
        for target in TARGETS {
            let workload = workload(target.workload).unwrap();
            if let Some(peer) = target.against {
                assert!(
                    workload.peers.contains(&peer),
                    "{peer} takes no part in {}",
                    workload.name
                );
            }
        }
    }

    #[test]
    fn targets_know_which_way_is_better() {
        let [speed, memory] = [&TARGETS[0], TARGETS.last().unwrap()];
        assert!(
            speed.is_met(1.4) && !speed.is_met(1.39) && !speed.is_aim(1.4) && speed.is_aim(1.8)
        );
        assert!(memory.is_met(150.0) && !memory.is_met(151.0) && memory.is_aim(50.0));
    }
}
