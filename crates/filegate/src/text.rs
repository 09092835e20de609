//! Values as people read them, and text from elsewhere made safe to show or to use as a name.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

/// `text` without anything that could move a cursor or turn text around: control characters and
/// the Unicode marks for direction come out as `\u{…}`.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        let turns = matches!(character,
            '\u{061C}' | '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        if character.is_control() || turns {
            safe.extend(character.escape_unicode());
        } else {
            safe.push(character);
        }
    }
    safe
}

/// `5.62 MiB`, `713 B`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// `2026-08-02 14:03:05Z` of Unix seconds.
pub(crate) fn time(seconds: i64) -> String {
    u64::try_from(seconds)
        .ok()
        .and_then(|seconds| UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .filter(|_| seconds < 253_402_300_800)
        .map_or_else(
            || seconds.to_string(),
            |when| humantime::format_rfc3339_seconds(when).to_string().replacen('T', " ", 1),
        )
}

/// What was measured of a file, in a few words: `wav pcm_s16le 12.50 s 44100 Hz 2 ch`.
pub(crate) fn facts(media: &Value) -> String {
    let text = |name: &str| media.get(name).and_then(Value::as_str).map(escape);
    let number = |name: &str| media.get(name).and_then(Value::as_u64);
    let format = text("format");
    let codec = text("codec").filter(|codec| Some(codec) != format.as_ref());
    let picture = number("width_px")
        .zip(number("height_px"))
        .map(|(width, height)| format!("{width}×{height} px"));
    [
        format,
        codec,
        number("duration_ms").map(|ms| format!("{}.{:02} s", ms / 1000, ms % 1000 / 10)),
        number("sample_rate_hz").map(|rate| format!("{rate} Hz")),
        number("channels").map(|channels| format!("{channels} ch")),
        picture,
        number("characters").map(|count| format!("{count} characters")),
    ]
    .into_iter()
    .flatten()
    .collect::<Vec<_>>()
    .join(" ")
}

/// A name that a stored file can safely have in the current directory: the last component,
/// visible, without control characters, at most 255 bytes.
pub(crate) fn local_name(stored: &str, id: impl std::fmt::Display) -> String {
    let last = stored.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = last.chars().filter(|character| !character.is_control()).collect();
    if name.starts_with('.') {
        // No hidden file, and neither `.` nor `..`.
        name.replace_range(..1, "_");
    }
    while name.len() > 255 {
        name.pop();
    }
    if name.trim().is_empty() { format!("file-{id}") } else { name }
}

/// Rows with columns as wide as their widest cell, two spaces apart; the last is not padded.
/// Columns whose title is in `right` are aligned to the right.
pub(crate) fn table(titles: &[&str], right: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let wide = |text: &str| text.chars().count();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(column, title)| {
            let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| wide(cell));
            cells.max().unwrap_or(0).max(wide(title))
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (column, cell) in cells.enumerate() {
            let (Some(title), Some(width)) = (titles.get(column), widths.get(column)) else {
                break;
            };
            let padding = " ".repeat(width.saturating_sub(wide(cell)));
            if column > 0 {
                line.push_str("  ");
            }
            if right.contains(title) {
                line.push_str(&padding);
                line.push_str(cell);
            } else {
                line.push_str(cell);
                line.push_str(&padding);
            }
        }
        line.trim_end().to_owned()
    };
    let mut lines = vec![line(&mut titles.iter().copied())];
    lines.extend(rows.iter().map(|row| line(&mut row.iter().map(String::as_str))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_are_not_written_to_by_names() {
        assert_eq!(escape("声音 é.mp3"), "声音 é.mp3");
        assert_eq!(escape("a\u{1b}]0;x\u{7}\r\n\u{9b}b"), "a\\u{1b}]0;x\\u{7}\\u{d}\\u{a}\\u{9b}b");
        assert_eq!(escape("gpj.\u{202e}exe"), "gpj.\\u{202e}exe");
    }

    #[test]
    fn sizes_times_and_facts() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(5_896_337), "5.6 MiB");
        assert_eq!(time(1_700_469_398), "2023-11-20 08:36:38Z");
        assert_eq!(time(-1), "-1");
        assert_eq!(time(i64::MAX), i64::MAX.to_string());
        let media = serde_json::json!({"format": "wav", "codec": "pcm_s16le",
            "duration_ms": 12_509, "sample_rate_hz": 44_100, "channels": 2});
        assert_eq!(facts(&media), "wav pcm_s16le 12.50 s 44100 Hz 2 ch");
        assert_eq!(facts(&serde_json::json!({"format": "mp3", "codec": "mp3"})), "mp3");
        assert_eq!(facts(&Value::Null), "");
    }

    #[test]
    fn stored_names_stay_in_the_directory() {
        for (stored, local) in [
            ("a.wav", "a.wav"),
            ("../../etc/passwd", "passwd"),
            ("C:\\x\\a.wav", "a.wav"),
            ("..", "_."),
            (".bashrc", "_bashrc"),
            ("a\n\u{1b}b", "ab"),
            ("", "file-7"),
            (" ", "file-7"),
            ("dir/", "file-7"),
        ] {
            assert_eq!(local_name(stored, 7), local, "{stored:?}");
        }
        assert!(local_name(&"声".repeat(200), 7).len() <= 255);
    }

    #[test]
    fn tables_are_aligned() {
        let rows = [vec!["7".to_owned(), "9 B".to_owned(), "b c".to_owned()]];
        let lines = table(&["ID", "SIZE", "NAME"], &["SIZE"], &rows);
        assert_eq!(lines, ["ID  SIZE  NAME", "7    9 B  b c"]);
    }
}
