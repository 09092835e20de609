//! Running programs under callgrind.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::profile::Profile;

/// `program` under callgrind, in an environment of its own, so that neither its size nor settings matter. What is
/// counted goes to files in `home` that begin with `name`.
pub(crate) fn command(program: &Path, home: &Path, name: &str) -> Command {
    command_with(program, home, name, &[])
}

/// As [`command`], with more options of callgrind's.
pub(crate) fn command_with(program: &Path, home: &Path, name: &str, options: &[&str]) -> Command {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--demangle=no"]);
    // Threads take turns in a fixed order.
    command.arg("--fair-sched=yes");
    command.arg(format!("--callgrind-out-file={}", home.join(name).display()));
    command.arg(format!("--vgdb-prefix={}", home.join("vgdb").display()));
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("TMPDIR", home);
    command.env("TOKIO_WORKER_THREADS", "1");
    command.args(options).arg(program);
    command
}

/// Tells the running callgrind of process `pid` something.
pub(crate) fn tell(home: &Path, pid: u32, what: &str) -> anyhow::Result<()> {
    let prefix = format!("--vgdb-prefix={}", home.join("vgdb").display());
    let output = Command::new("vgdb")
        .args([prefix, format!("--pid={pid}"), what.to_owned()])
        .output()
        .context("cannot run vgdb, which comes with valgrind")?;
    if !output.status.success() {
        bail!("callgrind cannot be told {what:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// The file that was written `part`th under `name`, from one.
pub(crate) fn part(home: &Path, name: &str, part: usize, calls: u64) -> anyhow::Result<Profile> {
    let path = home.join(format!("{name}.{part}"));
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Profile::read(&text, calls).with_context(|| path.display().to_string())
}
