//! `GET /ws/v1/t2a_v2`: speech over a WebSocket.
//!
//! ```text
//! client            emulator
//! (handshake)       connected_success
//! task_start        task_started
//! task_continue     task_continued, once for each piece of audio; is_final with the last of the text
//! task_finish       task_finished, then a close
//! (anything wrong)  task_failed, then a close
//! ```

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use filegate_types::hex;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde_json::{Value, json};

use super::speech::{CHUNK_BYTES, check_text};
use crate::app::App;
use crate::layer::{Caller, Told, Trace};
use crate::make::AudioFormat;
use crate::reply::{Code, Refusal, success_resp};
use crate::socket::{Socket, handshake};
use crate::speech::{Manner, Speaker};
use crate::world::{AccountIx, token};

/// A client that is silent for so long is told that the task failed.
const IDLE_MAX: Duration = Duration::from_mins(2);

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "event")]
    name: String,
    #[serde(default)]
    text: String,
    #[serde(flatten)]
    manner: Manner,
}

type Client = Socket<TokioIo<Upgraded>>;

pub(crate) async fn handle(
    State(app): State<Arc<App>>,
    caller: Option<Extension<Caller>>,
    told: Option<Extension<Told>>,
    Extension(Trace(trace)): Extension<Trace>,
    mut request: Request,
) -> Result<Response, Refusal> {
    let mut response = handshake(request.headers())
        .ok_or_else(|| Refusal::invalid("this path speaks WebSocket only"))?;
    let upgrade = hyper::upgrade::on(&mut request);
    let session = Session {
        app: Arc::clone(&app),
        ix: caller.map(|Extension(Caller(ix))| ix),
        told: told.map(|Extension(Told(refusal))| refusal),
        id: token(app.options.seed, &trace),
        trace,
    };
    app.tasks.spawn(async move {
        let talked = async {
            let upgraded = upgrade.await.map_err(io::Error::other)?;
            session.talk(&mut Socket::new(TokioIo::new(upgraded))).await
        };
        tokio::select! {
            ended = talked => if let Err(error) = ended {
                tracing::debug!(%error, "emulator.socket.ended");
            },
            () = session.app.tasks.stopping() => {}
        }
    });
    response.extensions_mut().insert(Code(0));
    Ok(response)
}

struct Session {
    app: Arc<App>,
    /// None only when there is something to be told.
    ix: Option<AccountIx>,
    told: Option<Refusal>,
    id: String,
    trace: Arc<str>,
}

impl Session {
    async fn talk(&self, client: &mut Client) -> io::Result<()> {
        self.say(client, "connected_success", json!({})).await?;
        let mut speaker = None;
        loop {
            let Ok(next) = tokio::time::timeout(IDLE_MAX, client.next()).await else {
                return self.fail(client, &Refusal::new(1001, "request timeout")).await;
            };
            let Some(text) = next? else { return Ok(()) };
            match self.step(client, &text, &mut speaker).await? {
                Ok(false) => {}
                Ok(true) => return client.close().await,
                Err(refusal) => return self.fail(client, &refusal).await,
            }
        }
    }

    /// Does what an event asks for; true at the end of the task.
    async fn step(
        &self,
        client: &mut Client,
        text: &str,
        speaker: &mut Option<Speaker>,
    ) -> io::Result<Result<bool, Refusal>> {
        let event: Event = match serde_json::from_str(text) {
            Ok(event) => event,
            Err(why) => return Ok(Err(Refusal::invalid(format_args!("json: {why}")))),
        };
        match (event.name.as_str(), &speaker, self.ix) {
            ("task_start", None, Some(ix)) if self.told.is_none() => {
                match self.start(ix, event.manner) {
                    Ok(started) => *speaker = Some(started),
                    Err(refusal) => return Ok(Err(refusal)),
                }
                self.say(client, "task_started", json!({})).await?;
                Ok(Ok(false))
            }
            ("task_continue", Some(speaker), Some(ix)) => {
                self.speak(client, ix, speaker, &event.text).await
            }
            ("task_finish", Some(_), _) => {
                self.say(client, "task_finished", json!({})).await?;
                Ok(Ok(true))
            }
            _ => Ok(Err(self.told.clone().unwrap_or_else(|| Refusal::invalid("unexpected event")))),
        }
    }

    fn start(&self, ix: AccountIx, manner: Manner) -> Result<Speaker, Refusal> {
        let speaker = manner.check()?;
        if speaker.audio.format == AudioFormat::Wav {
            return Err(Refusal::invalid("format wav is not supported in a stream"));
        }
        speaker.admit(&self.app, ix, "")?;
        Ok(speaker)
    }

    async fn speak(
        &self,
        client: &mut Client,
        ix: AccountIx,
        speaker: &Speaker,
        text: &str,
    ) -> io::Result<Result<bool, Refusal>> {
        let admitted = check_text(text).and_then(|()| speaker.admit(&self.app, ix, text));
        if let Err(refusal) = admitted {
            return Ok(Err(refusal));
        }
        let sound = match speaker.say(&self.app, text).await {
            Ok(sound) => sound,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let count = sound.bytes.len().div_ceil(CHUNK_BYTES);
        for (nth, piece) in sound.bytes.chunks(CHUNK_BYTES).enumerate() {
            let is_final = nth + 1 == count;
            let mut fields = json!({"data": {"audio": hex(piece)}, "is_final": is_final});
            if is_final {
                fields["extra_info"] = speaker.info(&sound, text);
            }
            self.say(client, "task_continued", fields).await?;
        }
        Ok(Ok(false))
    }

    async fn fail(&self, client: &mut Client, refusal: &Refusal) -> io::Result<()> {
        self.say(client, "task_failed", json!({"base_resp": refusal.base_resp()})).await?;
        client.close().await
    }

    async fn say(&self, client: &mut Client, event: &str, mut fields: Value) -> io::Result<()> {
        fields["event"] = event.into();
        fields["session_id"] = self.id.as_str().into();
        fields["trace_id"] = (&*self.trace).into();
        if fields.get("base_resp").is_none() {
            fields["base_resp"] = success_resp();
        }
        client.text(&fields.to_string()).await
    }
}
