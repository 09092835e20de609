//! `filegate demo`: the main job on real audio, on a server of its own.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use filegate_client::FormEnvelope;
use filegate_emulator::{AccountOptions, Emulator, Options};
use filegate_server::Server;
use filegate_server::config::Config;
use filegate_store::KeyDraft;
use filegate_types::{Clock as _, Scopes, SystemClock};
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// The samples travel in the binary, so that the demo runs anywhere.
const VOICE: &[u8] = include_bytes!("../../../../samples/voice.mp3");
const TOO_LONG: &[u8] = include_bytes!("../../../../samples/too-long.mp3");

/// Characters of a string in a reply that are shown: speech comes as hex.
const SHOWN_CHARS: usize = 160;

/// The stand-ins for upstream accounts, and their keys.
const ACCOUNTS: [(&str, &str); 2] = [("first", "sk-demo-first"), ("second", "sk-demo-second")];

/// Longest wait for an answer of our own server.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Show the main job on real speech: upload, refuse, fetch back, clone and speak, lose an account
///
/// Starts a server on free ports with an empty store in a temporary directory, makes a key, and goes
/// through the calls that MiniMax clients make. Behind it are two stand-ins for MiniMax accounts
/// (`filegate emulate`), of which one is taken away on the way. Each step is shown as the curl line you
/// would type and the JSON that came back. Then it goes on serving until Ctrl-C, so that you can try
/// your own; everything is removed at the end.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// End after the last step; status 0 only if every step held
    #[arg(long)]
    exit: bool,
}

pub(crate) fn run(args: &DemoArgs, printer: &Printer) -> Result<Exit, Failure> {
    super::server_runtime()?.block_on(async {
        tokio::select! {
            result = demo(args, printer) => result,
            _ = tokio::signal::ctrl_c() => Ok(Exit::Ok),
        }
    })
}

async fn demo(args: &DemoArgs, printer: &Printer) -> Result<Exit, Failure> {
    let home = tempfile::tempdir().context("cannot make a temporary directory")?;
    let any_port = "127.0.0.1:0".parse().context("a valid address")?;
    let config = Config {
        listen: any_port,
        admin_listen: any_port,
        data_dir: home.path().join("data"),
        ..Config::default()
    };
    let server = super::serve::start(config).await?;
    let key = make_key(&server).await?;
    let upstream = emulator().await?;
    let tour = Tour {
        base: format!("http://{}/minimax", server.address),
        key,
        upstream: format!("http://{}", upstream.address),
        http: client()?,
        printer,
        home: home.path(),
    };
    let outcome = match tour.add_channels(&server).await {
        Ok(()) => tour.steps().await,
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        printer.error(&format!("the demo failed: {error:#}"));
        server.stop().await;
        return Ok(Exit::Unavailable);
    }
    if !args.exit {
        tour.say_how_to_go_on(&server)?;
        let _pressed = tokio::signal::ctrl_c().await;
    }
    server.stop().await;
    upstream.stop().await;
    Ok(Exit::Ok)
}

/// Upstream, on a free port of this machine.
async fn emulator() -> anyhow::Result<Emulator> {
    let named = |(name, key): (&str, &str)| AccountOptions { name: name.into(), key: key.into() };
    let accounts = ACCOUNTS.map(named).to_vec();
    let options = Options { accounts, ..Options::new("") };
    Emulator::start(options).await.context("the stand-in for MiniMax does not start")
}

async fn make_key(server: &Server) -> anyhow::Result<String> {
    let key = filegate_server::new_key();
    let draft = KeyDraft {
        account: "default".to_owned(),
        name: "demo".to_owned(),
        hash: key.hash(),
        hint: key.hint().to_owned(),
        scopes: Scopes::all(),
        expires_at: None,
    };
    server.catalog().create_key(draft, SystemClock.now()).await.context("cannot make a key")?;
    Ok(key.expose().to_owned())
}

/// Plain HTTP to our own address: no proxy, no certificates.
fn client() -> anyhow::Result<Client> {
    let builder = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT);
    builder.build().context("cannot make a client")
}

struct Tour<'a> {
    base: String,
    key: String,
    /// Where the stand-in for MiniMax is.
    upstream: String,
    http: Client,
    printer: &'a Printer,
    home: &'a Path,
}

impl Tour<'_> {
    async fn steps(&self) -> anyhow::Result<()> {
        self.title(&format!("a server is running on {}, and a key was made", self.base))?;
        self.printer.result(&format!("  KEY={}", self.key))?;

        self.title("1. upload 12 s of speech to clone a voice from")?;
        let reply = self.upload("voice.mp3", VOICE).await?;
        succeeded(&reply)?;
        let id = reply["file"]["file_id"].as_i64().context("the reply has no file_id")?;

        self.title("2. list the files")?;
        let reply = self.get("list?purpose=voice_clone").await?;
        succeeded(&reply)?;
        let listed = reply["files"].as_array().context("the reply has no files")?;
        ensure!(listed.iter().any(|file| file["file_id"] == id), "the file is not in the list");

        self.title("3. retrieve it: what was measured, and a link that needs no key")?;
        let reply = self.get(&format!("retrieve?file_id={id}")).await?;
        succeeded(&reply)?;
        let link = reply["file"]["download_url"].as_str().context("there is no download_url")?;

        self.title("4. fetch the content, by the call and by the link, and compare it")?;
        let call = format!("{}/v1/files/retrieve_content?file_id={id}", self.base);
        self.curl(&format!("'{call}' -H \"Authorization: Bearer $KEY\" -o back.mp3"))?;
        let back = self.bytes(self.http.get(&call).bearer_auth(&self.key)).await?;
        let by_link = self.bytes(self.http.get(link)).await?;
        ensure!(back == VOICE, "the content differs from what was uploaded");
        ensure!(by_link == VOICE, "the content behind the link differs");
        self.printer.result(&format!("  {} bytes, identical both ways", back.len()))?;

        self.title(
            "5. a recording that upstream would choke on is refused before it costs anything",
        )?;
        let reply = self.upload("too-long.mp3", TOO_LONG).await?;
        ensure!(reply["base_resp"]["status_code"] == 2037, "the file was not refused with 2037");

        self.title(
            "6. clone a voice from it and speak: one of two MiniMax accounts (stand-ins) gets the file now",
        )?;
        self.clone_and_speak(id, "demo-voice-1", "one.mp3").await?;
        let served = self.served().await?;

        self.title(&format!(
            "7. that account, {served:?}, is taken away; the same file_id goes on working"
        ))?;
        let ban = json!({"account": served, "banned": true});
        let control = self.http.post(format!("{}/emulate/accounts", self.upstream));
        self.bytes(control.body(ban.to_string())).await?;
        self.clone_and_speak(id, "demo-voice-2", "two.mp3").await?;
        let other = self.served().await?;
        ensure!(other != served, "the call went to an account that is gone");
        self.printer.result(&format!("  this time it was served by {other:?}"))?;

        self.title("8. delete the file; it is gone at once")?;
        let call = format!("{}/v1/files/delete", self.base);
        let body = format!("{{\"file_id\":{id}}}");
        self.curl(&format!("{call} -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{body}'"))?;
        let request = self.http.post(&call).bearer_auth(&self.key);
        let request = request.header("content-type", "application/json").body(body);
        succeeded(&self.show(request).await?)?;
        let reply = self.get(&format!("retrieve?file_id={id}")).await?;
        ensure!(reply["base_resp"]["status_code"] == 2013, "the file is still there");
        Ok(())
    }

    /// As `filegate channel add` does.
    async fn add_channels(&self, server: &Server) -> anyhow::Result<()> {
        let token = server.admin_token.as_ref().context("a first start has a token")?;
        let call = format!("http://{}/admin/v1/channels", server.admin_address);
        for (name, key) in ACCOUNTS {
            let body = json!({"name": name, "base_url": self.upstream, "key": key}).to_string();
            let request = self.http.post(&call).bearer_auth(token);
            let request = request.header("content-type", "application/json").body(body);
            let added = request.send().await.context("the call failed")?.status();
            ensure!(added.is_success(), "a channel was not added: {added}");
        }
        Ok(())
    }

    /// Makes a voice of the file and has it say something.
    async fn clone_and_speak(&self, id: i64, voice: &str, file: &str) -> anyhow::Result<()> {
        let reply = self.post("voice_clone", json!({"file_id": id, "voice_id": voice})).await?;
        succeeded(&reply)?;
        let text = "This was said by a cloned voice, whichever account serves it.";
        let speech =
            json!({"model": "speech-02-hd", "text": text, "voice_setting": {"voice_id": voice}});
        let reply = self.post("t2a_v2", speech).await?;
        succeeded(&reply)?;
        let audio = unhex(reply["data"]["audio"].as_str().context("the reply has no audio")?)?;
        let path = self.home.join(file);
        tokio::fs::write(&path, &audio).await.context("cannot write the speech")?;
        self.printer.result(&format!("  {} bytes of mp3, in {}", audio.len(), path.display()))?;
        Ok(())
    }

    /// The account that has made the last voice.
    async fn served(&self) -> anyhow::Result<String> {
        let calls = format!("{}/emulate/calls?path=/v1/voice_clone&code=0", self.upstream);
        let bytes = self.bytes(self.http.get(calls)).await?;
        let said: Value = serde_json::from_slice(&bytes).context("the stand-in tells of calls")?;
        let last = said["calls"].as_array().and_then(|calls| calls.last());
        let account = last.and_then(|call| call["account"].as_str());
        Ok(account.context("the stand-in was not called")?.to_owned())
    }

    async fn post(&self, call: &str, body: Value) -> anyhow::Result<Value> {
        let call = format!("{}/v1/{call}", self.base);
        self.curl(&format!("{call} -H \"Authorization: Bearer $KEY\" -H 'Content-Type: application/json' -d '{body}'"))?;
        let request = self.http.post(call).bearer_auth(&self.key);
        self.show(request.header("content-type", "application/json").body(body.to_string())).await
    }

    async fn upload(&self, name: &str, content: &'static [u8]) -> anyhow::Result<Value> {
        let path = self.home.join(name);
        tokio::fs::write(&path, content).await.context("cannot write the sample")?;
        let call = format!("{}/v1/files/upload", self.base);
        self.curl(&format!(
            "{call} -H \"Authorization: Bearer $KEY\" -F purpose=voice_clone -F file=@{}",
            path.display()
        ))?;
        let form = FormEnvelope::new("voice_clone", name);
        let body = [&form.head, content, &form.tail].concat();
        let request = self.http.post(call).bearer_auth(&self.key);
        self.show(request.header("content-type", form.content_type).body(body)).await
    }

    async fn get(&self, call: &str) -> anyhow::Result<Value> {
        let call = format!("{}/v1/files/{call}", self.base);
        self.curl(&format!("'{call}' -H \"Authorization: Bearer $KEY\""))?;
        self.show(self.http.get(call).bearer_auth(&self.key)).await
    }

    /// Sends the request and shows the JSON that came back.
    async fn show(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let bytes = self.bytes(request).await?;
        let value: Value = serde_json::from_slice(&bytes).context("the reply is not JSON")?;
        for line in serde_json::to_string_pretty(&shortened(value.clone()))?.lines() {
            self.printer.result(&format!("  {line}"))?;
        }
        Ok(value)
    }

    async fn bytes(&self, request: RequestBuilder) -> anyhow::Result<Vec<u8>> {
        let response = request.send().await.context("the call failed")?;
        Ok(response.bytes().await.context("the reply broke off")?.to_vec())
    }

    fn title(&self, text: &str) -> anyhow::Result<()> {
        Ok(self.printer.result(&format!("\n{text}"))?)
    }

    fn curl(&self, line: &str) -> anyhow::Result<()> {
        Ok(self.printer.result(&format!("$ curl -s {line}"))?)
    }

    fn say_how_to_go_on(&self, server: &Server) -> Result<(), Failure> {
        let lines = [
            String::new(),
            "Every step held. The server goes on until Ctrl-C; try a file of your own:".to_owned(),
            format!("  export FILEGATE_URL={} FILEGATE_KEY={}", self.base, self.key),
            "  filegate upload YOUR-VOICE.mp3 --purpose voice_clone".to_owned(),
            "  filegate ls".to_owned(),
            format!(
                "Reference: http://{}/docs   Metrics: http://{}/metrics",
                server.address, server.admin_address
            ),
            "For good: filegate serve, then filegate key create --name NAME".to_owned(),
        ];
        lines.iter().try_for_each(|line| Ok(self.printer.result(line)?))
    }
}

/// The same with long strings cut.
fn shortened(value: Value) -> Value {
    match value {
        Value::String(text) if text.chars().count() > SHOWN_CHARS => {
            let shown: String = text.chars().take(SHOWN_CHARS).collect();
            Value::String(format!("{shown}… ({} characters)", text.chars().count()))
        }
        Value::Array(items) => items.into_iter().map(shortened).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, shortened(value))).collect()
        }
        other => other,
    }
}

fn unhex(text: &str) -> anyhow::Result<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|n| n as u8);
    let byte = |pair: &[u8]| Some((digit(pair.first()?)? << 4) | digit(pair.get(1)?)?);
    text.as_bytes().chunks(2).map(byte).collect::<Option<_>>().context("the audio is not hex")
}

fn succeeded(reply: &Value) -> anyhow::Result<()> {
    let base = &reply["base_resp"];
    ensure!(base["status_code"] == 0, "the call was refused: {}", base["status_msg"]);
    Ok(())
}
