//! Bodies as real clients encode them. requests, httpx, aiohttp, curl, node 20 and urllib3 1.24 (requests
//! before 2.22) were recorded; reqwest, node 18 (no CRLF at the end) and Chrome are written after their sources.

use filegate_form::{Boundary, FileName, Limits};

use crate::support::read_both_ways;

/// The file of every sample.
const DATA: &[u8] = b"ID3\x04\x00\r\n--not a boundary\r\n\x00\xff";
const PLAIN: &str = "sample.mp3";
const ODD: &str = "naïve \"take 2\" 100%41.mp3";

macro_rules! sample {
    ($file:literal, $boundary:literal, $name:expr, $content_type:expr) => {
        (
            $file,
            $boundary,
            $name,
            $content_type,
            include_bytes!(concat!("../fixtures/", $file, ".form")).as_slice(),
        )
    };
}

#[test]
fn every_client_is_understood() {
    let octets = Some("application/octet-stream");
    let mpeg = Some("audio/mpeg");
    let samples = [
        // Percent-encodes everything; only what all encoders agree on is undone.
        sample!(
            "aiohttp-3.14-odd",
            "3ccede6de4ea40e3b1694cb3f465b307",
            "na%C3%AFve%20\"take%202\"%20100%2541.mp3",
            octets
        ),
        sample!("aiohttp-3.14-plain", "c88a1266e3dc4d90b0ba5fbe5252949e", PLAIN, octets),
        sample!("chrome-odd", "----WebKitFormBoundary7MA4YWxkTrZu0gW", ODD, mpeg),
        sample!("curl-7.88-escape", "------------------------ad59436b6220b456", ODD, octets),
        sample!("curl-7.88-odd", "------------------------d2606fac36eabdb9", ODD, octets),
        sample!("curl-7.88-plain", "------------------------d4ba04414c953f46", PLAIN, octets),
        sample!("httpx-0.28-odd", "4dcefeaac45921ded4efb765dcd332eb", ODD, mpeg),
        sample!("httpx-0.28-plain", "aed41484feb4fe6b20cf765e836a8b8d", PLAIN, mpeg),
        sample!("node-18-odd", "----formdata-undici-091661680024", ODD, octets),
        sample!("node-20-odd", "----formdata-undici-091661680024", ODD, octets),
        sample!("node-20-plain", "----formdata-undici-021487328974", PLAIN, octets),
        sample!("requests-2.34-odd", "697499e4dfb03808af62b2dce44926ce", ODD, None),
        sample!("requests-2.34-plain", "06faea7bd1b0c72e8bd2bd0605e8281e", PLAIN, None),
        sample!(
            "reqwest-0.13-odd",
            "0123456789abcdef-fedcba9876543210-00112233445566ff-ffeeddccbbaa9988",
            ODD,
            None
        ),
        sample!(
            "reqwest-0.13-plain",
            "0123456789abcdef-fedcba9876543210-00112233445566ff-ffeeddccbbaa9988",
            PLAIN,
            None
        ),
        sample!("urllib3-1.24-odd", "f0e1d2c3b4a5968778695a4b3c2d1e0f", ODD, mpeg),
        sample!("urllib3-1.24-plain", "f0e1d2c3b4a5968778695a4b3c2d1e0f", PLAIN, mpeg),
    ];
    for (client, boundary, file_name, content_type, body) in samples {
        let boundary =
            Boundary::from_content_type(format!("multipart/form-data; boundary={boundary}"))
                .unwrap_or_else(|error| panic!("{client}: {error}"));
        let outcome = read_both_ways(&boundary, Limits::default(), body);
        assert_eq!(outcome.result, Ok(()), "{client}");
        assert!(outcome.ended, "{client}");
        assert_eq!(outcome.parts.len(), 2, "{client}");
        for part in &outcome.parts {
            assert!(part.complete, "{client}");
            match part.headers.name.as_str() {
                "purpose" => {
                    assert_eq!(part.data, b"voice_clone", "{client}");
                    assert_eq!(part.headers.file_name, None, "{client}");
                }
                "file" => {
                    assert_eq!(part.data, DATA, "{client}");
                    assert_eq!(part.headers.content_type.as_deref(), content_type, "{client}");
                    let decoded = part.headers.file_name.as_deref().expect("has a file name");
                    assert_eq!(decoded, file_name, "{client}");
                    assert_eq!(
                        FileName::clean(decoded).map(FileName::into_string).as_deref(),
                        Ok(file_name),
                        "{client}"
                    );
                }
                other => panic!("{client}: a part {other}"),
            }
        }
    }
}
