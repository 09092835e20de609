//! What an upload and a retrieve cost, by the number of files that are there.

use std::fs::{self, File};
use std::io;
use std::time::Instant;

use filegate_load::{Plan, Work};
use filegate_testkit::rows;
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};

use crate::server::{Place, Server, Used};
use crate::work::{Retrieve, Upload, all_of};
use filegate_benches::Failed;

use crate::tell;

/// Connections of the calls.
const CONNECTIONS: u16 = 8;
/// Of each catalog, one after the other. The first only warms up.
const TURNS: usize = 11;
/// Calls of a turn.
const RETRIEVES: u64 = 3_000;
const UPLOADS: u64 = 300;
/// Calls before anything of the catalog is in memory.
const COLD: u64 = 500;

/// A catalog of so many files.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grown {
    pub(crate) files: i64,
    /// Bytes of the catalog.
    pub(crate) catalog: u64,
    /// Milliseconds from the start of the process to the first answer, nothing of the catalog in memory.
    pub(crate) start_ms: f64,
    /// Retrieves on one connection, right after that.
    pub(crate) cold: Cost,
    /// With all of the catalog in the operating system's cache.
    pub(crate) retrieve: Cost,
    pub(crate) upload: Cost,
}

/// What a call costs.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Cost {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Milliseconds of the server's processor time.
    pub(crate) cpu_ms: f64,
    /// Bytes that were read from the disk.
    pub(crate) read: f64,
    /// Bytes of pages that became dirty.
    pub(crate) written: f64,
}

/// A server whose turn it is now and then.
struct Side {
    rows: i64,
    place: Place,
    server: Server,
    start_ms: f64,
    cold: Cost,
    upload: Upload,
    /// The first number of the next calls.
    next: u64,
    retrieves: Vec<Turn>,
    uploads: Vec<Turn>,
}

/// What a turn showed.
struct Turn {
    calls: u64,
    p50_ms: f64,
    p99_ms: f64,
    used: Used,
}

/// Each of the catalogs, filled if they are not there yet.
pub(crate) fn measured(places: &[(i64, Place)]) -> Result<Vec<Grown>, Failed> {
    let mut sides = Vec::new();
    for (rows, place) in places {
        filled(*rows, place)?;
        sides.push(Side::start(*rows, place)?);
    }
    for side in &sides {
        io::copy(&mut File::open(side.place.catalog())?, &mut io::sink())?;
    }
    for nth in 0..TURNS {
        tell(&format!("turn {} of {TURNS}", nth + 1));
        for side in &mut sides {
            side.turn()?;
        }
    }
    sides.into_iter().map(Side::grown).collect()
}

/// Makes the catalog: a server first, for its tables, then the rows.
pub(crate) fn filled(rows: i64, place: &Place) -> Result<(), Failed> {
    let began = Instant::now();
    place.start("", &[])?.process.stop()?;
    rows::sqlite(&place.catalog(), rows)?;
    tell(&format!("{rows} files are there after {:.0?}", began.elapsed()));
    Ok(())
}

impl Side {
    fn start(rows: i64, place: &Place) -> Result<Self, Failed> {
        let key = place.key()?;
        let catalog = File::open(place.catalog())?;
        // What is dirty stays in memory whatever is advised.
        catalog.sync_all()?;
        fadvise(&catalog, 0, None, Advice::DontNeed)?;
        let began = Instant::now();
        let server = place.start(&key, &[])?;
        let mut next = 0;
        turn(&server, 1, 1, &mut next, &Retrieve { target: &server.target, rows })?;
        let start_ms = began.elapsed().as_secs_f64() * 1e3;
        let cold = turn(&server, 1, COLD, &mut next, &Retrieve { target: &server.target, rows })?;
        let upload = Upload::new(&server.target);
        let (retrieves, uploads) = (vec![], vec![]);
        let cold = cost(&[cold]);
        Ok(Self {
            rows,
            place: place.clone(),
            server,
            start_ms,
            cold,
            upload,
            next,
            retrieves,
            uploads,
        })
    }

    fn turn(&mut self) -> Result<(), Failed> {
        let retrieve = Retrieve { target: &self.server.target, rows: self.rows };
        let retrieved = turn(&self.server, CONNECTIONS, RETRIEVES, &mut self.next, &retrieve)?;
        let uploaded = turn(&self.server, CONNECTIONS, UPLOADS, &mut self.next, &self.upload)?;
        self.retrieves.push(retrieved);
        self.uploads.push(uploaded);
        Ok(())
    }

    fn grown(self) -> Result<Grown, Failed> {
        self.server.process.stop()?;
        Ok(Grown {
            files: self.rows,
            catalog: fs::metadata(self.place.catalog())?.len(),
            start_ms: self.start_ms,
            cold: self.cold,
            retrieve: cost(&self.retrieves[1..]),
            upload: cost(&self.uploads[1..]),
        })
    }
}

fn turn<W: Work>(
    server: &Server,
    connections: u16,
    calls: u64,
    next: &mut u64,
    work: &W,
) -> Result<Turn, Failed> {
    let address = server.target.address.to_string();
    let plan = Plan { first: *next, ..Plan::calls(address, connections, calls) };
    *next += calls;
    let before = server.used()?;
    let outcome = all_of(&plan, work)?;
    Ok(Turn {
        calls,
        p50_ms: outcome.percentile_ms(50.0),
        p99_ms: outcome.percentile_ms(99.0),
        used: server.used()?.since(before),
    })
}

/// Percentiles are medians of the turns; all else is of all turns together, since processor time is counted in steps of
/// 10 ms.
fn cost(turns: &[Turn]) -> Cost {
    let calls: u64 = turns.iter().map(|turn| turn.calls).sum();
    let each = |sum: f64| sum / calls as f64;
    Cost {
        p50_ms: median(turns.iter().map(|turn| turn.p50_ms)),
        p99_ms: median(turns.iter().map(|turn| turn.p99_ms)),
        cpu_ms: each(turns.iter().map(|turn| turn.used.cpu.as_secs_f64() * 1e3).sum()),
        read: each(turns.iter().map(|turn| turn.used.read as f64).sum()),
        written: each(turns.iter().map(|turn| turn.used.written as f64).sum()),
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
}
