//! `filegate serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use filegate_server::config::{Config, LogFormat, Overrides};
use filegate_server::{Server, StartError, Swept};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{Exit, Failure};
use crate::printer::Printer;

/// Below this it tells statements with their parameters: names of files, hashes of keys.
const PARAMETERS_UNTOLD: &str = "tokio_postgres=info";

/// Run the gateway
///
/// Serves the MiniMax Files API on --listen and the operators' pages on --admin-listen, with an
/// embedded store in --data-dir, or as one of several replicas on PostgreSQL, S3 and Redis. The first
/// start makes the store and prints an admin token once.
/// SIGTERM or Ctrl-C drains: running uploads end, for at most limits.shutdown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  filegate serve
  filegate serve --listen 0.0.0.0:8080 --data-dir /var/lib/filegate --config /etc/filegate.toml
  FILEGATE_LIMITS__BODY_IDLE=30s filegate serve
  FILEGATE_DATABASE_URL=postgres://filegate:…@db/filegate filegate serve \\
    --blob-url 's3://files?endpoint=https://s3.example.com&region=eu-1' --redis-url redis://cache

Every setting, with its default and its meaning, is in filegate.example.toml. Each can also be given as
FILEGATE_<SETTING>, nested ones as FILEGATE_<SECTION>__<SETTING>. The command line wins over the
environment, the environment over the file.")]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,

    /// Where clients connect [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Where operators connect; keep it off public networks [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,
}

/// Where the settings and the data are; shared by all commands that work on the stores themselves.
#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArgs {
    /// The directory with the catalog and the files [default: ./filegate-data]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,

    /// Where the rows are: postgres://USER:PASSWORD@HOST/DATABASE [default: SQLite in --data-dir]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) database_url: Option<String>,

    /// Where the bytes are: s3://BUCKET/PREFIX?endpoint=URL&region=REGION [default: --data-dir]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) blob_url: Option<String>,

    /// Where limits are counted for all replicas: redis://HOST:PORT [default: in each process]
    #[arg(long, global = true, value_name = "URL")]
    pub(crate) redis_url: Option<String>,

    /// A file of settings; must exist when given
    #[arg(long, global = true, env = "FILEGATE_CONFIG", value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The settings, as `serve` would have them.
    pub(crate) fn load(&self) -> Result<Config, Failure> {
        self.load_at(None, None)
    }

    fn load_at(
        &self,
        listen: Option<SocketAddr>,
        admin_listen: Option<SocketAddr>,
    ) -> Result<Config, Failure> {
        let overrides = Overrides {
            listen,
            admin_listen,
            data_dir: self.data_dir.clone(),
            database_url: self.database_url.clone(),
            blob_url: self.blob_url.clone(),
            redis_url: self.redis_url.clone(),
        };
        Config::load(self.config.as_deref(), &overrides)
            .map_err(|error| Failure::Usage(error.to_string()))
    }
}

pub(crate) fn run(args: &ServeArgs, printer: &Printer) -> Result<Exit, Failure> {
    let config = args.config.load_at(args.listen, args.admin_listen)?;
    log_to_stderr(&config)?;
    filegate_server::log_panics();
    super::server_runtime()?.block_on(serve(config, printer))
}

async fn serve(config: Config, printer: &Printer) -> Result<Exit, Failure> {
    // Installed before anything is announced, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for Ctrl-C")?;
    let stores = stores(&config);
    let server = start(config).await?;
    printer.note(&format!(
        "filegate {} listening on http://{} (operators: http://{}), {stores}",
        env!("CARGO_PKG_VERSION"),
        server.address,
        server.admin_address,
    ));
    if let Some(token) = &server.admin_token {
        printer.note(&format!("admin token, shown only this once: {token}"));
        printer.note("make an API key: filegate key create --name NAME");
    }
    let Swept { temporary_files, uploads, replayed } = server.swept;
    if temporary_files > 0 || uploads > 0 || replayed > 0 {
        tracing::info!(
            temporary_files,
            uploads,
            replayed,
            "serve.swept: the last process did not end in order; nothing acknowledged is lost"
        );
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    printer.note("stopping: running requests end, a second signal ends at once");
    tokio::select! {
        drained = server.stop() => {
            if !drained {
                tracing::warn!("serve.deadline: some requests were cut; none was acknowledged");
            }
            Ok(Exit::Ok)
        }
        _ = terminate.recv() => Ok(Exit::Interrupted),
        _ = interrupt.recv() => Ok(Exit::Interrupted),
    }
}

/// Where rows and bytes are, as people are told; no passwords.
fn stores(config: &Config) -> String {
    let here = config.data_dir.display();
    match (config.is_replicated(), config.blob_url.split('?').next().unwrap_or_default()) {
        (false, "") => format!("data in {here}"),
        (false, bucket) => format!("rows in {here}, bytes in {bucket}"),
        (true, "") => format!("rows in PostgreSQL, bytes in {here}"),
        (true, bucket) => format!("rows in PostgreSQL, bytes in {bucket}"),
    }
}

/// Starts a server; what only the operator can mend is a matter of usage.
pub(crate) async fn start(config: Config) -> Result<Server, Failure> {
    Server::start(config).await.map_err(unstarted)
}

/// Why stores could not be opened or served.
pub(crate) fn unstarted(error: StartError) -> Failure {
    match error {
        StartError::Listen { .. } | StartError::Setting(_) => {
            Failure::Usage(format!("{:#}", anyhow::Error::from(error)))
        }
        StartError::Store(
            filegate_store::StoreError::InUse(_) | filegate_store::StoreError::Unusable(_),
        ) => Failure::Usage(error.to_string()),
        other => Failure::Fault(other.into()),
    }
}

fn log_to_stderr(config: &Config) -> Result<(), Failure> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log.filter)
        .map_err(|error| Failure::Usage(format!("setting log.filter: {error}")))?
        .add_directive(PARAMETERS_UNTOLD.parse().expect("it is a directive"));
    // A log that cannot be written is told to nobody: the way to tell it is stderr, and panics there.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false);
    // Fails only when one is set already.
    let _set = match config.log.format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => {
            use std::io::IsTerminal as _;
            builder.with_ansi(std::io::stderr().is_terminal()).try_init()
        }
    };
    Ok(())
}
