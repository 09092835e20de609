//! How reading the catalog grows with its rows, on both databases.
//!
//! ```sh
//! cargo bench -p filegate-store --bench rows -- --rows 10000,10000000
//! cargo bench -p filegate-store --bench rows -- --rows 10000,10000000 --postgres postgres://postgres@127.0.0.1/bench
//! ```
//!
//! Fills one catalog for each count (SQLite: a directory below `--dir`; PostgreSQL: the databases `NAME_COUNT` beside
//! the one that the URL names, which is used to make them), then calls `file` and `list` as the server does,
//! the catalogs in turn, so that a machine that slows down slows all of them. A catalog that is there already is used
//! again. Half of the files belong to one large account, the others to accounts of a thousand files: `filegate_testkit::rows`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use filegate_store::{Catalog, DataDir, PostgresOptions, Reserve};
use filegate_testkit::rows::{self, id_of};
use filegate_types::{AccountId, FileId, UnixMillis};
use tokio_postgres::NoTls;

const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
/// Files of a page of `list`.
const PAGE: u32 = 100;
/// Calls to one catalog before it is the next one's turn.
const TURN: usize = 200;

type Failed = rows::Failed;

struct Arguments {
    rows: Vec<i64>,
    calls: usize,
    dir: PathBuf,
    postgres: Option<String>,
}

struct Filled {
    rows: i64,
    catalog: Catalog,
    file: Vec<Duration>,
    list: Vec<Duration>,
    list_large: Vec<Duration>,
}

fn main() -> Result<(), Failed> {
    let arguments = Arguments::parse(std::env::args().skip(1))?;
    tokio::runtime::Runtime::new()?.block_on(run(&arguments))
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, Failed> {
        let mut parsed = Self {
            rows: vec![10_000, 100_000],
            calls: 4_000,
            dir: std::env::temp_dir().join("filegate-rows"),
            postgres: None,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--rows" => {
                    parsed.rows = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?;
                }
                "--calls" => parsed.calls = value()?.parse()?,
                "--dir" => parsed.dir = value()?.into(),
                "--postgres" => parsed.postgres = Some(value()?),
                // What cargo itself passes.
                "--bench" => {}
                other => return Err(format!("unknown argument {other}").into()),
            }
        }
        Ok(parsed)
    }
}

async fn run(arguments: &Arguments) -> Result<(), Failed> {
    let mut all = Vec::new();
    for &rows in &arguments.rows {
        let started = Instant::now();
        let catalog = match &arguments.postgres {
            None => sqlite(&arguments.dir.join(rows.to_string()), rows)?,
            Some(url) => postgres(url, rows).await?,
        };
        say(&format!("{rows} rows are there after {:.0?}", started.elapsed()));
        let (file, list, list_large) = (vec![], vec![], vec![]);
        all.push(Filled { rows, catalog, file, list, list_large });
    }
    // The first turns only warm the caches.
    for filled in &mut all {
        turn(filled, TURN * 5, 0).await?;
        filled.file.clear();
        filled.list.clear();
        filled.list_large.clear();
    }
    for round in 0..arguments.calls.div_ceil(TURN) {
        for filled in &mut all {
            turn(filled, TURN, round as u64 + 1).await?;
        }
    }
    report(&mut all);
    Ok(())
}

/// Calls as a server makes them, on rows chosen by a generator that starts from `seed`.
async fn turn(filled: &mut Filled, calls: usize, seed: u64) -> Result<(), Failed> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed + 1);
    let mut random = |below: i64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.cast_unsigned()).cast_signed()
    };
    for _ in 0..calls {
        let row = random(filled.rows);
        let (account, id) = (account_of(row), FileId::new(id_of(row))?);
        let started = Instant::now();
        let found = filled.catalog.file(account, id, NOW).await?;
        filled.file.push(started.elapsed());
        if found.is_none() {
            return Err(format!("row {row} is not there").into());
        }

        // Most accounts are small; the large one is looked at by itself.
        let small = account_of(random(filled.rows) | 1);
        let started = Instant::now();
        let listed = filled.catalog.list(small, vec![], None, PAGE, NOW).await?;
        filled.list.push(started.elapsed());
        let after = FileId::new(id_of(random(filled.rows) & !1) + 1)?;
        let started = Instant::now();
        filled.catalog.list(AccountId(rows::LARGE), vec![], Some(after), PAGE, NOW).await?;
        filled.list_large.push(started.elapsed());
        if listed.is_empty() {
            return Err("an account has no files".into());
        }
    }
    Ok(())
}

fn account_of(row: i64) -> AccountId {
    AccountId(rows::account_of(row))
}

fn report(all: &mut [Filled]) {
    let percentile = |times: &mut Vec<Duration>, of: usize| {
        times.sort_unstable();
        times[(times.len() * of / 100).min(times.len() - 1)].as_secs_f64() * 1e6
    };
    say(&format!(
        "{:>12} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}   microseconds",
        "rows", "file p50", "p99", "list p50", "p99", "large p50", "p99"
    ));
    let mut first: Option<[f64; 6]> = None;
    for filled in all {
        let mut figures = [0.0; 6];
        let measured = [&mut filled.file, &mut filled.list, &mut filled.list_large];
        for (pair, times) in figures.chunks_exact_mut(2).zip(measured) {
            pair[0] = percentile(times, 50);
            pair[1] = percentile(times, 99);
        }
        let line: Vec<_> = figures.iter().map(|figure| format!("{figure:>10.0}")).collect();
        say(&format!("{:>12} {}", filled.rows, line.join(" ")));
        let base = *first.get_or_insert(figures);
        let ratios: Vec<_> =
            figures.iter().zip(base).map(|(f, base)| format!("{:>10.2}", f / base)).collect();
        say(&format!("{:>12} {}", "of the first", ratios.join(" ")));
    }
}

fn sqlite(dir: &Path, rows: i64) -> Result<Catalog, Failed> {
    let dir = DataDir::open(dir)?;
    let reserve = Arc::new(Reserve::of(&dir));
    let catalog = Catalog::open(&dir, reserve)?;
    rows::sqlite(&dir.catalog_path(), rows)?;
    Ok(catalog)
}

async fn postgres(url: &str, rows: i64) -> Result<Catalog, Failed> {
    let (start, name) = url.rsplit_once('/').ok_or("the URL names no database")?;
    let database = format!("{name}_{rows}");
    let own = format!("{start}/{database}");
    let maker = connect(url).await?;
    let known =
        maker.query_opt("SELECT 1 FROM pg_database WHERE datname = $1", &[&database]).await?;
    if known.is_none() {
        maker.batch_execute(&format!("CREATE DATABASE \"{database}\"")).await?;
    }
    let catalog = Catalog::connect(PostgresOptions {
        url: own.clone(),
        connections: 8,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: Duration::from_mins(1),
        wait: Duration::from_secs(5),
    })
    .await?;
    rows::postgres(&connect(&own).await?, rows).await?;
    Ok(catalog)
}

async fn connect(url: &str) -> Result<tokio_postgres::Client, Failed> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    #[expect(clippy::disallowed_methods, reason = "a program that measures has no task tracker")]
    tokio::spawn(connection);
    Ok(client)
}

#[expect(clippy::print_stdout, reason = "what a bench is for")]
fn say(line: &str) {
    println!("{line}");
}
