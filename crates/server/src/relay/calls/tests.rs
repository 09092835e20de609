//! Every rule, as a request and the bytes upstream gets, or a reply and the bytes the client gets.
//!
//! Whatever is an id there is `12` (a file or a task, number or string as upstream has it), and `98765` is to stand in its
//! place; a voice is `mine` and stays. Lines of a document that has to pass untouched have `=` for what is expected.

use http::Method;

use super::paths::OTHER;
use super::*;
use crate::relay::json::{Splice, Transform, scan};

/// Method, path, document, what it becomes, and how many finds that leaves unchanged (voices, codes, counts).
type Line = (&'static str, &'static str, &'static str, &'static str, usize);

const SAME: &str = "=";

/// Every rule for requests.
const REQUESTS: &[Line] = &[
    (
        "POST",
        "/v1/voice_clone",
        r#"{"file_id": 12,"voice_id":"mine"}"#,
        r#"{"file_id": 98765,"voice_id":"mine"}"#,
        1,
    ),
    (
        "POST",
        "/v1/voice_clone",
        r#"{"clone_prompt":{"prompt_audio":12,"prompt_text":"12"},"file_id":"12"}"#,
        r#"{"clone_prompt":{"prompt_audio":98765,"prompt_text":"12"},"file_id":"98765"}"#,
        0,
    ),
    ("POST", "/v1/voice_clone", r#"{"text":"mm_file://12","accuracy":12,"file_id":0}"#, SAME, 0),
    ("POST", "/v1/voice_design", r#"{"prompt":"p","voice_id":"mine"}"#, SAME, 1),
    ("POST", "/v1/get_voice", r#"{"voice_type":"all"}"#, SAME, 0),
    ("POST", "/v1/delete_voice", r#"{"voice_type":"voice_cloning","voice_id":"mine"}"#, SAME, 1),
    (
        "POST",
        "/v1/t2a_v2",
        r#"{"voice_setting":{"voice_id":"mine","speed":1.0},"text":"file_id 12"}"#,
        SAME,
        1,
    ),
    (
        "POST",
        "/v1/t2a_v2",
        r#"{"timbre_weights":[{"voice_id":"mine","weight":12},{"voice_id":"mine"}]}"#,
        SAME,
        2,
    ),
    (
        "POST",
        "/v1/t2a_v2",
        r#"{"timber_weights":[{"voice_id":"mine","weight":12}],"voice_id":"mine"}"#,
        SAME,
        2,
    ),
    (
        "GET",
        "/ws/v1/t2a_v2",
        r#"{"event":"task_start","voice_setting":{"voice_id":"mine"}}"#,
        SAME,
        1,
    ),
    (
        "GET",
        "/ws/v1/t2a_v2",
        r#"{"timbre_weights":[{"voice_id":"mine"}],"timber_weights":[{"voice_id":"mine"}],"voice_id":"mine"}"#,
        SAME,
        3,
    ),
    (
        "POST",
        "/v1/t2a_async_v2",
        r#"{"text_file_id":12,"voice_setting":{"voice_id":"mine"}}"#,
        r#"{"text_file_id":98765,"voice_setting":{"voice_id":"mine"}}"#,
        1,
    ),
    (
        "POST",
        "/v1/t2a_async_v2",
        r#"{"timbre_weights":[{"voice_id":"mine"}],"timber_weights":[{"voice_id":"mine"}],"voice_id":"mine"}"#,
        SAME,
        3,
    ),
    (
        "POST",
        "/v1/video_generation",
        r#"{"model":"m","task_id":"12","first_frame_image":"mm_file://12"}"#,
        r#"{"model":"m","task_id":"98765","first_frame_image":"mm_file://98765"}"#,
        0,
    ),
    (
        "POST",
        "/v1/video_generation",
        r#"{"callback_url":"https://c.example/","prompt":"12"}"#,
        SAME,
        1,
    ),
    (
        "POST",
        "/v1/video_template_generation",
        r#"{"template_id":"12","media_inputs":[{"value":"mm_file://12"}],"callback_url":"https://c.example/"}"#,
        r#"{"template_id":"12","media_inputs":[{"value":"mm_file://98765"}],"callback_url":"https://c.example/"}"#,
        1,
    ),
    (
        "POST",
        "/v2/video_generation",
        r#"{"content":[{"type":"video_url","video_url":{"url":"mm_file://12"}},{"type":"text","text":"not mm_file://12"}],"callback_url":"https://c.example/"}"#,
        r#"{"content":[{"type":"video_url","video_url":{"url":"mm_file://98765"}},{"type":"text","text":"not mm_file://12"}],"callback_url":"https://c.example/"}"#,
        1,
    ),
    (
        "POST",
        "/v2/video_regeneration",
        r#"{"source_task_id":"12","resolution":"2K","content":["mm_file://12"],"callback_url":"https://c.example/"}"#,
        r#"{"source_task_id":"98765","resolution":"2K","content":["mm_file://98765"],"callback_url":"https://c.example/"}"#,
        1,
    ),
    (
        "POST",
        "/v2/h3_context_ir",
        r#"{"content":[{"image_url":{"url":"mm_file://12"}},{"audio_url":{"url":"mm_file:\/\/12"}}],"callback_url":"https://c.example/"}"#,
        r#"{"content":[{"image_url":{"url":"mm_file://98765"}},{"audio_url":{"url":"mm_file:\/\/98765"}}],"callback_url":"https://c.example/"}"#,
        1,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"messages":[{"content":[{"video_url":{"url":"mm_file://12"}},{"image_url":{"url":"mm_file://12"}}]}]}"#,
        r#"{"messages":[{"content":[{"video_url":{"url":"mm_file://98765"}},{"image_url":{"url":"mm_file://98765"}}]}]}"#,
        0,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"12"}},{"file_id":"12"}]}],"seed":12}"#,
        r#"{"messages":[{"content":[{"type":"file","file":{"file_id":"98765"}},{"file_id":"98765"}]}],"seed":12}"#,
        0,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"tools":[{"function":{"parameters":{"properties":{"file_id":{"type":"string"},"task_id":["string"]}}}}],"messages":[{"content":"file_id is 12"},{"tool_calls":[{"arguments":"{\"file_id\":12}"}]}],"file_id":12}"#,
        SAME,
        0,
    ),
    (
        "POST",
        "/v1/text/chatcompletion_v2",
        r#"{"messages":[{"content":[{"file_id":"12"},{"file":{"file_id":"12"}},{"video_url":"mm_file://12"}]}]}"#,
        r#"{"messages":[{"content":[{"file_id":"98765"},{"file":{"file_id":"98765"}},{"video_url":"mm_file://98765"}]}]}"#,
        0,
    ),
    (
        "POST",
        "/v1/responses",
        r#"{"input":[{"content":[{"type":"input_video","video_url":"mm_file://12"},{"type":"input_file","file_id":"12"}]}]}"#,
        r#"{"input":[{"content":[{"type":"input_video","video_url":"mm_file://98765"},{"type":"input_file","file_id":"98765"}]}]}"#,
        0,
    ),
    (
        "POST",
        "/v1/responses",
        r#"{"input":[{"content":[{"input_file":{"file_id":"12"}}]},{"file_id":"12"}],"previous_response_id":"12"}"#,
        r#"{"input":[{"content":[{"input_file":{"file_id":"98765"}}]},{"file_id":"98765"}],"previous_response_id":"12"}"#,
        0,
    ),
    (
        "POST",
        "/anthropic/v1/messages",
        r#"{"messages":[{"content":[{"type":"video","source":{"type":"url","url":"mm_file://12"},"fps":12}]}]}"#,
        r#"{"messages":[{"content":[{"type":"video","source":{"type":"url","url":"mm_file://98765"},"fps":12}]}]}"#,
        0,
    ),
    (
        "POST",
        "/anthropic/v1/messages",
        r#"{"messages":[{"content":[{"type":"tool_result","content":[{"source":{"url":"mm_file://12"}},{"source":{"file_id":"12"}}]},{"source":{"file_id":"12"}}]}]}"#,
        r#"{"messages":[{"content":[{"type":"tool_result","content":[{"source":{"url":"mm_file://98765"}},{"source":{"file_id":"98765"}}]},{"source":{"file_id":"98765"}}]}]}"#,
        0,
    ),
    (
        "POST",
        "/anthropic/v1/messages",
        r#"{"messages":[{"content":[{"type":"tool_use","input":{"file_id":12,"task_id":"12"}}]}],"max_tokens":12}"#,
        SAME,
        0,
    ),
    (
        "POST",
        "/anthropic/v1/messages/count_tokens",
        r#"{"messages":[{"content":[{"source":{"file_id":"12"}},{"content":[{"source":{"file_id":"12"}}]},"mm_file://12"]}]}"#,
        r#"{"messages":[{"content":[{"source":{"file_id":"98765"}},{"content":[{"source":{"file_id":"98765"}}]},"mm_file://98765"]}]}"#,
        0,
    ),
    (
        "POST",
        "/v1/coding_plan/vlm",
        r#"{"prompt":"p","file_id":"12","image_url":"mm_file://12"}"#,
        r#"{"prompt":"p","file_id":"98765","image_url":"mm_file://98765"}"#,
        0,
    ),
    (
        "POST",
        "/v1/music_generation",
        r#"{"cover_feature_id":"12","refer_voice":"mine","refer_instrumental":"mine","audio_url":"mm_file://12"}"#,
        r#"{"cover_feature_id":"98765","refer_voice":"mine","refer_instrumental":"mine","audio_url":"mm_file://98765"}"#,
        2,
    ),
    (
        "POST",
        "/v1/music_cover_preprocess",
        r#"{"audio_url":"mm_file://12"}"#,
        r#"{"audio_url":"mm_file://98765"}"#,
        0,
    ),
    (
        "POST",
        "/v1/image_generation",
        r#"{"n":12,"subject_reference":[{"image_file":"mm_file://12"},{"file_id":"12"}]}"#,
        r#"{"n":12,"subject_reference":[{"image_file":"mm_file://98765"},{"file_id":"98765"}]}"#,
        0,
    ),
    (
        "POST",
        "/v1/assistants/create",
        r#"{"file_ids":["12","12"],"file_id":"12","attachments":[{"file_id":"12"}],"training_file":12,"validation_file":12,"x":"mm_file://12"}"#,
        r#"{"file_ids":["98765","98765"],"file_id":"98765","attachments":[{"file_id":"98765"}],"training_file":98765,"validation_file":98765,"x":"mm_file://98765"}"#,
        0,
    ),
    (
        "POST",
        "/v1/threads/run/create",
        r#"{"id":"12","assistant_id":"12","thread_id":"12","run_id":"12","message_id":"12","job_id":"12","fine_tuning_job_id":"12"}"#,
        r#"{"id":"98765","assistant_id":"98765","thread_id":"98765","run_id":"98765","message_id":"98765","job_id":"98765","fine_tuning_job_id":"98765"}"#,
        0,
    ),
    (
        "POST",
        "/v1/new",
        r#"{"a":[{"file_id":12,"audio_file_id":12,"file_ids":[12],"prompt_audio":12,"training_file":12}]}"#,
        r#"{"a":[{"file_id":98765,"audio_file_id":98765,"file_ids":[98765],"prompt_audio":98765,"training_file":98765}]}"#,
        0,
    ),
    (
        "PUT",
        "/v1/voice_clone",
        r#"{"a":{"task_id":12,"old_task_id":12,"task_ids":[12],"cover_feature_id":12,"voice_id":"mine","u":"mm_file://12"}}"#,
        r#"{"a":{"task_id":98765,"old_task_id":98765,"task_ids":[98765],"cover_feature_id":98765,"voice_id":"mine","u":"mm_file://98765"}}"#,
        1,
    ),
    (
        "POST",
        "/v3/new",
        r#"{"callback_url":"https://c.example/","a":{"callback_url":"https://c.example/"}}"#,
        SAME,
        1,
    ),
];

/// Every rule for replies.
const REPLIES: &[Line] = &[
    (
        "POST",
        "/v1/voice_clone",
        r#"{"demo_audio":"","extra_info":{"usage_characters":12},"usage_characters":12,"base_resp":{"status_code":0,"status_msg":"success"}}"#,
        SAME,
        4,
    ),
    (
        "POST",
        "/v1/voice_design",
        r#"{"voice_id":"mine","trial_audio":"1212","extra_info":{"usage_characters":12}}"#,
        SAME,
        2,
    ),
    (
        "POST",
        "/v1/get_voice",
        r#"{"system_voice":[{"voice_id":"mine"}],"base_resp":{"status_code":0}}"#,
        SAME,
        1,
    ),
    (
        "POST",
        "/v1/t2a_v2",
        r#"{"data":{"audio":"12","status":2},"extra_info":{"usage_characters":12,"audio_size":12}}"#,
        SAME,
        1,
    ),
    (
        "GET",
        "/ws/v1/t2a_v2",
        r#"{"session_id":"12","extra_info":{"usage_characters":12}}"#,
        SAME,
        1,
    ),
    (
        "POST",
        "/v1/t2a_async_v2",
        r#"{"task_id":12,"task_token":"12","file_id":12,"usage_characters":12}"#,
        r#"{"task_id":98765,"task_token":"12","file_id":98765,"usage_characters":12}"#,
        1,
    ),
    (
        "POST",
        "/v1/t2a_async_v2",
        r#"{"task_id":"12","file_id":0}"#,
        r#"{"task_id":"98765","file_id":0}"#,
        0,
    ),
    (
        "GET",
        "/v1/query/t2a_async_query_v2",
        r#"{"task_id":12,"status":"Success","file_id":12}"#,
        r#"{"task_id":98765,"status":"Success","file_id":98765}"#,
        0,
    ),
    (
        "POST",
        "/v1/video_generation",
        r#"{"task_id":"12","base_resp":{"status_code":12}}"#,
        r#"{"task_id":"98765","base_resp":{"status_code":12}}"#,
        1,
    ),
    (
        "GET",
        "/v1/query/video_generation",
        r#"{"task_id":"12","status":"Success","file_id":"12","video_width":12}"#,
        r#"{"task_id":"98765","status":"Success","file_id":"98765","video_width":12}"#,
        0,
    ),
    ("GET", "/v1/query/video_generation", r#"{"status":"Queueing","file_id":""}"#, SAME, 0),
    ("POST", "/v1/video_template_generation", r#"{"task_id":"12"}"#, r#"{"task_id":"98765"}"#, 0),
    (
        "GET",
        "/v1/query/video_template_generation",
        r#"{"task_id":"12","video_url":"https://12"}"#,
        r#"{"task_id":"98765","video_url":"https://12"}"#,
        0,
    ),
    ("POST", "/v2/video_generation", r#"{"task_id":"12"}"#, r#"{"task_id":"98765"}"#, 0),
    (
        "POST",
        "/v2/video_regeneration",
        r#"{"task_id":"12","task":{"id":"12"}}"#,
        r#"{"task_id":"98765","task":{"id":"98765"}}"#,
        0,
    ),
    (
        "GET",
        "/v2/query/video_generation/12",
        r#"{"task":{"id":"12","status":"succeeded","content":{"url":"u"},"created_at":12,"source_task_id":"12"},"task_id":"12"}"#,
        r#"{"task":{"id":"98765","status":"succeeded","content":{"url":"u"},"created_at":12,"source_task_id":"98765"},"task_id":"98765"}"#,
        0,
    ),
    ("DELETE", "/v2/video_generation/12", r#"{"task_id":"12"}"#, r#"{"task_id":"98765"}"#, 0),
    (
        "POST",
        "/v2/video_generation",
        r#"{"type":"error","error":{"message":"no (2013)"},"request_id":"12"}"#,
        SAME,
        1,
    ),
    (
        "POST",
        "/v1/chat/completions",
        r#"{"id":"12","usage":{"total_tokens":12,"prompt_tokens":12},"choices":[{"message":{"content":"mm_file://12"}}]}"#,
        r#"{"id":"12","usage":{"total_tokens":12,"prompt_tokens":12},"choices":[{"message":{"content":"mm_file://98765"}}]}"#,
        1,
    ),
    ("POST", "/v1/text/chatcompletion_v2", r#"{"usage":{"total_tokens":12}}"#, SAME, 1),
    (
        "POST",
        "/v1/responses",
        r#"{"usage":{"total_tokens":12},"response":{"usage":{"total_tokens":12}}}"#,
        SAME,
        2,
    ),
    (
        "POST",
        "/anthropic/v1/messages",
        r#"{"usage":{"input_tokens":12,"output_tokens":12},"message":{"usage":{"input_tokens":12,"output_tokens":12}}}"#,
        SAME,
        4,
    ),
    ("POST", "/v1/coding_plan/vlm", r#"{"content":"12","usage":{"total_tokens":12}}"#, SAME, 1),
    (
        "POST",
        "/v1/music_generation",
        r#"{"task_id":"12","data":{"task_id":"12","audio":"12"}}"#,
        r#"{"task_id":"98765","data":{"task_id":"98765","audio":"12"}}"#,
        0,
    ),
    (
        "POST",
        "/v1/music_cover_preprocess",
        r#"{"cover_feature_id":"12","data":{"cover_feature_id":"12"}}"#,
        r#"{"cover_feature_id":"98765","data":{"cover_feature_id":"98765"}}"#,
        0,
    ),
    ("POST", "/v1/music_upload", r#"{"voice_id":"mine","instrumental_id":"mine"}"#, SAME, 2),
    (
        "GET",
        "/v1/assistants/list",
        r#"{"id":"12","data":[{"id":"12","file_ids":["12"]}],"a":{"assistant_id":"12","thread_id":"12","run_id":"12","message_id":"12","file_id":"12","training_file":12}}"#,
        r#"{"id":"98765","data":[{"id":"98765","file_ids":["98765"]}],"a":{"assistant_id":"98765","thread_id":"98765","run_id":"98765","message_id":"98765","file_id":"98765","training_file":98765}}"#,
        0,
    ),
    (
        "POST",
        "/v1/new",
        r#"{"a":[{"file_id":12,"b_file_id":"12","file_ids":[12],"task_id":12,"b_task_id":12}],"voice_id":"mine"}"#,
        r#"{"a":[{"file_id":98765,"b_file_id":"98765","file_ids":[98765],"task_id":98765,"b_task_id":98765}],"voice_id":"mine"}"#,
        0,
    ),
    (
        "POST",
        "/v1/new",
        r#"{"extra_info":{"usage_characters":12},"usage_characters":12,"usage":{"total_tokens":12},"base_resp":{"status_code":0,"status_msg":"12"}}"#,
        SAME,
        5,
    ),
];

fn call(method: &str, path: &str) -> CallRules {
    lookup(&Method::from_bytes(method.as_bytes()).unwrap(), path)
}

fn is_id(found: &Found) -> bool {
    matches!(found.kind, Kind::FileId | Kind::TaskId | Kind::MmFile)
}

fn expected(line: &Line) -> &'static str {
    if line.3 == SAME { line.2 } else { line.3 }
}

#[test]
fn requests_become_what_upstream_gets() {
    for line in REQUESTS {
        let rules = call(line.0, line.1);
        let found = scan(rules.request, [line.2.as_bytes()]).unwrap();
        let (ids, others): (Vec<_>, Vec<_>) = found.iter().partition(|found| is_id(found));
        assert!(ids.iter().all(|id| id.text == "12" && id.exact), "{line:?}: {ids:?}");
        assert_eq!(others.len(), line.4, "{line:?}: {others:?}");
        let voices = others.iter().filter(|found| found.kind == Kind::VoiceId);
        assert!(voices.into_iter().all(|voice| voice.text == "mine"), "{line:?}");
        let edits = ids.iter().filter_map(|id| id.edit("98765")).collect();
        let out = Splice::new(edits).whole(line.2.as_bytes());
        assert_eq!(String::from_utf8(out).unwrap(), expected(line), "{line:?}");
    }
}

#[test]
fn replies_become_what_the_client_gets() {
    for line in REPLIES {
        let rules = call(line.0, line.1);
        let mut transform = Transform::new(rules.reply);
        let (mut out, mut others) = (Vec::new(), 0);
        // A byte at a time: the worst that a network does.
        for byte in line.2.as_bytes().chunks(1) {
            let mut piece = bytes::Bytes::copy_from_slice(byte);
            while let Some(found) = transform.push(&mut piece, &mut out) {
                let id = is_id(&found);
                assert!(!id || found.text == "12", "{line:?}: {found:?}");
                others += usize::from(!id);
                transform.resolve(id.then_some("98765"), &mut out);
            }
        }
        assert_eq!(transform.finish(&mut out), Ok(()), "{line:?}");
        assert_eq!(String::from_utf8(out.concat()).unwrap(), expected(line), "{line:?}");
        assert_eq!(others, line.4, "{line:?}");
    }
}

/// A rule that no line is about would be a rule that nobody has tried. Calls with the same rules share their lines.
#[test]
fn every_rule_has_a_line() {
    // They stand in every reply.
    let everywhere = ["base_resp.status_code", "base_resp.status_msg", "error.message", "**"];
    let mut all = rows();
    all.push(unknown());
    for row in &all {
        for (rules, lines, of) in [
            (&row.request, REQUESTS, (|call| call.request) as fn(CallRules) -> &'static Rules),
            (&row.reply, REPLIES, |call| call.reply),
        ] {
            let mut tried = vec![false; rules.iter().count()];
            for (method, path, document, ..) in lines {
                if of(call(method, path)) == rules {
                    for found in scan(rules, [document.as_bytes()]).unwrap() {
                        tried[found.rule] = true;
                    }
                }
            }
            for (rule, tried) in rules.iter().zip(tried) {
                let tried =
                    tried || std::ptr::eq(lines, REPLIES) && everywhere.contains(&rule.path);
                assert!(tried, "no line for {rule:?} of {} {}", row.method, row.path);
            }
        }
    }
}

#[test]
fn calls_are_what_the_table_says() {
    let clone = call("POST", "/v1/voice_clone");
    assert!(clone.is_known && clone.voice == Some(Voice::Makes) && clone.counts_units());
    assert_eq!((clone.shape, clone.effect), (Shape::Native, Effect::Lasting));
    assert_eq!(call("POST", "/v1/t2a_v2").effect, Effect::None);
    assert_eq!(call("POST", "/v1/t2a_async_v2").adopts, Some("t2a_async"));
    assert_eq!(call("GET", "/v1/query/video_generation").adopts, Some("video_generation"));
    assert_eq!(call("POST", "/v1/delete_voice").voice, Some(Voice::Deletes));
    assert_eq!(call("POST", "/v1/get_voice").list, Some(List::Voices));
    assert_eq!(call("GET", "/v2/query/video_generation").list, Some(List::Videos));
    assert_eq!(call("GET", "/ws/v1/t2a_v2").effect, Effect::None);
    assert!(call("POST", "/v1/speech_to_text").request.is_empty());
    for (method, path, shape, effect) in [
        ("POST", "/v2/anything", Shape::OpenAi, Effect::Lasting),
        ("GET", "/v2", Shape::OpenAi, Effect::None),
        ("POST", "/v1/chat/completions", Shape::OpenAi, Effect::None),
        ("POST", "/v1/responses", Shape::OpenAi, Effect::None),
        ("POST", "/anthropic/v1/messages", Shape::Anthropic, Effect::None),
        ("POST", "/v1/chatty", Shape::Native, Effect::Lasting),
        ("PATCH", "/v1/t2a_v2", Shape::Native, Effect::Lasting),
        ("HEAD", "/v1/x", Shape::Native, Effect::None),
    ] {
        let rules = call(method, path);
        assert_eq!((rules.shape, rules.effect), (shape, effect), "{method} {path}");
    }
}

#[test]
fn paths_have_names_and_ids() {
    let one = call("GET", "/v2/query/video_generation/424010985738629");
    assert_eq!(one.name, "/v2/query/video_generation/{id}");
    assert_eq!(&one.path[one.path_ids[0].range.clone()], "424010985738629");
    // A task's id is whatever upstream says; where one is to be there is one.
    assert_eq!(call("DELETE", "/v2/video_generation/a-b").path_ids.len(), 1);
    assert_eq!(call("GET", "/v2/query/video_generation/").name, "/v2/query/video_generation");
    for (path, name, ids) in [
        ("/v1/new", "/v1/new", 0),
        ("/v1/new/123456/x", "/v1/new/{id}/x", 1),
        ("/v1/new/12", "/v1/new/12", 0),
        ("/v1/new/0f8fad5b-d9cb-469f-a165-70867728950e", "/v1/new/{id}", 0),
        ("/a/b/c/d/e/f/g/h/i", OTHER, 0),
        ("/", "/", 0),
    ] {
        let rules = call("POST", path);
        assert_eq!((rules.name.as_ref(), rules.path_ids.len()), (name, ids), "{path}");
        assert!(!rules.is_known);
    }
    assert_eq!(call("POST", &format!("/v1/{}", "x".repeat(200))).name, OTHER);
}

#[test]
fn there_is_one_way_to_write_a_path() {
    for path in [
        "//v1/voice_clone",
        "/v1//voice_clone/",
        "/v1/./voice_clone",
        "/v1/x/../voice_clone",
        "/../v1/voice_clone",
        "/v1/%76oice_clone",
        "/%76%31/voice%5Fclone",
        "/v1/%2e/voice_clone",
        "/v1/x/%2E%2e/voice_clone",
    ] {
        let rules = call("POST", path);
        assert_eq!(
            (rules.name.as_ref(), rules.path.as_str()),
            ("/v1/voice_clone", "/v1/voice_clone"),
            "{path}"
        );
    }
    // What has a meaning of its own stays escaped.
    assert_eq!(call("POST", "/v1%2fvoice_clone/%zz%").path, "/v1%2Fvoice_clone/%zz%");
    assert_eq!(call("POST", "/v1/%e4%bd%a0").path, "/v1/%E4%BD%A0");
}

#[test]
fn ids_in_queries_are_found_however_they_are_written() {
    let rules = call("GET", "/v1/query/video_generation");
    let texts = |query: &str| -> Vec<String> {
        rules.query_ids(query).into_iter().map(|id| id.text).collect()
    };
    assert_eq!(texts("a=1&task_id=12&b=task_id=13"), ["12"]);
    assert_eq!(texts("task%5Fid=%312&file_id=3&Task_Id=4"), ["12", "3", "4"]);
    assert_eq!(texts("task_id=12,13&task_id=&file_id=0&task_id"), ["12", "13"]);
    assert_eq!(texts("task_id[]=1%2C2%2c3&task_id=+4"), ["1", "2", "3", " 4"]);
    assert_eq!(texts("xtask_id=1&task_id2=2&filter.task_ids=3"), [""; 0]);
    let query = "x=1&task_id=1%2C22&y=%20&task_id=3";
    let edits = rules.query_ids(query).iter().map(|id| id.edit("a b")).collect();
    let out = Splice::new(edits).whole(query.as_bytes());
    assert_eq!(String::from_utf8(out).unwrap(), "x=1&task_id=a%20b%2Ca%20b&y=%20&task_id=a%20b");
    let list = call("GET", "/v2/query/video_generation");
    assert_eq!(list.query_ids("filter.task_ids=1&filter.task_ids=2&filter.status=3").len(), 2);
    assert_eq!(call("GET", "/v1/threads/run/retrieve").query_ids("thread_id=1&run_id=2").len(), 2);
}

#[test]
fn units_are_the_most_of_each_place_added_up() {
    let rules = call("POST", "/anthropic/v1/messages");
    let mut count = UnitsCount::default();
    for event in [
        r#"{"type":"message_start","message":{"usage":{"input_tokens":20,"output_tokens":1}}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":5}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":9}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":"x"}}"#,
        r#"{"type":"message_delta","usage":{"output_tokens":-3}}"#,
    ] {
        for found in scan(rules.reply, [event.as_bytes()]).unwrap() {
            count.note(&found);
        }
    }
    assert_eq!(count.total(), 30);
}
