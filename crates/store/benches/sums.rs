//! What summing two blobs at a time takes beside summing them one after the other.
//!
//! ```sh
//! cargo bench -p filegate-store --bench sums
//! ```
//!
//! Prints GB/s of both, in turns, for blobs of several sizes. See `Summer::update_both`.

use std::hint::black_box;
use std::io::{self, Write as _};
use std::time::{Duration, Instant};

use filegate_store::blobs::Summer;

const ROUNDS: usize = 5;
/// Summed in a turn, of each size.
const TURN_BYTES: usize = 256 << 20;

fn main() -> io::Result<()> {
    let mut out = io::stdout();
    writeln!(out, "    bytes  one after the other         both   ratio")?;
    for bytes in [4096, 100_000, 983_040] {
        let [one, other] = [7, 9].map(|step| (0..bytes).map(|n| (n * step % 251) as u8).collect());
        let (one, other): (Vec<u8>, Vec<u8>) = (one, other);
        let alone = || {
            for blob in [&one, &other] {
                let mut summer = Summer::default();
                summer.update(blob);
                black_box(summer.finish());
            }
        };
        let both = || {
            let (mut a, mut b) = (Summer::default(), Summer::default());
            Summer::update_both((&mut a, &one), (&mut b, &other));
            black_box((a.finish(), b.finish()));
        };
        let turns = TURN_BYTES / (2 * bytes);
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            times[0].push(time(turns, alone));
            times[1].push(time(turns, both));
        }
        let [alone, both] = times.map(|mut times| {
            times.sort();
            (turns * 2 * bytes) as f64 / times[ROUNDS / 2].as_secs_f64() / 1e9
        });
        writeln!(out, "{bytes:9} {alone:15.2} GB/s {both:8.2} GB/s {:7.2}", both / alone)?;
    }
    Ok(())
}

fn time(turns: usize, work: impl Fn()) -> Duration {
    let began = Instant::now();
    (0..turns).for_each(|_| work());
    began.elapsed()
}
