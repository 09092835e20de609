//! The table. Section numbers are those of the notes on upstream (minimax-wire); "V2" are upstream's pages of
//! video-generation-v2: create, regeneration, query, list, delete.

use http::Method;

use super::paths::segments;
use super::{Effect, List, PathId, Voice};
use crate::relay::json::{Kind, Rule, Rules};
use Kind::{CallbackUrl, FileId, MmFile, StatusCode, StatusMessage, TaskId, Units, VoiceId};

/// A call of the table.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) method: Method,
    /// `{id}` is a segment.
    pub(super) path: &'static str,
    /// What `{id}` is.
    path_id: Kind,
    pub(super) effect: Effect,
    pub(super) request: Rules,
    pub(super) reply: Rules,
    pub(super) query: &'static [(&'static str, Kind)],
    pub(super) adopts: Option<&'static str>,
    pub(super) voice: Option<Voice>,
    pub(super) list: Option<List>,
}

/// Where a file or a task may be named in the query of any call.
const QUERY: &[(&str, Kind)] =
    &[("task_id", TaskId), ("file_id", FileId), ("voice_id", VoiceId), ("source_task_id", TaskId)];
/// V2 list: its filters.
const QUERY_LIST: &[(&str, Kind)] = &[
    ("task_id", TaskId),
    ("file_id", FileId),
    ("filter.task_ids", TaskId),
    ("filter.task_id", TaskId),
];
/// What the assistants of old are named by (§4.6). Upstream makes all of these, so each is a task to us.
const QUERY_ASSISTANTS: &[(&str, Kind)] = &[
    ("file_id", FileId),
    ("assistant_id", TaskId),
    ("thread_id", TaskId),
    ("run_id", TaskId),
    ("message_id", TaskId),
    ("job_id", TaskId),
    ("fine_tuning_job_id", TaskId),
];

type Places = &'static [(Kind, &'static str)];

fn rules(places: &[(Kind, &'static str)]) -> Rules {
    let rules: Vec<Rule> = places.iter().map(|(kind, path)| Rule::new(*kind, path)).collect();
    Rules::new(&rules)
}

impl Row {
    fn new(method: Method, path: &'static str) -> Self {
        Self {
            method,
            path,
            path_id: TaskId,
            effect: Effect::Lasting,
            request: Rules::default(),
            reply: Rules::default(),
            query: QUERY,
            adopts: None,
            voice: None,
            list: None,
        }
        .reply(&[])
    }

    fn post(path: &'static str) -> Self {
        Self::new(Method::POST, path)
    }

    fn get(path: &'static str) -> Self {
        Self::new(Method::GET, path)
    }

    /// It may be made again.
    fn harmless(self) -> Self {
        Self { effect: Effect::None, ..self }
    }

    fn request(self, places: Places) -> Self {
        Self { request: rules(places), ..self }
    }

    /// What stands in the reply beside what stands in all.
    fn reply(self, places: Places) -> Self {
        let all = [
            (StatusCode, "base_resp.status_code"),
            (StatusMessage, "base_resp.status_msg"),
            (StatusMessage, "error.message"),
            (MmFile, "**"),
        ];
        Self { reply: rules(&[places, &all[..]].concat()), ..self }
    }

    fn adopts(self, purpose: &'static str) -> Self {
        Self { adopts: Some(purpose), ..self }
    }

    fn voice(self, voice: Voice) -> Self {
        Self { voice: Some(voice), ..self }
    }

    fn list(self, list: List) -> Self {
        Self { list: Some(list), ..self }
    }

    fn query(self, query: &'static [(&'static str, Kind)]) -> Self {
        Self { query, ..self }
    }

    pub(super) fn matches(&self, path: &str) -> bool {
        let (mut own, mut given) = (self.path.split('/'), path.split('/'));
        loop {
            match (own.next(), given.next()) {
                (None, None) => return true,
                (Some("{id}"), Some(segment)) if !segment.is_empty() => {}
                (Some(own), Some(given)) if own == given => {}
                _ => return false,
            }
        }
    }

    pub(super) fn path_ids(&self, path: &str) -> Vec<PathId> {
        let own = self.path.split('/');
        let ids = own.zip(segments(path)).filter(|(own, _)| *own == "{id}");
        ids.map(|(_, range)| PathId { kind: self.path_id, range }).collect()
    }
}

// Where a call takes voices to speak with (§4.1).
const VOICE: (Kind, &str) = (VoiceId, "voice_setting.voice_id");
const TIMBRE: (Kind, &str) = (VoiceId, "timbre_weights[].voice_id");
/// The old spelling.
const TIMBER: (Kind, &str) = (VoiceId, "timber_weights[].voice_id");
/// Where it stood before there were settings.
const OLD_VOICE: (Kind, &str) = (VoiceId, "voice_id");

/// What is known of upstream.
pub(super) fn rows() -> Vec<Row> {
    let mut rows = speech();
    rows.extend(videos());
    rows.extend(chats());
    rows.extend(music());
    rows.extend(assistants());
    rows
}

/// §4.1 and §4.2.
fn speech() -> Vec<Row> {
    vec![
        // §4.1. The preview of the new voice is billed, so it may be counted.
        Row::post("/v1/voice_clone")
            .request(&[
                (FileId, "file_id"),
                (FileId, "clone_prompt.prompt_audio"),
                (VoiceId, "voice_id"),
            ])
            .reply(&[(Units, "extra_info.usage_characters"), (Units, "usage_characters")])
            .voice(Voice::Makes),
        // §4.1.
        Row::post("/v1/voice_design")
            .request(&[(VoiceId, "voice_id")])
            .reply(&[(VoiceId, "voice_id"), (Units, "extra_info.usage_characters")])
            .voice(Voice::Makes),
        // §4.1.
        Row::post("/v1/get_voice").harmless().list(List::Voices),
        // §4.1.
        Row::post("/v1/delete_voice").request(&[(VoiceId, "voice_id")]).voice(Voice::Deletes),
        // §4.1; `timber_weights` is an old spelling. Streamed replies count in their last event.
        Row::post("/v1/t2a_v2")
            .harmless()
            .request(&[VOICE, TIMBRE, TIMBER, OLD_VOICE])
            .reply(&[(Units, "extra_info.usage_characters")]),
        // §4.1: the messages of the socket have the same places.
        Row::get("/ws/v1/t2a_v2")
            .request(&[VOICE, TIMBRE, TIMBER, OLD_VOICE])
            .reply(&[(Units, "extra_info.usage_characters")]),
        // §4.2.
        Row::post("/v1/t2a_async_v2")
            .request(&[(FileId, "text_file_id"), VOICE, TIMBRE, TIMBER, OLD_VOICE])
            .reply(&[(TaskId, "task_id"), (FileId, "file_id"), (Units, "usage_characters")])
            .adopts("t2a_async"),
        // §4.2.
        Row::get("/v1/query/t2a_async_query_v2")
            .reply(&[(TaskId, "task_id"), (FileId, "file_id")])
            .adopts("t2a_async"),
        // §4.5: multipart with the file itself; no id.
        Row::post("/v1/speech_to_text").harmless(),
    ]
}

/// §4.3 and §4.4.
fn videos() -> Vec<Row> {
    const MADE: Places = &[(TaskId, "task_id"), (TaskId, "task.id")];
    const CONTENT: Places = &[(MmFile, "**"), (CallbackUrl, "callback_url")];
    vec![
        // §4.3, §4.7.
        Row::post("/v1/video_generation")
            .request(&[(MmFile, "**"), (CallbackUrl, "callback_url"), (TaskId, "task_id")])
            .reply(&[(TaskId, "task_id")]),
        // §4.3: the file's id is an empty string until there is a file.
        Row::get("/v1/query/video_generation")
            .reply(&[(TaskId, "task_id"), (FileId, "file_id")])
            .adopts("video_generation"),
        // §4.6.
        Row::post("/v1/video_template_generation")
            .request(&[(MmFile, "**"), (CallbackUrl, "callback_url")])
            .reply(&[(TaskId, "task_id")]),
        // §4.6: the reply has a URL and no file.
        Row::get("/v1/query/video_template_generation").reply(&[(TaskId, "task_id")]),
        // §4.4, V2 create.
        Row::post("/v2/video_generation").request(CONTENT).reply(MADE),
        // §4.4, V2 regeneration.
        Row::post("/v2/video_regeneration")
            .request(&[(TaskId, "source_task_id"), (MmFile, "**"), (CallbackUrl, "callback_url")])
            .reply(MADE),
        // §4.4: the content of V2 create.
        Row::post("/v2/h3_context_ir").request(CONTENT).reply(MADE),
        // V2 query: `{"task":{"id":…}}`.
        Row::get("/v2/query/video_generation/{id}").reply(&[
            (TaskId, "task.id"),
            (TaskId, "task_id"),
            (TaskId, "task.source_task_id"),
        ]),
        // §4.4, V2 list: whose the items are is for `lists.rs`.
        Row::get("/v2/query/video_generation").query(QUERY_LIST).list(List::Videos),
        // §4.4, V2 delete.
        Row::new(Method::DELETE, "/v2/video_generation/{id}").reply(MADE),
    ]
}

/// §4.5. Paths are exact: `file_id` may be a word of the client's own in the schema or the input of a tool.
fn chats() -> Vec<Row> {
    const MESSAGES: Places = &[
        (MmFile, "**"),
        (FileId, "messages[].content[].source.file_id"),
        // Nested in the result of a tool.
        (FileId, "messages[].content[].content[].source.file_id"),
    ];
    const CHAT: Places = &[
        (MmFile, "**"),
        (FileId, "messages[].content[].file.file_id"),
        (FileId, "messages[].content[].file_id"),
    ];
    const CHATTED: Places = &[(Units, "usage.total_tokens")];
    vec![
        Row::post("/v1/chat/completions").harmless().request(CHAT).reply(CHATTED),
        // The chat of old: the same idea.
        Row::post("/v1/text/chatcompletion_v2").harmless().request(CHAT).reply(CHATTED),
        Row::post("/v1/responses")
            .harmless()
            .request(&[
                (MmFile, "**"),
                (FileId, "input[].content[].file_id"),
                (FileId, "input[].content[].input_file.file_id"),
                (FileId, "input[].file_id"),
            ])
            .reply(&[(Units, "usage.total_tokens"), (Units, "response.usage.total_tokens")]),
        // Streams begin with `message_start`, which has the usage one level down.
        Row::post("/anthropic/v1/messages").harmless().request(MESSAGES).reply(&[
            (Units, "usage.input_tokens"),
            (Units, "usage.output_tokens"),
            (Units, "message.usage.input_tokens"),
            (Units, "message.usage.output_tokens"),
        ]),
        Row::post("/anthropic/v1/messages/count_tokens").harmless().request(MESSAGES),
        Row::post("/v1/coding_plan/vlm")
            .harmless()
            .request(&[(FileId, "file_id"), (MmFile, "**")])
            .reply(&[(Units, "usage.total_tokens")]),
    ]
}

/// §4.6.
fn music() -> Vec<Row> {
    vec![
        // `cover_feature_id` is known to the account that prepared it alone, for a day: a task to us.
        Row::post("/v1/music_generation")
            .request(&[
                (TaskId, "cover_feature_id"),
                (VoiceId, "refer_voice"),
                (VoiceId, "refer_instrumental"),
                (MmFile, "**"),
            ])
            .reply(&[(TaskId, "task_id"), (TaskId, "data.task_id")]),
        Row::post("/v1/music_cover_preprocess")
            .request(&[(MmFile, "**")])
            .reply(&[(TaskId, "cover_feature_id"), (TaskId, "data.cover_feature_id")]),
        // Multipart; what comes of it is named like a voice.
        Row::post("/v1/music_upload")
            .reply(&[(VoiceId, "voice_id"), (VoiceId, "instrumental_id")])
            .voice(Voice::Makes),
        Row::post("/v1/lyrics_generation"),
        // `subject_reference` has URLs.
        Row::post("/v1/image_generation")
            .request(&[(MmFile, "**"), (FileId, "subject_reference[].file_id")]),
    ]
}

/// §4.6, of old: `minimax_client` and `create_finetune_job`.
fn assistants() -> Vec<Row> {
    const ASKED: Places = &[
        (FileId, "file_ids[]"),
        (FileId, "file_id"),
        (FileId, "attachments[].file_id"),
        (FileId, "training_file"),
        (FileId, "validation_file"),
        (TaskId, "id"),
        (TaskId, "assistant_id"),
        (TaskId, "thread_id"),
        (TaskId, "run_id"),
        (TaskId, "message_id"),
        (TaskId, "job_id"),
        (TaskId, "fine_tuning_job_id"),
        (MmFile, "**"),
    ];
    const SAID: Places = &[
        (TaskId, "id"),
        (TaskId, "data[].id"),
        (TaskId, "**.assistant_id"),
        (TaskId, "**.thread_id"),
        (TaskId, "**.run_id"),
        (TaskId, "**.message_id"),
        (FileId, "**.file_ids[]"),
        (FileId, "**.file_id"),
        (FileId, "**.training_file"),
    ];
    const POSTED: [&str; 15] = [
        "/v1/assistants/create",
        "/v1/assistants/modify",
        "/v1/assistants/delete",
        "/v1/assistants/files/create",
        "/v1/assistants/files/delete",
        "/v1/threads/create",
        "/v1/threads/modify",
        "/v1/threads/delete",
        "/v1/threads/messages/add",
        "/v1/threads/messages/modify",
        "/v1/threads/run/create",
        "/v1/threads/run/modify",
        "/v1/create_finetune_job",
        "/v1/finetune/create",
        "/v1/finetune/cancel",
    ];
    const READ: [&str; 13] = [
        "/v1/assistants/retrieve",
        "/v1/assistants/list",
        "/v1/assistants/files/retrieve",
        "/v1/assistants/files/list",
        "/v1/threads/retrieve",
        "/v1/threads/messages/retrieve",
        "/v1/threads/messages/list",
        "/v1/threads/run/retrieve",
        "/v1/threads/run/list",
        "/v1/threads/run_steps/retrieve",
        "/v1/threads/run_steps/list",
        "/v1/retrieve_finetune_job",
        "/v1/list_finetune_job",
    ];
    let posted = POSTED.into_iter().map(|path| Row::post(path).request(ASKED));
    let read = READ.into_iter().map(Row::get);
    posted
        .chain(read)
        .map(|row| row.reply(SAID).query(QUERY_ASSISTANTS).adopts("assistants"))
        .collect()
}

/// What may stand in calls that upstream has added since: every spelling of an id that it uses, at any depth.
pub(super) fn unknown() -> Row {
    Row::post("")
        .request(&[
            (FileId, "**.file_id"),
            (FileId, "**.*_file_id"),
            (FileId, "**.file_ids[]"),
            (FileId, "**.prompt_audio"),
            (FileId, "**.training_file"),
            (TaskId, "**.task_id"),
            (TaskId, "**.*_task_id"),
            (TaskId, "**.task_ids[]"),
            (TaskId, "**.cover_feature_id"),
            (VoiceId, "**.voice_id"),
            (MmFile, "**"),
            (CallbackUrl, "callback_url"),
        ])
        .reply(&[
            (FileId, "**.file_id"),
            (FileId, "**.*_file_id"),
            (FileId, "**.file_ids[]"),
            (TaskId, "**.task_id"),
            (TaskId, "**.*_task_id"),
            (Units, "extra_info.usage_characters"),
            (Units, "usage_characters"),
            (Units, "usage.total_tokens"),
        ])
        .adopts("relayed")
}
