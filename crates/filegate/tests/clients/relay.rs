//! The commands of docs/RELAY.md do what it says, with the emulator in place of MiniMax.

use std::fs;
use std::path::Path;

use filegate_testkit::server::Setup;

use crate::emulate::Emulated;
use crate::readme::{interpreter, snippets};
use crate::{Bench, FILEGATE, REPOSITORY, run, told};

/// Where the page says that MiniMax is.
const MINIMAX: &str = "https://api.minimax.io";
const KEYS: [&str; 2] = ["sk-of-the-relays-page-1", "sk-of-the-relays-page-2"];

#[test]
fn every_command_about_channels_works() {
    let page = fs::read_to_string(Path::new(REPOSITORY).join("docs/RELAY.md")).unwrap();
    let blocks = snippets(&page);
    assert_eq!(page.matches("```sh\n").count(), blocks.len(), "a block is not marked as tested");
    let upstream = Emulated::start(&["--key", KEYS[0], "--key", &format!("b={}", KEYS[1])]);
    // 32 times the byte 1.
    let sealing = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    let settings = format!("[relay]\nregions = []\nsecret_key = '{sealing}'\n");
    let bench = Bench::of(&Setup::new(FILEGATE).config(&settings));
    for block in blocks {
        let script = block.text.replace(MINIMAX, upstream.url());
        let mut command = interpreter(&bench, "sh");
        command
            .env("FILEGATE_ADMIN_URL", format!("http://{}", bench.server.admin_address))
            .env("FILEGATE_ADMIN_TOKEN", bench.server.admin_token())
            .env("MINIMAX_API_KEY", KEYS[0])
            .env("SECOND_KEY", KEYS[1]);
        let output = run(command.arg(script));
        let text = told(&command, &output);
        assert!(output.status.success(), "line {}: {text}", block.line);
        let shows = block.shows.as_deref().unwrap_or_default();
        assert!(text.contains(shows), "line {} does not show {shows}: {text}", block.line);
        for key in KEYS {
            assert!(!text.contains(key), "line {} shows a key", block.line);
        }
    }
    let states = "SELECT count(*) FROM channels WHERE state IN ('active', 'removed')";
    assert_eq!(bench.server.value::<i64>(states), 3);
}
