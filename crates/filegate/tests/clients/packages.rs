//! The clients that come from package registries, in pinned versions.
//!
//! `./test` prepares the Python ones and says where in `TEST_PYTHON`; a name that begins with
//! `FILEGATE_` would be taken for a setting by the servers that tests start. What is not prepared is
//! installed below cargo's target directory by the first test that needs it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{SCRIPTS, succeed};

/// A Python with the packages of `requirements.txt`.
pub(crate) fn python() -> PathBuf {
    if let Some(path) = std::env::var_os("TEST_PYTHON") {
        return path.into();
    }
    let pins = fs::read_to_string(format!("{SCRIPTS}/requirements.txt")).unwrap();
    let venv = installed("python", &pins, |dir| {
        succeed(Command::new("python3").args(["-m", "venv"]).arg(dir));
        let pip = ["install", "--quiet", "--disable-pip-version-check", "-r"];
        let pins = format!("{SCRIPTS}/requirements.txt");
        succeed(Command::new(dir.join("bin/pip")).args(pip).arg(pins));
    });
    venv.join("bin/python")
}

/// The program `mmx` of the npm package that `package.json` pins.
pub(crate) fn mmx() -> PathBuf {
    let pins = fs::read_to_string(format!("{SCRIPTS}/package.json")).unwrap();
    let dir = installed("node", &pins, |dir| {
        fs::create_dir_all(dir).unwrap();
        fs::copy(format!("{SCRIPTS}/package.json"), dir.join("package.json")).unwrap();
        let quietly = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
        succeed(Command::new("npm").args(quietly).current_dir(dir));
    });
    dir.join("node_modules/.bin/mmx")
}

/// The directory that `install` fills, once for these pins, whatever test processes run at a time.
fn installed(name: &str, pins: &str, install: impl FnOnce(&Path)) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let lock = File::create(root.join(format!("{name}.lock"))).unwrap();
    lock.lock().unwrap();
    let (dir, done) = (root.join(name), root.join(format!("{name}.done")));
    if fs::read_to_string(&done).is_ok_and(|found| found == pins) {
        return dir;
    }
    let _nothing_to_remove = fs::remove_dir_all(&dir);
    install(&dir);
    let temporary = tempfile::NamedTempFile::new_in(root).unwrap();
    std::io::Write::write_all(&mut temporary.as_file(), pins.as_bytes()).unwrap();
    temporary.persist(&done).unwrap();
    dir
}
