//! Tables and pictures of results.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use crate::Failed;
use crate::chart::{Bar, Bars, Kind};
use crate::peer::PEERS;
use crate::results::{Median, Results};
use crate::workload::{Content, Figure, TARGETS, Target, WORKLOADS, What, Workload};

/// Part of a core that others may take before it is said.
const FOREIGN: f64 = 0.15;

/// A peer's figures in one piece of work.
struct Row {
    name: &'static str,
    title: &'static str,
    kind: Kind,
    median: Median,
}

fn rows(results: &Results, workload: &Workload) -> Vec<Row> {
    let row = |peer: &'static crate::peer::Peer| {
        let median = results.median(workload.name, peer.name)?;
        Some(Row { name: peer.name, title: peer.title, kind: peer.kind, median })
    };
    let mut rows: Vec<Row> = PEERS.iter().filter_map(row).collect();
    let key = |row: &Row| match workload.what {
        What::Uploads | What::Downloads => -row.median.turn.per_second,
        What::Memory => row.median.turn.peak_mib,
        What::Start => row.median.turn.start_ms,
    };
    // Whoever did nothing stands last.
    rows.sort_by(|a, b| {
        let of = |row: &Row| (row.median.rounds == 0, key(row));
        of(a).0.cmp(&of(b).0).then(key(a).total_cmp(&key(b)))
    });
    rows
}

/// All tables, as Markdown.
pub fn markdown(results: &Results) -> String {
    let mut text = String::new();
    for run in &results.runs {
        // Writing to a String does not fail.
        let _infallible =
            writeln!(text, "{}, {}, turns of {} s\n", run.began, run.machine, run.seconds);
    }
    for workload in WORKLOADS {
        let rows = rows(results, workload);
        if !rows.is_empty() {
            table(&mut text, results, workload, &rows);
        }
    }
    targets(&mut text, results);
    text
}

/// The columns of a table: a title, and what stands below it for a row, beside what filegate did.
type Column<'a> = (&'static str, Box<dyn Fn(&Row, Option<&Row>) -> String + 'a>);

fn columns<'a>(results: &'a Results, workload: &'a Workload) -> Vec<Column<'a>> {
    let column = |title, show: fn(&Row) -> String| -> Column<'a> {
        (title, Box::new(move |row, _| show(row)))
    };
    let load = column("load, foreign", |row| {
        let turn = &row.median.turn;
        format!("{:.2}, {:.2}", turn.load, turn.foreign)
    });
    let cpu = column("CPU s/GB", |row| format!("{:.2}", row.median.turn.cpu_per_gb));
    let peak = column("peak MiB", |row| format!("{:.0}", row.median.turn.peak_mib));
    match workload.what {
        What::Uploads | What::Downloads => {
            let syncs: Column<'a> = (
                "syncs each",
                Box::new(move |row, _| {
                    let syncs = results.syncs(workload.name, row.name);
                    syncs.map_or_else(|| "–".to_owned(), |syncs| format!("{:.2}", syncs.per_call))
                }),
            );
            let mut all = vec![
                column("a second", |row| thousands(row.median.turn.per_second)),
                column("MB/s", |row| format!("{:.0}", row.median.turn.mb_per_second)),
                ("filegate to it", Box::new(ratio)),
                column("p50 ms", |row| format!("{:.2}", row.median.turn.p50_ms)),
                column("p99 ms", |row| format!("{:.2}", row.median.turn.p99_ms)),
                cpu,
            ];
            if workload.what == What::Uploads {
                all.push(syncs);
            }
            all.extend([peak, load]);
            all
        }
        What::Memory => vec![
            column("idle MiB", |row| format!("{:.0}", row.median.turn.idle_mib)),
            peak,
            column("MB/s", |row| format!("{:.0}", row.median.turn.mb_per_second)),
            cpu,
            load,
        ],
        What::Start => vec![column("ms", |row| format!("{:.0}", row.median.turn.start_ms))],
    }
}

fn table(text: &mut String, results: &Results, workload: &Workload, rows: &[Row]) {
    let columns = columns(results, workload);
    let ours = rows.iter().find(|row| row.kind == Kind::Ours);
    let titles: Vec<&str> = columns.iter().map(|(title, _)| *title).collect();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(format!("### {}\n", workload.title));
    line(format!("| | {} |", titles.join(" | ")));
    line(format!("|---|{}", "---|".repeat(titles.len())));
    for row in rows {
        let mark = if row.kind == Kind::Ours { "**" } else { "" };
        if row.median.rounds == 0 {
            line(format!(
                "| {mark}{}{mark} | failed |{}",
                row.title,
                " |".repeat(titles.len() - 1)
            ));
            continue;
        }
        let cells: Vec<String> = columns.iter().map(|(_, show)| show(row, ours)).collect();
        line(format!("| {mark}{}{mark} | {} |", row.title, cells.join(" | ")));
    }
    line(String::new());
    for row in rows {
        for warning in warnings(row) {
            line(format!("- {}: {warning}", row.title));
        }
    }
    line(String::new());
}

fn warnings(row: &Row) -> Vec<String> {
    let turn = &row.median.turn;
    let mut all = Vec::new();
    if turn.failed > 0 || turn.calls == 0 {
        let why = turn.error.as_deref().unwrap_or_default();
        let why = why.split_whitespace().collect::<Vec<_>>().join(" ");
        all.push(format!("{} calls FAILED, the first: {why}", turn.failed));
    }
    all.extend(turn.doubt.clone());
    if turn.foreign + turn.stolen > FOREIGN {
        let (foreign, stolen) = (turn.foreign, turn.stolen);
        all.push(format!("something else took {foreign:.2} of a core, and the host {stolen:.2}: not a quiet machine"));
    }
    all
}

fn ratio(row: &Row, ours: Option<&Row>) -> String {
    let Some(ours) = ours.filter(|ours| ours.median.rounds > 0) else { return "–".to_owned() };
    if ours.name == row.name {
        return "1".to_owned();
    }
    let ratio = ours.median.turn.per_second / row.median.turn.per_second;
    let note = if ours.median.run == row.median.run { "" } else { " (of two runs)" };
    format!("{ratio:.2} ×{note}")
}

fn targets(text: &mut String, results: &Results) {
    let known: Vec<(&Target, f64)> =
        TARGETS.iter().filter_map(|target| Some((target, reached(results, target)?))).collect();
    if known.is_empty() {
        return;
    }
    text.push_str("### Targets\n\n| work | at least | aim | reached | |\n|---|---|---|---|---|\n");
    for (target, value) in known {
        let title = WORKLOADS.iter().find(|workload| workload.name == target.workload);
        let title = title.map_or(target.workload, |workload| workload.title);
        let peer = target.against.and_then(crate::peer::Peer::named);
        let against = peer.map_or_else(String::new, |peer| format!(", to {}", peer.title));
        let (what, unit) = match target.figure {
            Figure::PerSecond => ("", " ×"),
            Figure::TailOverMedian => (", p99 to p50", " ×"),
            Figure::PeakMib => (", peak", " MiB"),
            Figure::IdleMib => (", idle before", " MiB"),
            Figure::StartMs => ("", " ms"),
        };
        let verdict = match (target.is_aim(value), target.is_met(value)) {
            (true, _) => "aim",
            (_, true) => "met",
            _ => "**missed**",
        };
        let Target { at_least, aim, .. } = target;
        let digits = if unit == " ×" { 2 } else { 0 };
        let _infallible = writeln!(
            text,
            "| {title}{what}{against} | {at_least}{unit} | {aim}{unit} | {value:.digits$}{unit} | {verdict} |"
        );
    }
    text.push('\n');
}

/// What filegate reached of a target. Nothing: it or the peer did not do it, or not in the same run.
fn reached(results: &Results, target: &Target) -> Option<f64> {
    let of = |peer| results.median(target.workload, peer).filter(|median| median.rounds > 0);
    let ours = of("filegate")?;
    let turn = &ours.turn;
    let value = match target.figure {
        Figure::PerSecond => turn.per_second,
        Figure::TailOverMedian => turn.p99_ms / turn.p50_ms,
        Figure::PeakMib => turn.peak_mib,
        Figure::IdleMib => turn.idle_mib,
        Figure::StartMs => turn.start_ms,
    };
    let Some(against) = target.against else { return Some(value) };
    let theirs = of(against).filter(|theirs| theirs.run == ours.run)?;
    Some(value / theirs.turn.per_second)
}

/// Writes a picture for each piece of work that something is known of; gives their names.
pub fn pictures(results: &Results, dir: &Path) -> Result<Vec<String>, Failed> {
    fs::create_dir_all(dir)?;
    let mut names = Vec::new();
    for workload in WORKLOADS {
        let rows: Vec<Row> =
            rows(results, workload).into_iter().filter(|row| row.median.rounds > 0).collect();
        if rows.is_empty() {
            continue;
        }
        let name = format!("{}.svg", workload.name);
        fs::File::create(dir.join(&name))?.write_all(picture(workload, &rows).svg()?.as_bytes())?;
        names.push(name);
    }
    Ok(names)
}

fn picture(workload: &Workload, rows: &[Row]) -> Bars {
    let small = workload.content == Content::Small;
    let subtitle = match workload.what {
        What::Uploads if small => "uploads a second, more is better",
        What::Uploads => "MB a second, more is better",
        What::Downloads => "downloads a second, more is better",
        What::Memory => "most resident memory in MiB, less is better",
        What::Start => "milliseconds, less is better",
    };
    let bar = |row: &Row| {
        let turn = &row.median.turn;
        let (value, note) = match workload.what {
            What::Uploads if !small => {
                (turn.mb_per_second, format!("{:.0} MB/s", turn.mb_per_second))
            }
            What::Uploads | What::Downloads => {
                (turn.per_second, format!("{}/s", thousands(turn.per_second)))
            }
            What::Memory => {
                (turn.peak_mib, format!("{:.0} MiB, idle {:.0}", turn.peak_mib, turn.idle_mib))
            }
            What::Start => (turn.start_ms, format!("{} ms", thousands(turn.start_ms))),
        };
        Bar { label: row.title.to_owned(), value, note, kind: row.kind }
    };
    Bars {
        title: workload.title.to_owned(),
        subtitle: subtitle.to_owned(),
        bars: rows.iter().map(bar).collect(),
    }
}

/// `6,355`; small numbers with a digit more.
fn thousands(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Record, Run, Turn};

    fn results(turns: &[(&str, &str, f64)]) -> Results {
        let mut results = Results::default();
        let run = Run { began: "now".to_owned(), machine: "here".to_owned(), seconds: 1.0 };
        results.add(Record::Run(run));
        for (workload, peer, per_second) in turns {
            let [workload, peer] = [*workload, *peer].map(str::to_owned);
            let turn =
                Turn { workload, peer, calls: 10, per_second: *per_second, ..Turn::default() };
            results.add(Record::Turn(turn));
        }
        results
    }

    #[test]
    fn a_table_has_ratios_and_says_what_is_missed() {
        let results = results(&[
            ("small-32", "nginx", 6000.0),
            ("small-32", "filegate", 3000.0),
            ("small-32", "by-hand-durable", 2000.0),
        ]);
        let text = markdown(&results);
        assert!(text.contains("| nginx DAV PUT, no sync | 6,000 | 0 | 0.50 × |"), "{text}");
        assert!(text.contains("| 0.55 × | 0.8 × | 0.50 × | **missed** |"), "{text}");
        assert!(text.contains("| 1.4 × | 1.8 × | 1.50 × | met |"), "{text}");
        let [nginx, ours] = ["| nginx", "| **filegate**"].map(|row| text.find(row).unwrap());
        assert!(nginx < ours);
    }

    #[test]
    fn figures_of_two_runs_are_no_target_reached() {
        let mut results = results(&[("small-32", "nginx", 6000.0)]);
        let run = Run { began: "later".to_owned(), machine: "here".to_owned(), seconds: 1.0 };
        results.add(Record::Run(run));
        let [workload, peer] = ["small-32", "filegate"].map(str::to_owned);
        let turn = Turn { workload, peer, calls: 1, per_second: 6000.0, ..Turn::default() };
        results.add(Record::Turn(turn));
        let text = markdown(&results);
        assert!(text.contains("1.00 × (of two runs)") && !text.contains("### Targets"), "{text}");
    }

    #[test]
    fn a_peer_that_failed_is_told() {
        let mut results = results(&[("small-1", "filegate", 10.0)]);
        let [workload, peer] = ["small-1", "nginx"].map(str::to_owned);
        let error = Some("no\nstart".to_owned());
        results.add(Record::Turn(Turn { workload, peer, error, failed: 1, ..Turn::default() }));
        let text = markdown(&results);
        assert!(text.contains("| nginx DAV PUT, no sync | failed |"), "{text}");
        assert!(text.contains("1 calls FAILED, the first: no start"), "{text}");
    }

    #[test]
    fn numbers_have_their_commas() {
        for (value, text) in
            [(21.04, "21.0"), (999.6, "1,000"), (1_234_567.0, "1,234,567"), (865.0, "865")]
        {
            assert_eq!(thousands(value), text);
        }
    }
}
