//! The commands of docs/OPERATIONS.md do what it says.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use filegate_testkit::place::only_embedded;
use filegate_testkit::server::Setup;

use crate::readme::{Snippet, interpreter, snippets};
use crate::{Bench, FILEGATE, REPOSITORY, run, told};

/// Blocks that the test does itself: it starts the server and knows its token.
const DONE_HERE: [&str; 3] = [
    "filegate serve\n",
    "export FILEGATE_ADMIN_URL=http://127.0.0.1:8081\nexport FILEGATE_ADMIN_TOKEN=fg-admin-…\n",
    "filegate serve --data-dir restored\n",
];

/// The blocks of a section as one script, so that what one sets is there for the next.
///
/// A block that is to show a text is tried until it does: lists are in force only after a while.
fn script(section: &[Snippet]) -> String {
    let mut script = String::new();
    for Snippet { line, text, shows, .. } in section {
        match shows {
            None => script.push_str(text),
            Some(shows) => {
                let _infallible = write!(
                    script,
                    "for nth in $(seq 40); do\n  out=$({{\n{text}}} 2>&1) || true\n  printf '%s\\n' \"$out\"\n  \
                     case \"$out\" in *'{shows}'*) break;; esac\n  \
                     if [ \"$nth\" = 40 ]; then echo 'line {line} does not show {shows}' >&2; exit 9; fi\n  \
                     sleep 0.25\ndone\n"
                );
            }
        }
    }
    script
}

#[test]
fn every_command_for_operators_works() {
    if only_embedded(
        "the page is about one machine: snapshots of a data directory are among its commands",
    ) {
        return;
    }
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/OPERATIONS.md")).unwrap();
    let fences = page.matches("```sh\n").count();
    assert_eq!(fences, snippets(&page).len() + DONE_HERE.len(), "a block is not marked as tested");
    for block in DONE_HERE {
        assert!(page.contains(&format!("```sh\n{block}```")), "{block}");
    }

    let bench = Bench::start();
    let server = &bench.server;
    symlink(&server.data_dir, bench.path("filegate-data")).unwrap();
    let mut tested = 0;
    for section in page.split("\n## ").skip(1) {
        let title = section.lines().next().unwrap();
        let blocks = snippets(section);
        assert!(!blocks.is_empty(), "{title}");
        tested += blocks.len();
        if title == "A review" {
            server.sql("UPDATE files SET state = 'review'");
        }
        let mut command = interpreter(&bench, "sh");
        command
            .env("FILEGATE_ADMIN_URL", format!("http://{}", server.admin_address))
            .env("FILEGATE_ADMIN_TOKEN", server.admin_token());
        let output = run(command.arg(script(&blocks)));
        assert!(output.status.success(), "{title}: {}", told(&command, &output));
    }
    assert_eq!(tested, snippets(&page).len());

    let held = "SELECT count(*) FROM files WHERE state = 'review'";
    assert_eq!(server.value::<i64>(held), 0);
    let restored = Setup::new(FILEGATE).start_on(&bench.path("restored"));
    let accounts = restored.admin_as(&server.admin_token(), "GET", "/accounts?name=shop").send();
    assert_eq!(accounts.json()["data"][0]["name"], "shop", "{}", accounts.text());
}
