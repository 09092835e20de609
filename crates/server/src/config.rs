//! Settings: defaults, then the file, then `FILEGATE_*`, then the command line.
//!
//! Nested settings are reached from the environment with two underscores:
//! `FILEGATE_LIMITS__BODY_IDLE=30s`, `FILEGATE_PURPOSES__PROMPT_AUDIO__ACCEPT__AUDIO__DURATION_BELOW=10s`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use filegate_media::{DecodeScope, Format as MediaFormat};
use filegate_store::S3Setting;
use filegate_types::TenantLimits;
use filegate_types::purpose::{self, PurposeName, PurposePolicy};
use filegate_types::units::{Bytes, Span};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

mod relay;
mod stores;

pub use crate::moderation::config::{Clamd, Moderation, OnFailure, Secret, Webhook};
use crate::origins::Origins;
pub use relay::Relay;
pub use stores::{Checksum, Database, Redis, S3};

/// Environment variables with our prefix that are not settings of the server.
const NOT_SETTINGS: [&str; 8] = [
    "config",
    "url",
    "key",
    "admin_url",
    "admin_token",
    "samples_dir",
    "migrate_from_database",
    "migrate_to_database",
];

/// The longest that S3 signs a link for.
const PRESIGNED_MAX: Span = Span::seconds(7 * 86_400);

/// Everything that can be set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// Where operators connect; keep it off public networks.
    pub admin_listen: SocketAddr,
    /// The directory with the catalog and the blobs.
    pub data_dir: PathBuf,
    /// Where the rows are: a `postgres://` URL. Empty: SQLite in `data_dir`.
    pub database_url: Secret,
    /// Where the bytes are: `s3://bucket/prefix?endpoint=…&region=…`. Empty: `data_dir`.
    pub blob_url: String,
    /// Where limits are counted for all replicas: a `redis://` or `rediss://` URL. Empty: nowhere but here.
    pub redis_url: Secret,
    /// What `download_url` starts with, such as `https://files.example.com`. Empty: the `Host` of the
    /// request, with plain http.
    pub public_url: String,
    /// Whether errors of the API answer HTTP 200 or the matching status.
    pub http_errors: HttpErrors,
    /// Who is in front of the gateway.
    pub network: Network,
    /// Bounds on connections, bodies and time, and on what tenants may use.
    pub limits: Limits,
    /// Connections to PostgreSQL; only with `database_url`.
    pub database: Database,
    /// How the S3 store is spoken to; only with `blob_url`.
    pub s3: S3,
    /// How Redis is spoken to; only with `redis_url`.
    pub redis: Redis,
    /// How files are examined.
    pub probe: Probe,
    /// Signed download links.
    pub downloads: Downloads,
    /// What is asked about each upload beside the blocked lists.
    pub moderation: Moderation,
    /// What goes to upstream accounts.
    pub relay: Relay,
    /// Work in the background.
    pub jobs: Jobs,
    /// How logs are written.
    pub log: Log,
    /// What each purpose takes.
    pub purposes: BTreeMap<PurposeName, PurposePolicy>,
    /// Where each value comes from; no setting itself.
    #[serde(skip)]
    pub origins: Origins,
}

/// How errors of the API are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HttpErrors {
    /// HTTP 200 with `base_resp`, as upstream does.
    Body,
    /// The matching HTTP status with the same body.
    Status,
}

/// Who is in front of the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// Networks of proxies whose `X-Forwarded-For` is believed. They must add the address they were
    /// called from at its right.
    pub trusted_proxies: Vec<IpNet>,
}

/// Bounds on connections, bodies and time. Memory is bounded by 256 KiB for each small upload, 27 MiB for all large ones
/// (of which 16 MiB become 2 × 32 KiB for each, where there are more than 256), `connections_max` × 64 KiB, a block of
/// 256 KiB for each download, and on S3 `s3.memory_max` for the parts of all uploads that are on their way up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Open connections on each listener; more wait in the kernel's queue.
    pub connections_max: usize,
    /// Uploads in progress at a time; more are answered 1002. A quarter of them stays free for others
    /// than the account that has most.
    pub uploads_max: usize,
    /// How long an upload waits for a place when there is none. 0s: not at all.
    pub upload_wait: Span,
    /// Time for the head of a request, and for a quiet kept-alive connection.
    pub head_timeout: Span,
    /// Longest silence within a body, renewed by every read.
    pub body_idle: Span,
    /// Slowest average of a body in bytes a second.
    pub body_rate_min: Bytes,
    /// Time before the average counts.
    pub body_grace: Span,
    /// Longest time a client may take nothing of an answer.
    pub write_idle: Span,
    /// How much of a refused body is read and thrown away so that the answer arrives.
    pub drain_bytes: Bytes,
    /// For how long it is.
    pub drain_time: Span,
    /// How long after SIGTERM requests are still taken, while `/readyz` sends balancers elsewhere and each answer
    /// closes its connection.
    pub drain: Span,
    /// Time for running requests to end after that.
    pub shutdown: Span,
    /// For whom limits of tenants are counted.
    pub scope: LimitScope,
    /// What becomes of limits while Redis is away.
    pub on_failure: LimitFailure,
    /// What an account may use that has no limit of its own for it.
    pub account: TenantLimits,
    /// What a key may use that has no limit of its own for it.
    pub key: TenantLimits,
}

/// For whom limits of tenants are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitScope {
    /// For all replicas together; several replicas need `redis_url` for it.
    Shared,
    /// For each replica by itself.
    PerReplica,
}

/// What becomes of limits while Redis is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LimitFailure {
    /// Each replica counts by itself.
    Local,
    /// Calls that a limit applies to are answered 1013.
    Refuse,
}

/// How files are examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// How much of an audio file is decoded: `window` or `whole`.
    pub decode: DecodeScope,
    /// Files examined and committed at a time, in turn by account. 0: two for each core and eight.
    pub parallel: usize,
}

/// Signed download links.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Downloads {
    /// How long a `download_url` works.
    pub link_life: Span,
    /// Who hands the bytes out.
    pub mode: DownloadMode,
}

/// Who hands out the bytes of a signed link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DownloadMode {
    /// The gateway, each block checked against its sum.
    Own,
    /// The S3 store: the link is one that it has signed.
    Redirect,
}

/// Work in the background.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jobs {
    /// How often due work is looked for when nothing wakes it earlier.
    pub interval: Span,
    /// How long an upload may go without progress before its bytes are reaped.
    pub upload_lease: Span,
    /// Bytes a second that the scrub reads. 0: no scrub.
    pub scrub_rate: Bytes,
    /// Quiet time after a start.
    pub scrub_first_pause: Span,
    /// Pause between two rounds of the scrub.
    pub scrub_pause: Span,
}

/// How logs are written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A filter such as `info` or `filegate_server=debug,info`.
    pub filter: String,
    /// `text` for people, `json` for machines.
    pub format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            data_dir: PathBuf::from("./filegate-data"),
            database_url: Secret::default(),
            blob_url: String::new(),
            redis_url: Secret::default(),
            public_url: String::new(),
            http_errors: HttpErrors::Body,
            network: Network::default(),
            limits: Limits {
                connections_max: 10_000,
                uploads_max: 512,
                upload_wait: Span::seconds(5),
                head_timeout: Span::seconds(30),
                body_idle: Span::seconds(60),
                body_rate_min: Bytes::kib(10),
                body_grace: Span::seconds(60),
                write_idle: Span::seconds(60),
                drain_bytes: Bytes::mib(8),
                drain_time: Span::seconds(5),
                drain: Span::seconds(0),
                shutdown: Span::seconds(30),
                scope: LimitScope::Shared,
                on_failure: LimitFailure::Local,
                account: TenantLimits::default(),
                key: TenantLimits::default(),
            },
            database: Database::default(),
            s3: S3::default(),
            redis: Redis::default(),
            probe: Probe { decode: DecodeScope::Window, parallel: 0 },
            downloads: Downloads { link_life: Span::seconds(3600), mode: DownloadMode::Own },
            moderation: Moderation::default(),
            relay: Relay::default(),
            jobs: Jobs {
                interval: Span::seconds(5),
                upload_lease: Span::seconds(120),
                scrub_rate: Bytes::mib(8),
                scrub_first_pause: Span::seconds(60),
                scrub_pause: Span::seconds(86_400),
            },
            log: Log { filter: "info".to_owned(), format: LogFormat::Text },
            purposes: purpose::defaults(),
            origins: Origins::default(),
        }
    }
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Unreadable, unknown or of the wrong kind; the text says which and where it was set.
    #[error("{0}")]
    Invalid(Box<figment::Error>),
    /// Readable but impossible, or not readable at all.
    #[error("setting {setting}: {why}")]
    Impossible {
        /// Its name.
        setting: String,
        /// What is wrong with it.
        why: String,
    },
}

impl From<S3Setting> for ConfigError {
    fn from(error: S3Setting) -> Self {
        Self::Impossible { setting: error.setting.to_owned(), why: error.why }
    }
}

/// Settings given on the command line.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Overrides {
    /// `--listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// `--admin-listen`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<SocketAddr>,
    /// `--data-dir`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<PathBuf>,
    /// `--database-url`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database_url: Option<String>,
    /// `--blob-url`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub blob_url: Option<String>,
    /// `--redis-url`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis_url: Option<String>,
}

impl Config {
    /// Reads the settings. A `file` that is named must be there.
    pub fn load(file: Option<&Path>, overrides: &Overrides) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            // figment would name the cause before the file, over two lines.
            if let Err(error) = std::fs::File::open(file) {
                let why = format!("{}: {error}", file.display());
                return Err(ConfigError::Impossible { setting: "--config".to_owned(), why });
            }
            figment = figment.merge(Toml::file_exact(file));
        }
        let environment = Env::prefixed("FILEGATE_").ignore(&NOT_SETTINGS).split("__");
        let figment = figment.merge(environment).merge(Serialized::defaults(overrides));
        let mut config: Self =
            figment.extract().map_err(|error| ConfigError::Invalid(Box::new(error)))?;
        config.check()?;
        config.origins = Origins::of(&figment, &config);
        Ok(config)
    }

    /// What only a server has to have.
    pub(crate) fn check_serving(&self) -> Result<(), ConfigError> {
        if self.is_replicated()
            && self.redis_url.expose().is_empty()
            && self.limits.scope == LimitScope::Shared
        {
            return Err(ConfigError::Impossible {
                setting: "limits.scope".to_owned(),
                why: "without redis_url each replica counts by itself: give redis_url, or say \
                      limits.scope = \"per-replica\""
                    .to_owned(),
            });
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let impossible = |setting: &str, why: String| {
            Err(ConfigError::Impossible { setting: setting.to_owned(), why })
        };
        for (setting, value) in [
            ("limits.connections_max", self.limits.connections_max),
            ("limits.uploads_max", self.limits.uploads_max),
        ] {
            if value == 0 || value > tokio::sync::Semaphore::MAX_PERMITS {
                return impossible(setting, format!("{value} is not from 1 to 2^61"));
            }
        }
        for (setting, span) in [
            ("limits.head_timeout", self.limits.head_timeout),
            ("limits.body_idle", self.limits.body_idle),
            ("limits.write_idle", self.limits.write_idle),
            ("downloads.link_life", self.downloads.link_life),
            ("jobs.interval", self.jobs.interval),
            ("jobs.upload_lease", self.jobs.upload_lease),
            ("redis.timeout", self.redis.timeout),
            ("database.connect_timeout", self.database.connect_timeout),
            ("database.statement_timeout", self.database.statement_timeout),
            ("database.wait", self.database.wait),
        ] {
            if span.0.is_zero() {
                return impossible(setting, "must be more than 0s".to_owned());
            }
        }
        if self.jobs.upload_lease <= self.limits.body_idle {
            let why = format!("{} must be longer than limits.body_idle", self.jobs.upload_lease);
            return impossible("jobs.upload_lease", why);
        }
        if !self.redis_url.expose().is_empty()
            && let Err(why) = crate::shared::link::client(self.redis_url.expose())
        {
            return impossible("redis_url", why);
        }
        if self.redis.lease < Span::seconds(1) || self.redis.lease.0 < self.redis.timeout.0 * 6 {
            let why = "is less than 1s or six times redis.timeout: it is renewed every third of it";
            return impossible("redis.lease", why.to_owned());
        }
        if self.database.connections == 0 || self.database.connections > 10_000 {
            let why = format!("{} is not from 1 to 10000", self.database.connections);
            return impossible("database.connections", why);
        }
        if self.downloads.mode == DownloadMode::Redirect && self.blob_url.is_empty() {
            let why = "\"redirect\" is for a store on S3: give blob_url, or say \"own\"";
            return impossible("downloads.mode", why.to_owned());
        }
        if let Some(options) = self.s3_options()? {
            let checked = options.check(self.largest_file());
            checked.map_err(ConfigError::from)?;
            if self.downloads.mode == DownloadMode::Redirect
                && self.downloads.link_life > PRESIGNED_MAX
            {
                let why = format!("S3 signs links for {PRESIGNED_MAX} at most");
                return impossible("downloads.link_life", why);
            }
        }
        let key = &self.limits.key;
        if key.stored_bytes.is_some() || !key.files_per_purpose.is_empty() {
            let why = "what is stored is counted for accounts: set it in limits.account";
            return impossible("limits.key", why.to_owned());
        }
        if let Err((setting, why)) = self.moderation.check(self.jobs.upload_lease) {
            return impossible(setting, why);
        }
        let url = &self.public_url;
        if !(url.is_empty() || url.starts_with("https://") || url.starts_with("http://")) {
            let why = format!("{url:?} does not start with https:// or http://");
            return impossible("public_url", why);
        }
        for (name, policy) in &self.purposes {
            for (rule_name, rule) in &policy.accept {
                for extension in &rule.extensions {
                    if MediaFormat::from_extension(extension).is_none() {
                        let why = format!("no check is known for the extension {extension:?}");
                        return impossible(&format!("purposes.{name}.accept.{rule_name}"), why);
                    }
                }
            }
        }
        Ok(())
    }

    /// The policy of a purpose that clients may upload to.
    pub fn upload_policy(&self, purpose: &str) -> Option<(&PurposeName, &PurposePolicy)> {
        let (name, policy) = self.known_purpose(purpose)?;
        policy.upload.then_some((name, policy))
    }

    /// A purpose that is configured, outputs included.
    pub fn known_purpose(&self, purpose: &str) -> Option<(&PurposeName, &PurposePolicy)> {
        self.purposes.get_key_value(&purpose.parse::<PurposeName>().ok()?)
    }

    /// The purposes that list and delete take for `purpose`: itself and its twin.
    pub fn twins(&self, purpose: &PurposeName) -> Vec<PurposeName> {
        let twin = self.purposes.get(purpose).and_then(|policy| policy.same_as.clone());
        std::iter::once(purpose.clone()).chain(twin).collect()
    }

    /// The largest file that any purpose takes.
    pub fn largest_file(&self) -> u64 {
        self.purposes.values().map(|policy| policy.bytes_max().0).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLE: &str = include_str!("../../../filegate.example.toml");

    fn parse(toml: &str) -> Result<Config, String> {
        let config: Config = Figment::from(Serialized::defaults(Config::default()))
            .merge(Toml::string(toml))
            .extract()
            .map_err(|e| e.to_string())?;
        config.check().map_err(|e| e.to_string()).map(|()| config)
    }

    #[test]
    fn the_example_file_says_the_defaults() {
        assert_eq!(parse(EXAMPLE).unwrap(), Config::default());
    }

    #[test]
    fn the_example_file_names_every_setting() {
        // Uncommented, line for line, it alone must make a whole configuration.
        let alone: Config = Figment::from(Toml::string(EXAMPLE)).extract().unwrap();
        assert_eq!(alone, Config::default());
    }

    #[test]
    fn a_part_of_a_purpose_can_be_changed_and_a_new_one_added() {
        let config = parse(
            r#"
            [purposes.prompt_audio.accept.audio]
            duration_below = "10s"
            [purposes.subtitles]
            keep = "30d"
            [purposes.subtitles.accept.text]
            extensions = ["txt"]
            bytes_max = "1MiB"
            "#,
        )
        .unwrap();
        let rule = config.upload_policy("prompt_audio").unwrap().1.rule_for("wav").unwrap();
        assert_eq!(rule.duration_below, Some(Span::seconds(10)));
        assert_eq!(rule.bytes_max, Bytes::mib(20));
        assert!(config.upload_policy("subtitles").is_some());
        assert!(config.upload_policy("t2a_async").is_none());
        assert!(config.known_purpose("t2a_async").is_some());
    }

    #[test]
    fn only_a_server_needs_limits_that_are_shared() {
        let replica = parse("database_url = 'postgres://db/files'").unwrap();
        assert!(replica.is_replicated());
        let why = replica.check_serving().unwrap_err().to_string();
        assert!(why.contains("limits.scope") && why.contains("redis_url"), "{why}");
        for more in ["redis_url = 'redis://cache'", "[limits]\nscope = 'per-replica'"] {
            let toml = format!("database_url = 'postgres://db/files'\n{more}");
            parse(&toml).unwrap().check_serving().unwrap();
        }
    }

    #[test]
    fn mistakes_are_named() {
        for (toml, says) in [
            ("[limits.key]\nstored_bytes = '1GiB'", "limits.account"),
            ("[limits.account]\nrequests = 5", "requests"),
            ("[network]\ntrusted_proxies = ['proxy']", "trusted_proxies"),
            ("lisen = '1.2.3.4:80'", "lisen"),
            ("[limits]\nuploads_max = 0", "limits.uploads_max"),
            ("[limits]\nbody_idle = 60", "span of time"),
            ("[jobs]\nupload_lease = '10s'", "longer than limits.body_idle"),
            ("[moderation.clamd]\naddress = 'localhost'", "neither unix:/path nor host:port"),
            ("[moderation.clamd]\naddress = 'unix:x'", "unix: and an absolute path"),
            ("[moderation.clamd]\naddress = 'a:1'\ntimeout = '60s'", "half of jobs.upload_lease"),
            ("[moderation.webhook]\nurl = 'https://m.example'", "moderation.webhook.secret"),
            ("[moderation.webhook]\nurl = 'http://m.example'", "http:// needs allow_private"),
            ("[moderation.webhook]\nurl = 'https://10.0.0.1/x'", "not a public address"),
            ("[moderation.webhook]\nurl = 'https://[::1]/x'", "not a public address"),
            ("[moderation.webhook]\nurl = 'https://2130706433/'", "not a public address"),
            ("[moderation.webhook]\nurl = 'https://a:b@m.example'", "carries credentials"),
            ("[moderation]\nimage_distance = 32", "not from 0 to 31"),
            ("blob_url = 'http://x'", "setting blob_url: \"http://x\" does not start with s3://"),
            ("blob_url = 's3://bucket'\n[s3]\npart_bytes = '1MiB'", "setting s3.part_bytes"),
            (
                "blob_url = 's3://bucket'\n[downloads]\nmode = 'redirect'\nlink_life = '8d'",
                "setting downloads.link_life",
            ),
            ("public_url = 'files.example.com'", "does not start with https://"),
            (
                "[purposes.x.accept.y]\nextensions=['exe']\nbytes_max='1MiB'",
                "no check is known for the extension \"exe\"",
            ),
            ("redis_url = 'localhost:6379'", "setting redis_url: (not a URL): does not start"),
            ("[redis]\ntimeout = '0s'", "redis.timeout"),
            ("[database]\nconnections = 0", "database.connections"),
            ("[database]\nwait = '0s'", "database.wait"),
            ("[redis]\nlease = '900ms'", "redis.lease"),
            ("[redis]\ntimeout = '6s'", "redis.lease"),
            ("[purposes.voice_clone.accept.audio]\nbytes_max = 'lots'", "is not a size"),
        ] {
            let error = parse(toml).unwrap_err();
            assert!(error.contains(says), "{toml}: {error}");
        }
        let error = Config::load(Some(Path::new("/nowhere/filegate.toml")), &Overrides::default());
        assert!(error.unwrap_err().to_string().contains("/nowhere/filegate.toml"));
    }
}
