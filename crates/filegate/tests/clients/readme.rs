//! The snippets of the README do what they say.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::{Bench, FILEGATE, REPOSITORY, packages, run, told};

/// A fenced block after `<!-- tested -->`, or after `<!-- tested: TEXT -->`, when its output has TEXT.
#[derive(Debug, PartialEq)]
pub(crate) struct Snippet {
    pub(crate) line: usize,
    pub(crate) language: String,
    pub(crate) text: String,
    pub(crate) shows: Option<String>,
}

pub(crate) fn snippets(page: &str) -> Vec<Snippet> {
    let mut found = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        let Some(mark) =
            line.trim().strip_prefix("<!-- tested").and_then(|rest| rest.strip_suffix("-->"))
        else {
            continue;
        };
        let (number, fence) = lines.next().expect("a block follows the mark");
        let language = fence.strip_prefix("```").expect("a block follows the mark");
        let body: Vec<_> =
            lines.by_ref().map(|(_, line)| line).take_while(|line| *line != "```").collect();
        found.push(Snippet {
            line: number + 1,
            language: language.to_owned(),
            text: body.join("\n") + "\n",
            shows: mark.strip_prefix(':').map(|text| text.trim().to_owned()),
        });
    }
    found
}

pub(crate) fn interpreter(bench: &Bench, language: &str) -> Command {
    match language {
        "sh" => {
            let mut command = bench.command("bash");
            let own = Path::new(FILEGATE).parent().unwrap().to_owned();
            let path = env::var_os("PATH").unwrap();
            let path = env::join_paths([own].into_iter().chain(env::split_paths(&path))).unwrap();
            command.env("PATH", path).args(["-eu", "-o", "pipefail", "-c"]);
            command
        }
        "python" => {
            let mut command = bench.command(packages::python());
            command.arg("-c");
            command
        }
        "js" => {
            let mut command = bench.command("node");
            command.args(["--input-type=module", "-e"]);
            command
        }
        other => panic!("no interpreter for {other}"),
    }
}

#[test]
fn the_snippets_of_the_readme_work() {
    let page = fs::read_to_string(Path::new(REPOSITORY).join("README.md")).unwrap();
    let snippets = snippets(&page);
    for language in ["sh", "python", "js"] {
        assert!(snippets.iter().any(|s| s.language == language), "the README has no {language}");
    }
    let bench = Bench::start();
    for snippet in snippets {
        let mut command = interpreter(&bench, &snippet.language);
        let output = run(command.arg(&snippet.text));
        let all = format!("README.md:{}: {}", snippet.line, told(&command, &output));
        match snippet.shows {
            Some(text) => assert!(all.contains(&text), "no {text:?}: {all}"),
            None => assert!(output.status.success(), "{all}"),
        }
    }
}

#[test]
fn marked_blocks_are_found() {
    let page = "a\n<!-- tested -->\n```sh\ntrue\n```\n```sh\nfalse\n```\n<!-- tested: 2037 -->\n```js\nx\n```\n";
    let found = snippets(page);
    let texts: Vec<_> =
        found.iter().map(|s| (s.line, s.text.as_str(), s.shows.as_deref())).collect();
    assert_eq!(texts, [(3, "true\n", None), (10, "x\n", Some("2037"))]);
}
