//! News of video tasks, posted to the client's `callback_url`, after a challenge that it must return.

use std::sync::Arc;
use std::time::Duration;

use filegate_types::UnixMillis;
use serde_json::{Value, json};

use crate::app::App;
use crate::reply::{Refusal, success_resp};
use crate::routes::shown_video;
use crate::world::{AccountIx, Status, token};

/// How long a client may take to return the challenge, or to take news.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// Calls out are rare and short: no proxy, no redirects.
pub(crate) fn client() -> reqwest::Result<reqwest::Client> {
    // Fails when a provider is installed already, which is as good.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_MAX)
        .tls_certs_only([])
        .build()
}

/// Asks whether whoever is at `url` wants the news: it has to return the challenge.
pub(crate) async fn challenge(app: &App, url: &str) -> Result<(), Refusal> {
    let challenge = token(app.options.seed, &app.trace_id());
    let answered = post(app, url, &json!({"challenge": challenge})).await;
    let returned = answered.is_some_and(|answer| answer["challenge"] == challenge.as_str());
    if returned {
        Ok(())
    } else {
        Err(Refusal::invalid("callback_url did not return the challenge"))
    }
}

/// Posts; gives the answer if it is JSON.
async fn post(app: &App, url: &str, body: &Value) -> Option<Value> {
    let request =
        app.http.post(url).header("content-type", "application/json").body(body.to_string());
    let answered = async { request.send().await?.bytes().await };
    match answered.await {
        Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap_or_default()),
        Err(error) => {
            tracing::warn!(%error, url, "emulator.callback.failed");
            None
        }
    }
}

/// News to tell, and where they go.
struct News {
    ix: AccountIx,
    task: i64,
    status: Status,
    url: String,
    body: Value,
}

/// Tells news when the clock brings some, until the emulator stops.
pub(crate) async fn run(app: Arc<App>) {
    loop {
        let moved = app.clock.moved();
        let (news, next) = look(&app);
        if news.is_empty() {
            tokio::select! {
                () = app.tasks.stopping() => return,
                () = app.clock.until(next, moved) => {}
            }
        }
        for news in news {
            // Told once, whatever comes of it: nobody is to be called again and again.
            if let Some(task) = app.world().account_mut(news.ix).tasks.get_mut(&news.task)
                && let Some(callback) = &mut task.callback
            {
                callback.told = Some(news.status);
            }
            let _said_in_the_log = post(&app, &news.url, &news.body).await;
        }
    }
}

/// What is to be told now, and when there may be more.
fn look(app: &App) -> (Vec<News>, Option<UnixMillis>) {
    let now = app.clock.now();
    let world = app.world();
    let (mut news, mut next) = (Vec::new(), None::<UnixMillis>);
    for (nth, account) in world.accounts().iter().enumerate() {
        for task in account.tasks.values() {
            let Some(callback) = &task.callback else { continue };
            let status = match task.status(now) {
                Status::Success => Status::Success,
                Status::Fail | Status::Expired => Status::Fail,
                _ => Status::Processing,
            };
            if callback.told != Some(status) {
                let said = match status {
                    Status::Success => "success",
                    Status::Fail => "failed",
                    _ => "processing",
                };
                let mut body = shown_video(task, status, said);
                body["base_resp"] = success_resp();
                let (ix, url) = (AccountIx(nth), callback.url.clone());
                news.push(News { ix, task: task.id, status, url, body });
            }
            if now < task.times.done {
                next = Some(next.map_or(task.times.done, |next| next.min(task.times.done)));
            }
        }
    }
    (news, next)
}
