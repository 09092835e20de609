//! Tables and pictures of what was measured.

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use filegate_benches::Failed;
use filegate_benches::chart::{self, Kind, Lines, Scale};

use crate::Line;
use crate::connections::{Active, Idle};
use crate::files::{Cost, Grown};

const MB: f64 = 1e6;

/// A line of a picture: its name, whose it is, and its value of what was measured.
type Of<'a, T> = (&'a str, Kind, fn(&T) -> f64);

/// Markdown.
pub(crate) fn tables(lines: &[Line]) -> String {
    let tables =
        [files_table(&grown(lines)), idle_table(&idle(lines)), active_table(&active(lines))];
    let tables: Vec<_> = tables.into_iter().flatten().collect();
    tables.join("\n")
}

fn files_table(all: &[&Grown]) -> Option<String> {
    let first = all.first()?;
    let mut text = "| files | catalog | retrieve p50, p99 | processor time | upload p50, p99 | processor time | written | \
                    first answer, from disk | retrieve from disk p50, p99 | read |\n\
                    |---|---|---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for grown in all {
        let Grown { files, catalog, start_ms, cold, retrieve, upload } = grown;
        let _into_memory = writeln!(
            text,
            "| {} | {:.0} MB | {} ms | {:.3} ms | {} ms | {:.3} ms | {:.0} KB | {start_ms:.0} ms | {} ms | {:.1} KB |",
            thousands(*files as f64),
            *catalog as f64 / MB,
            percentiles(retrieve),
            retrieve.cpu_ms,
            percentiles(upload),
            upload.cpu_ms,
            upload.written / 1e3,
            percentiles(cold),
            cold.read / 1e3,
        );
    }
    if all.len() > 1 {
        let last = all[all.len() - 1];
        let ratio = |of: fn(&Grown) -> f64| of(last) / of(first);
        let _into_memory = writeln!(
            text,
            "| *last to first* | | {:.2}, {:.2} | {:.2} | {:.2}, {:.2} | {:.2} | {:.2} | | {:.2}, {:.2} | |",
            ratio(|grown| grown.retrieve.p50_ms),
            ratio(|grown| grown.retrieve.p99_ms),
            ratio(|grown| grown.retrieve.cpu_ms),
            ratio(|grown| grown.upload.p50_ms),
            ratio(|grown| grown.upload.p99_ms),
            ratio(|grown| grown.upload.cpu_ms),
            ratio(|grown| grown.upload.written),
            ratio(|grown| grown.cold.p50_ms),
            ratio(|grown| grown.cold.p99_ms),
        );
    }
    Some(text)
}

fn percentiles(cost: &Cost) -> String {
    format!("{:.2}, {:.2}", cost.p50_ms, cost.p99_ms)
}

fn idle_table(all: &[&Idle]) -> Option<String> {
    let first = all.first()?;
    let mut text = "| idle connections | resident | for each more | processor time a second | retrieve beside them p50, p99 | its \
                    processor time |\n|---|---|---|---|---|---|\n"
        .to_owned();
    for idle in all {
        let more = idle.connections - first.connections;
        let each = (idle.resident as f64 - first.resident as f64) / more as f64 / 1024.0;
        let each = if more == 0 { "–".to_owned() } else { format!("{each:.1} KiB") };
        let _into_memory = writeln!(
            text,
            "| {} | {:.1} MB | {each} | {:.1} ms | {:.3}, {:.3} ms | {:.3} ms |",
            thousands(idle.connections as f64),
            idle.resident as f64 / MB,
            idle.cpu_ms,
            idle.p50_ms,
            idle.p99_ms,
            idle.call_cpu_ms,
        );
    }
    Some(text)
}

fn active_table(all: &[&Active]) -> Option<String> {
    all.first()?;
    let mut text = "| active connections | call | a second | failed | p50, p99 | processor time | most memory | cores of the load |\n\
                    |---|---|---|---|---|---|---|---|\n"
        .to_owned();
    for active in all {
        let _into_memory = writeln!(
            text,
            "| {} | {} | {} | {} | {:.1}, {:.1} ms | {:.3} ms | {:.0} MB | {:.2} |",
            thousands(f64::from(active.connections)),
            active.call,
            thousands(active.per_second),
            active.failed,
            active.p50_ms,
            active.p99_ms,
            active.call_cpu_ms,
            active.peak as f64 / MB,
            active.load,
        );
    }
    Some(text)
}

/// Draws what there is two of at least.
pub(crate) fn pictures(lines: &[Line], into: &Path) -> Result<(), Failed> {
    fs::create_dir_all(into)?;
    let (grown, idle) = (grown(lines), idle(lines));
    let files = |of: &[Of<'_, Grown>], title: &str| {
        let subtitle = "milliseconds by files in the catalog, less is better";
        picture(&grown, of, (title, subtitle), ("files", |grown| grown.files as f64), "ms")
    };
    let connections = |of: &[Of<'_, Idle>], title: &str, subtitle: &str, unit: &str| {
        picture(
            &idle,
            of,
            (title, subtitle),
            ("idle connections", |idle| idle.connections as f64),
            unit,
        )
    };
    let all = [
        (
            "growth-retrieve.svg",
            files(
                &[
                    ("processor time", Kind::Ours, |grown| grown.retrieve.cpu_ms),
                    ("p50", Kind::Peer, |grown| grown.retrieve.p50_ms),
                    ("p99", Kind::Peer, |grown| grown.retrieve.p99_ms),
                ],
                "A retrieve, 8 connections",
            ),
        ),
        (
            "growth-upload.svg",
            files(
                &[
                    ("processor time", Kind::Ours, |grown| grown.upload.cpu_ms),
                    ("p50", Kind::Peer, |grown| grown.upload.p50_ms),
                    ("p99", Kind::Peer, |grown| grown.upload.p99_ms),
                ],
                "An upload of 100 KB, 8 connections",
            ),
        ),
        (
            "growth-idle-memory.svg",
            // Not in decades: what grows with each is then a straight line.
            Lines {
                x: Scale { label: "idle connections".to_owned(), log: false },
                ..connections(
                    &[("resident", Kind::Ours, |idle| idle.resident as f64 / MB)],
                    "Memory with idle connections",
                    "megabytes, less is better",
                    "MB",
                )
            },
        ),
        (
            "growth-idle-retrieve.svg",
            connections(
                &[
                    ("processor time", Kind::Ours, |idle| idle.call_cpu_ms),
                    ("p50", Kind::Peer, |idle| idle.p50_ms),
                    ("p99", Kind::Peer, |idle| idle.p99_ms),
                ],
                "A retrieve beside idle connections",
                "milliseconds, one call after the other on one connection, less is better",
                "ms",
            ),
        ),
    ];
    for (name, picture) in all {
        if picture.lines.iter().all(|line| line.points.len() > 1) {
            fs::File::create(into.join(name))?.write_all(picture.svg()?.as_bytes())?;
        }
    }
    Ok(())
}

fn picture<T>(
    all: &[&T],
    of: &[Of<'_, T>],
    (title, subtitle): (&str, &str),
    (label, x): (&str, fn(&T) -> f64),
    unit: &str,
) -> Lines {
    let line = |(label, kind, y): &Of<'_, T>| chart::Line {
        label: (*label).to_owned(),
        points: all.iter().map(|one| (x(one), y(one))).collect(),
        kind: *kind,
    };
    Lines {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        x: Scale { label: label.to_owned(), log: true },
        y: Scale { label: unit.to_owned(), log: false },
        lines: of.iter().map(line).collect(),
    }
}

fn grown(lines: &[Line]) -> Vec<&Grown> {
    lines
        .iter()
        .filter_map(|line| if let Line::Files(one) = line { Some(one) } else { None })
        .collect()
}

fn idle(lines: &[Line]) -> Vec<&Idle> {
    lines
        .iter()
        .filter_map(|line| if let Line::Idle(one) = line { Some(one) } else { None })
        .collect()
}

fn active(lines: &[Line]) -> Vec<&Active> {
    lines
        .iter()
        .filter_map(|line| if let Line::Active(one) = line { Some(one) } else { None })
        .collect()
}

/// `10,000`.
fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (nth, digit) in digits.chars().enumerate() {
        if nth > 0 && (digits.len() - nth) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
