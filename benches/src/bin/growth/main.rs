//! How a running filegate grows: with the files in its catalog, and with connections.
//!
//! ```sh
//! cargo build --release -p filegate
//! cargo run --release -p filegate-benches --bin growth
//! cargo run --release -p filegate-benches --bin growth -- --data-dir /srv/growth --rows 10000,1000000
//! cargo run --release -p filegate-benches --bin growth -- --only connections --idle 10,1000 --seconds 3
//! cargo run --release -p filegate-benches --bin growth -- --redraw target/growth.jsonl
//! ```
//!
//! Each catalog is filled in SQL (`filegate_testkit::rows`) and has a server of its own; the servers take turns, so that a machine that
//! slows down slows all of them. Tables go to standard output, figures as lines of JSON to `--json`, pictures to
//! `--pictures`. With `--data-dir` the catalogs stay there for the next time; 10 million rows take 3.2 GB.

mod connections;
mod draw;
mod files;
mod server;
mod work;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use server::Place;

use filegate_benches::Failed;

/// What is measured.
#[derive(Debug)]
pub(crate) struct Arguments {
    pub(crate) filegate: PathBuf,
    /// Files of each catalog, from few to many.
    pub(crate) rows: Vec<i64>,
    /// Idle connections, from few to many.
    pub(crate) idle: Vec<usize>,
    /// Connections that all call at once.
    pub(crate) active: Vec<u16>,
    /// How long they do.
    pub(crate) time: Duration,
    data_dir: Option<PathBuf>,
    json: PathBuf,
    pictures: PathBuf,
    redraw: Option<PathBuf>,
    /// `files`, `connections` or nothing: both.
    only: String,
}

/// A line of the results.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(crate) enum Line {
    Files(files::Grown),
    Idle(connections::Idle),
    Active(connections::Active),
}

/// What was measured, kept as it comes.
#[derive(Debug)]
pub(crate) struct Results {
    file: fs::File,
    lines: Vec<Line>,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    let (lines, ended) = if let Some(file) = &arguments.redraw {
        (read(file)?, Ok(()))
    } else {
        let mut results = Results { file: fs::File::create(&arguments.json)?, lines: vec![] };
        let ended = measured(&arguments, &mut results);
        (results.lines, ended)
    };
    say(&draw::tables(&lines));
    draw::pictures(&lines, &arguments.pictures)?;
    ended
}

impl Results {
    pub(crate) fn add(&mut self, line: Line) -> Result<(), Failed> {
        writeln!(self.file, "{}", serde_json::to_string(&line)?)?;
        self.lines.push(line);
        Ok(())
    }
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failed> {
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        let mut parsed = Self {
            filegate: target.join("release/filegate"),
            rows: vec![10_000, 1_000_000, 10_000_000],
            idle: vec![10, 1_000, 10_000],
            active: vec![32, 1_000],
            time: Duration::from_secs(5),
            data_dir: None,
            json: target.join("growth.jsonl"),
            pictures: Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/performance"),
            redraw: None,
            only: String::new(),
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--filegate" => parsed.filegate = value()?.into(),
                "--rows" => parsed.rows = counts(&value()?)?,
                "--idle" => parsed.idle = counts(&value()?)?,
                "--active" => parsed.active = counts(&value()?)?,
                "--seconds" => parsed.time = Duration::from_secs_f64(value()?.parse()?),
                "--data-dir" => parsed.data_dir = Some(value()?.into()),
                "--json" => parsed.json = value()?.into(),
                "--pictures" => parsed.pictures = value()?.into(),
                "--redraw" => parsed.redraw = Some(value()?.into()),
                "--only" => parsed.only = value()?,
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        if parsed.rows.iter().any(|rows| *rows < 2)
            || parsed.idle.contains(&0)
            || parsed.active.contains(&0)
        {
            return Err("at least 2 rows and 1 connection".into());
        }
        parsed.rows.sort_unstable();
        parsed.idle.sort_unstable();
        Ok(parsed)
    }
}

fn counts<T: std::str::FromStr<Err: std::error::Error + Send + Sync + 'static>>(
    words: &str,
) -> Result<Vec<T>, Failed> {
    let all: Vec<T> = words.split(',').map(str::parse).collect::<Result<_, _>>()?;
    Ok(all)
}

fn read(file: &Path) -> Result<Vec<Line>, Failed> {
    let text = fs::read_to_string(file)?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn measured(arguments: &Arguments, results: &mut Results) -> Result<(), Failed> {
    filegate_load::process::end_with_this_program()?;
    all_descriptors()?;
    let temporary;
    let home = if let Some(dir) = &arguments.data_dir {
        fs::create_dir_all(dir)?;
        dir
    } else {
        // Not where temporary files are: that may be memory.
        let target = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target");
        temporary = tempfile::tempdir_in(target)?;
        temporary.path()
    };
    let place =
        |rows: i64| Place { binary: arguments.filegate.clone(), data: home.join(rows.to_string()) };
    if arguments.only != "connections" {
        let places: Vec<_> = arguments.rows.iter().map(|rows| (*rows, place(*rows))).collect();
        for grown in files::measured(&places)? {
            results.add(Line::Files(grown))?;
        }
    }
    if arguments.only != "files" {
        let rows = arguments.rows[0];
        connections::measured(arguments, rows, &place(rows), results)?;
    }
    // What was uploaded, and only now: ext4 is slow to create files where others were deleted during the last minute. Its rows go when the
    // catalog is used again.
    for rows in &arguments.rows {
        let blobs = place(*rows).data.join("blobs");
        if blobs.try_exists()? {
            fs::remove_dir_all(blobs)?;
        }
    }
    Ok(())
}

/// As many open files as may be had, for this program and the servers that it starts.
fn all_descriptors() -> Result<(), Failed> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    Ok(setrlimit(Resource::Nofile, limit)?)
}

#[expect(clippy::print_stdout, reason = "what a bench is for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "what a bench tells while it is at work")]
pub(crate) fn tell(text: &str) {
    eprintln!("{text}");
}
