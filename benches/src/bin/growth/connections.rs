//! What connections cost: many that are quiet, and many that all call.

use std::thread;
use std::time::Duration;

use filegate_benches::Failed;
use filegate_load::{Connection, Plan, Work, run};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::server::{Place, Server};
use crate::work::{Retrieve, Upload, all_of};
use crate::{Arguments, Line, Results, files, tell};

/// As an operator who expects so many would set it: places for all, and time to be quiet.
const SETTINGS: [(&str, &str); 2] =
    [("FILEGATE_LIMITS__CONNECTIONS_MAX", "20000"), ("FILEGATE_LIMITS__HEAD_TIMEOUT", "10m")];
/// Connections that are made at a time: fewer than the kernel's queue of a listener holds.
const AT_A_TIME: usize = 64;
/// What is waited for memory and tasks to settle.
const SETTLE: Duration = Duration::from_secs(2);
/// How long nothing happens while processor time is counted.
const QUIET: Duration = Duration::from_secs(5);
/// Calls on one connection beside the quiet ones.
const BESIDE: u64 = 4_000;

/// So many connections, each of which has had one call answered and is quiet since.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Idle {
    pub(crate) connections: usize,
    /// Bytes of the server's memory.
    pub(crate) resident: u64,
    /// Milliseconds of its processor time in each second in which nothing happens.
    pub(crate) cpu_ms: f64,
    /// A retrieve on another connection, one call after the other.
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) call_cpu_ms: f64,
}

/// So many connections that all call, each again as soon as it is answered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Active {
    pub(crate) connections: u16,
    /// `retrieve`, or `upload` of 100 KB.
    pub(crate) call: String,
    pub(crate) per_second: f64,
    pub(crate) failed: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) call_cpu_ms: f64,
    /// The most memory of the server so far, in bytes; each has one of its own.
    pub(crate) peak: u64,
    /// Cores that the load used.
    pub(crate) load: f64,
}

/// All of it, on a catalog of `rows` files.
pub(crate) fn measured(
    arguments: &Arguments,
    rows: i64,
    place: &Place,
    results: &mut Results,
) -> Result<(), Failed> {
    files::filled(rows, place)?;
    let key = place.key()?;
    idle(&arguments.idle, rows, &place.start(&key, &SETTINGS)?, results)?;
    for connections in &arguments.active {
        for call in ["retrieve", "upload"] {
            tell(&format!("{connections} connections, {call}"));
            let server = place.start(&key, &SETTINGS)?;
            let plan = Plan::new(server.target.address.to_string(), *connections, arguments.time);
            results.add(Line::Active(match call {
                "upload" => active(&server, &plan, call, &Upload::new(&server.target))?,
                _ => active(&server, &plan, call, &Retrieve { target: &server.target, rows })?,
            }))?;
        }
    }
    Ok(())
}

/// One server, to which connections are added.
fn idle(counts: &[usize], rows: i64, server: &Server, results: &mut Results) -> Result<(), Failed> {
    let runtime = Runtime::new()?;
    let mut open = Vec::new();
    let beside = Retrieve { target: &server.target, rows };
    let plan = Plan::calls(server.target.address.to_string(), 1, BESIDE);
    // What a server takes for itself when it first works is not the connections'.
    all_of(&plan, &beside)?;
    for &count in counts {
        tell(&format!("{count} idle connections"));
        runtime.block_on(more(&mut open, count, &beside))?;
        thread::sleep(SETTLE);
        let resident = server.process.memory()?;
        let before = server.used()?;
        thread::sleep(QUIET);
        let quiet = server.used()?.since(before);
        let before = server.used()?;
        let called = all_of(&plan, &beside)?;
        let used = server.used()?.since(before);
        results.add(Line::Idle(Idle {
            connections: count,
            resident,
            cpu_ms: quiet.cpu.as_secs_f64() * 1e3 / QUIET.as_secs_f64(),
            p50_ms: called.percentile_ms(50.0),
            p99_ms: called.percentile_ms(99.0),
            call_cpu_ms: used.cpu.as_secs_f64() * 1e3 / BESIDE as f64,
        }))?;
    }
    // Had the server closed them, others would have been measured.
    runtime.block_on(all_live(open, &beside))
}

/// Makes connections until there are `count`, with one call on each.
async fn more(open: &mut Vec<Connection>, count: usize, work: &Retrieve<'_>) -> Result<(), Failed> {
    while open.len() < count {
        let mut batch = JoinSet::new();
        for nth in (open.len()..count).take(AT_A_TIME) {
            let (address, request) = (work.target.address.to_string(), work.request(nth as u64));
            batch.spawn(async move {
                let mut connection = Connection::open(&address).await?;
                connection.call(&request, 0, Duration::from_secs(30)).await?.expect_status(200)?;
                Ok::<_, Failed>(connection)
            });
        }
        while let Some(made) = batch.join_next().await {
            open.push(made??);
        }
    }
    Ok(())
}

/// One more call on each.
async fn all_live(open: Vec<Connection>, work: &Retrieve<'_>) -> Result<(), Failed> {
    for (nth, mut connection) in open.into_iter().enumerate() {
        let request = work.request(nth as u64);
        let reply = connection.call(&request, 0, Duration::from_secs(30)).await;
        reply
            .and_then(|reply| reply.expect_status(200))
            .map_err(|error| format!("connection {nth} did not last: {error}"))?;
    }
    Ok(())
}

fn active<W: Work>(server: &Server, plan: &Plan, call: &str, work: &W) -> Result<Active, Failed> {
    let before = server.used()?;
    let outcome = run(plan, work)?;
    let used = server.used()?.since(before);
    if let Some(doubt) = outcome.doubt() {
        tell(&doubt);
    }
    if let Some(error) = &outcome.first_error {
        tell(&format!("{} calls failed, the first: {error}", outcome.failed));
    }
    Ok(Active {
        connections: plan.connections,
        call: call.to_owned(),
        per_second: outcome.per_second(),
        failed: outcome.failed,
        p50_ms: outcome.percentile_ms(50.0),
        p99_ms: outcome.percentile_ms(99.0),
        call_cpu_ms: used.cpu.as_secs_f64() * 1e3 / outcome.done as f64,
        peak: server.process.memory_peak()?,
        load: outcome.own_share(),
    })
}
