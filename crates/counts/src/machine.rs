//! What counts depend on besides the code.

use std::fmt;
use std::process::Command;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use crate::{callgrind, pieces};

/// Where two of these are equal, so are counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The compiler, as `rustc --version` says it.
    rustc: String,
    /// The C library; `memcpy` and `malloc` are its.
    libc: String,
    /// Features of the processor that valgrind shows to programs, of those that libraries choose their code by. A
    /// host with AVX2 or without makes the difference; newer features are not passed on.
    processor: String,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> anyhow::Result<Self> {
        let home = tempfile::tempdir()?;
        let mut features = callgrind::command(&std::env::current_exe()?, home.path(), "features");
        features.arg(pieces::INSIDE).args(["--only", pieces::FEATURES]);
        Ok(Self {
            rustc: said(Command::new("rustc").arg("--version"))?,
            libc: said(Command::new("getconf").arg("GNU_LIBC_VERSION"))?,
            processor: said(&mut features)?,
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}; {}", self.rustc, self.libc, self.processor)
    }
}

/// What a program writes, without white space around it.
fn said(command: &mut Command) -> anyhow::Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().with_context(|| format!("cannot run {name}"))?;
    if !output.status.success() {
        bail!("{name} failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The features that this process sees, of those that libraries in use here ask for.
pub(crate) fn features() -> String {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let all = [
            ("ssse3", has!("ssse3")),
            ("sse4.1", has!("sse4.1")),
            ("sse4.2", has!("sse4.2")),
            ("popcnt", has!("popcnt")),
            ("aes", has!("aes")),
            ("pclmulqdq", has!("pclmulqdq")),
            ("avx", has!("avx")),
            ("avx2", has!("avx2")),
            ("f16c", has!("f16c")),
            ("fma", has!("fma")),
            ("bmi1", has!("bmi1")),
            ("bmi2", has!("bmi2")),
            ("lzcnt", has!("lzcnt")),
            ("movbe", has!("movbe")),
            ("adx", has!("adx")),
            ("sha", has!("sha")),
            ("rdrand", has!("rdrand")),
            ("rdseed", has!("rdseed")),
            ("avx512f", has!("avx512f")),
        ];
        let here: Vec<&str> = all.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
        format!("x86_64 {}", here.join(" "))
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::env::consts::ARCH.to_owned()
}
