//! Speech: formats, lengths, streams, links.

use serde_json::{Value, json};

use crate::media::decoded;
use crate::{Bench, refused, speech, target_of, unhex};

fn with_audio(text: &str, format: &str, sample_rate: u32, channel: u32) -> Value {
    let mut body = speech(text);
    body["audio_setting"] =
        json!({"format": format, "sample_rate": sample_rate, "channel": channel});
    body
}

#[test]
fn every_format_rate_and_channel_decodes() {
    let bench = Bench::start();
    for format in ["mp3", "wav", "flac"] {
        for (rate, channels) in [
            (8_000, 1),
            (16_000, 2),
            (22_050, 1),
            (24_000, 1),
            (32_000, 2),
            (44_100, 1),
            (44_100, 2),
        ] {
            let asked = with_audio("A text, to be heard.", format, rate, channels);
            let reply = bench.post("/v1/t2a_v2", &asked).json();
            let audio = unhex(reply["data"]["audio"].as_str().unwrap());
            let told = decoded(&audio, format, "codec_name,sample_rate,channels");
            let codec = if format == "wav" { "pcm_s16le" } else { format };
            let shape = format!("{codec},{rate},{channels},");
            assert!(told.starts_with(&shape), "{told} is not {shape}");
            let seconds: f64 = told.strip_prefix(&shape).unwrap().parse().unwrap();
            let info = &reply["extra_info"];
            let said = info["audio_length"].as_f64().unwrap() / 1000.0;
            assert!((seconds - said).abs() < 0.16, "{format} {rate}: {seconds} s, said {said} s");
            assert_eq!(info["audio_size"], audio.len());
            assert_eq!(
                (&info["audio_format"], &info["audio_channel"]),
                (&json!(format), &json!(channels))
            );
        }
    }
}

#[test]
fn bare_samples_have_the_length_that_is_said() {
    let bench = Bench::start();
    let reply = bench.post("/v1/t2a_v2", &with_audio("abc def", "pcm", 16_000, 2)).json();
    let length_ms = reply["extra_info"]["audio_length"].as_u64().unwrap();
    assert_eq!(length_ms, 7 * 70);
    let audio = unhex(reply["data"]["audio"].as_str().unwrap());
    assert_eq!(audio.len() as u64, length_ms * 16 * 2 * 2);
    assert!(audio.iter().any(|byte| *byte != 0));
}

#[test]
fn the_length_follows_the_text_and_the_speed() {
    let bench = Bench::start();
    let length = |body: &Value| {
        bench.post("/v1/t2a_v2", body).json()["extra_info"]["audio_length"].as_u64().unwrap()
    };
    assert_eq!(length(&speech("0123456789")), 700);
    assert_eq!(length(&speech("你好")), 400);
    let mut fast = speech("0123456789");
    fast["voice_setting"]["speed"] = 2.0.into();
    assert_eq!(length(&fast), 350);
    assert_eq!(length(&speech(&"x".repeat(10_000))), 300_000, "five minutes are the most");
    refused(
        &bench.post("/v1/t2a_v2", &speech(&"x".repeat(10_001))),
        2013,
        "invalid params, text is too long",
    );
}

#[test]
fn a_text_in_a_voice_is_always_the_same_bytes() {
    let bench = Bench::start();
    let audio = |text: &str, voice: &str| {
        let mut body = speech(text);
        body["voice_setting"]["voice_id"] = voice.into();
        bench.post("/v1/t2a_v2", &body).json()["data"]["audio"].as_str().unwrap().to_owned()
    };
    assert_eq!(audio("one", "female-shaonv"), audio("one", "female-shaonv"));
    assert_ne!(audio("one", "female-shaonv"), audio("two", "female-shaonv"));
    assert_ne!(audio("one", "female-shaonv"), audio("one", "Wise_Woman"));
}

#[test]
fn a_link_leads_to_the_same_audio_for_a_day() {
    let bench = Bench::start();
    let mut body = speech("linked");
    body["subtitle_enable"] = true.into();
    let audio = unhex(bench.post("/v1/t2a_v2", &body).json()["data"]["audio"].as_str().unwrap());
    body["output_format"] = "url".into();
    let data = bench.post("/v1/t2a_v2", &body).json()["data"].clone();
    let target = target_of(&data["audio"]);
    assert_eq!(bench.get(&target).body, audio);
    assert_eq!(bench.get(&target_of(&data["subtitle_file"])).json()[0]["text"], "linked");
    bench.advance("24h");
    assert_eq!(bench.get(&target).status, 403);
}

#[test]
fn a_stream_is_events_that_add_up() {
    let bench = Bench::start();
    let mut body =
        speech("A text that is long enough to come in more than one piece of audio, we hope.");
    let whole = unhex(bench.post("/v1/t2a_v2", &body).json()["data"]["audio"].as_str().unwrap());
    body["stream"] = true.into();
    let events = |body: &Value| -> Vec<Value> {
        let reply = bench.post("/v1/t2a_v2", body);
        assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let text = reply.text();
        let lines = text.split("\n\n").filter(|line| !line.is_empty());
        lines
            .map(|line| serde_json::from_str(line.strip_prefix("data: ").unwrap()).unwrap())
            .collect()
    };
    let audio = |event: &Value| unhex(event["data"]["audio"].as_str().unwrap());
    let all = events(&body);
    let (last, pieces) = all.split_last().unwrap();
    assert!(pieces.len() > 1);
    assert!(pieces.iter().all(|piece| piece["data"]["status"] == 1));
    assert_eq!(pieces.iter().flat_map(audio).collect::<Vec<u8>>(), whole);
    assert_eq!((&last["data"]["status"], audio(last)), (&json!(2), whole));
    assert!(last["extra_info"]["audio_length"].as_u64().unwrap() > 0);

    body["stream_options"] = json!({"exclude_aggregated_audio": true});
    assert_eq!(events(&body).last().unwrap()["data"]["audio"], "");
    body["audio_setting"] = json!({"format": "wav"});
    assert_eq!(bench.post("/v1/t2a_v2", &body).code(), 2013);
}

#[test]
fn what_cannot_be_said_is_refused() {
    let bench = Bench::start();
    for (pointer, value, code) in [
        ("/voice_setting/voice_id", json!("nobody-0001"), 20132),
        ("/voice_setting/voice_id", json!(""), 2013),
        ("/voice_setting", json!({"voice_id": "female-shaonv", "speed": 3}), 2013),
        ("/model", json!("gpt"), 2013),
        ("/text", json!(""), 2013),
        ("/text", json!(7), 2013),
    ] {
        let mut body = speech("x");
        *body.pointer_mut(pointer).unwrap() = value;
        assert_eq!(bench.post("/v1/t2a_v2", &body).code(), code, "{body}");
    }
    for (format, rate, channels) in [("ogg", 32_000, 1), ("mp3", 48_000, 1), ("mp3", 32_000, 3)] {
        assert_eq!(bench.post("/v1/t2a_v2", &with_audio("x", format, rate, channels)).code(), 2013);
    }
    let mixed = json!({"model": "speech-02-hd", "text": "x",
        "timber_weights": [{"voice_id": "female-shaonv", "weight": 1}, {"voice_id": "Wise_Woman", "weight": 1}]});
    assert_eq!(bench.post("/v1/t2a_v2", &mixed).code(), 0);
}
