//! Counts the instructions that filegate executes for an upload, a read, a relayed call and for each probe, and
//! compares them with those that were accepted last (`accepted.json`).
//!
//! ```sh
//! cargo build --profile counted -p filegate -p filegate-counts
//! target/counted/filegate-counts                  compare; fails if anything is more than 5 % worse
//! target/counted/filegate-counts --accept         the counts of now are those to compare with
//! target/counted/filegate-counts --areas          where the instructions of an upload go
//! ```
//!
//! The counts are callgrind's. Unlike time they hardly depend on what else the machine does; they do depend on the
//! compiler, the C library and the processor's features that are chosen at run time, so those stand beside the
//! accepted counts ([`machine`]), and where they differ nothing is compared and that is said. Whole calls are counted in the real
//! binary ([`gateway`]), with one worker thread and one call at a time; probes, the form reader and the rewriter in this program ([`pieces`]).
//!
//! What is not counted: the kernel, waiting, and that valgrind's processor has no instructions for SHA-256. So hashing, which
//! would hide everything else, is compared by itself.

mod areas;
mod callgrind;
mod compare;
mod gateway;
mod machine;
mod names;
mod pieces;
mod profile;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::compare::{Accepted, Count};
use crate::machine::Machine;
use crate::profile::Profile;

/// What was counted under a name, for one call.
type Profiles = BTreeMap<String, Profile>;

#[derive(Debug, Default)]
struct Arguments {
    /// Replace what was accepted.
    accept: bool,
    /// Show where the instructions of the named things go.
    areas: bool,
    /// What the names of the things that are counted hold.
    only: String,
    /// Where callgrind's files are kept, for kcachegrind.
    keep: Option<PathBuf>,
    /// The binary; beside this program by default.
    filegate: Option<PathBuf>,
    /// This is the process that is counted.
    inside: bool,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            say(&format!("cannot count: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// Whether everything is as good as it was.
fn run() -> anyhow::Result<bool> {
    let arguments = arguments(std::env::args().skip(1))?;
    if arguments.inside {
        pieces::run(&arguments.only);
        return Ok(true);
    }
    let machine = Machine::here()?;
    let accepted = Accepted::read(&accepted_file())?;
    let comparing = !arguments.accept && !arguments.areas && !accepted.is_empty();
    if comparing && accepted.machine != machine {
        say(&format!(
            "NOT CHECKED: the accepted counts are of another machine\n  accepted: {}\n  here:     {machine}",
            accepted.machine
        ));
        return Ok(true);
    }
    let temporary = tempfile::tempdir()?;
    let home = arguments.keep.as_deref().unwrap_or(temporary.path());
    std::fs::create_dir_all(home)?;
    let profiles = count(&arguments, home)?;
    if arguments.areas {
        for (name, profile) in &profiles {
            say(&areas::table(name, profile));
        }
        return Ok(true);
    }
    let now: BTreeMap<String, Count> =
        profiles.iter().map(|(name, profile)| (name.clone(), Count::of(profile))).collect();
    let whole = arguments.only.is_empty();
    if arguments.accept {
        accepted.replaced(machine, now, whole)?.write(&accepted_file())?;
        say("the counts of now are accepted");
        return Ok(true);
    }
    let outcome = accepted.compare(&now, whole);
    say(&outcome.report());
    Ok(outcome.passes())
}

fn count(arguments: &Arguments, home: &Path) -> anyhow::Result<Profiles> {
    let filegate = match &arguments.filegate {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("filegate"),
    };
    let mut profiles = gateway::count(&filegate, home, &arguments.only)?;
    profiles.extend(pieces::count(home, &arguments.only)?);
    if profiles.is_empty() {
        bail!("nothing has a name with {:?} in it", arguments.only);
    }
    Ok(profiles)
}

fn accepted_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("accepted.json")
}

fn arguments(mut words: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut arguments = Arguments::default();
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word} needs a value"));
        match word.as_str() {
            "--accept" => arguments.accept = true,
            "--areas" => arguments.areas = true,
            "--only" => arguments.only = value()?,
            "--keep" => arguments.keep = Some(value()?.into()),
            "--filegate" => arguments.filegate = Some(value()?.into()),
            pieces::INSIDE => arguments.inside = true,
            other => {
                bail!(
                    "{other}: known are --accept, --areas, --only WORDS, --keep DIR, --filegate PATH"
                );
            }
        }
    }
    Ok(arguments)
}

#[expect(clippy::print_stdout, reason = "what a bench is for")]
fn say(text: &str) {
    println!("{text}");
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = File::create(path).and_then(|mut file| file.write_all(text.as_bytes()));
    written.with_context(|| format!("cannot write {}", path.display()))
}
