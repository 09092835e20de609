//! The keys that seal the keys of channels: where they come from, and what is done with them.
//!
//! `relay.secret_key_file`, else `relay.secret_key`, else `secret.key` in the data directory, which is made
//! with the first channel. Replicas share no directory, so theirs has to be set.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use filegate_store::seal::SEALING_KEY_BYTES;
use filegate_store::{ChannelRow, SealError, Sealer};
use filegate_types::ChannelState;

use crate::app::random;
use crate::config::Config;

/// The file in the data directory.
const FILE: &str = "secret.key";

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What is wrong with the keys of channels, a sentence for each that cannot be used; for who looks at a gateway
/// that does not run.
pub fn unusable_keys(config: &Config, channels: &[ChannelRow]) -> Vec<String> {
    let live: Vec<_> =
        channels.iter().filter(|channel| channel.state != ChannelState::Removed).collect();
    match Secrets::new(config) {
        Err(error) => vec![error.to_string()],
        Ok(secrets) => {
            live.iter().filter_map(|one| secrets.open(one).err()).map(|e| e.to_string()).collect()
        }
    }
}

/// The sealing keys of this gateway.
#[derive(Debug)]
pub(crate) struct Secrets {
    source: Source,
    /// As last read; `None` as long as there is nothing to read.
    sealer: Mutex<Option<Arc<Sealer>>>,
}

#[derive(Debug)]
enum Source {
    /// A file that is set: it has to be there.
    File(PathBuf),
    /// The setting itself.
    Setting,
    /// The file in the data directory, made when it is needed.
    DataDir(PathBuf),
    /// Nothing, where there is no directory to make it in.
    Nowhere,
}

/// Why a key of a channel cannot be sealed or opened, in words for operators.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SecretError {
    /// The sealing keys cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// There are none.
    #[error(
        "there is no sealing key: set relay.secret_key_file or relay.secret_key, the same on every replica"
    )]
    Unset,
    /// They do not open it.
    #[error("the key of channel {channel:?} does not open: {why}; {help}")]
    Sealed {
        /// Whose.
        channel: String,
        /// Why not.
        why: SealError,
        /// What helps.
        help: &'static str,
    },
}

impl Secrets {
    /// Reads what `config` names.
    ///
    /// # Errors
    /// If that is set and cannot be read. That nothing is set is none: only channels need it.
    pub(crate) fn new(config: &Config) -> Result<Self, SecretError> {
        let source = if !config.relay.secret_key_file.is_empty() {
            Source::File(PathBuf::from(&config.relay.secret_key_file))
        } else if !config.relay.secret_key.expose().is_empty() {
            Source::Setting
        } else if config.keeps_here().rows {
            Source::DataDir(config.data_dir.join(FILE))
        } else {
            Source::Nowhere
        };
        let sealer = match &source {
            Source::Setting => Some(parse("relay.secret_key", config.relay.secret_key.expose())?),
            other => other.read()?,
        };
        Ok(Self { source, sealer: Mutex::new(sealer.map(Arc::new)) })
    }

    /// The key of a channel, to be sent to its base URL.
    pub(crate) fn open(&self, channel: &ChannelRow) -> Result<String, SecretError> {
        let known = match self.sealer() {
            Some(known) => known,
            None => self.read_again()?.ok_or(SecretError::Unset)?,
        };
        let mut opened = known.open(&channel.sealed_key, &channel.base_url);
        if opened == Err(SealError::UnknownKey)
            && let Some(newer) = self.read_again()?
        {
            opened = newer.open(&channel.sealed_key, &channel.base_url);
        }
        opened.map_err(|why| SecretError::Sealed {
            channel: channel.name.clone(),
            why,
            help: match why {
                SealError::UnknownKey | SealError::NoKey => {
                    "give back the sealing key that it was added with, or set its key again"
                }
                SealError::Changed | SealError::Unreadable => "set its key again",
            },
        })
    }

    /// What seals keys from now on, as the file says at this moment. The first that asks makes the file in the
    /// data directory; with `only_tried` what is sealed is thrown away, and none is made.
    pub(crate) fn to_seal(&self, only_tried: bool) -> Result<Arc<Sealer>, SecretError> {
        match self.read_again()? {
            Some(known) => Ok(known),
            None if only_tried && matches!(self.source, Source::DataDir(_)) => {
                Ok(Arc::new(Sealer::new(vec![random()])))
            }
            None => self.make(),
        }
    }

    fn sealer(&self) -> Option<Arc<Sealer>> {
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What the source says now; a setting stays what it was.
    fn read_again(&self) -> Result<Option<Arc<Sealer>>, SecretError> {
        if matches!(self.source, Source::Setting) {
            return Ok(self.sealer());
        }
        let read = self.source.read()?.map(Arc::new);
        self.sealer.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&read);
        Ok(read)
    }

    fn make(&self) -> Result<Arc<Sealer>, SecretError> {
        let Source::DataDir(path) = &self.source else { return Err(SecretError::Unset) };
        make(path).map_err(|error| {
            SecretError::Unreadable(format!("{} cannot be made: {error}", path.display()))
        })?;
        // Perhaps another process was faster: what is there counts.
        self.read_again()?.ok_or(SecretError::Unset)
    }
}

impl Source {
    fn read(&self) -> Result<Option<Sealer>, SecretError> {
        let (name, path) = match self {
            Self::File(path) => (format!("relay.secret_key_file, {}", path.display()), path),
            Self::DataDir(path) => (path.display().to_string(), path),
            Self::Setting | Self::Nowhere => return Ok(None),
        };
        match fs::read_to_string(path) {
            Ok(text) => parse(&name, &text).map(Some),
            Err(error)
                if matches!(self, Self::DataDir(_)) && error.kind() == io::ErrorKind::NotFound =>
            {
                Ok(None)
            }
            Err(error) => Err(SecretError::Unreadable(format!("{name}: {error}"))),
        }
    }
}

/// The keys in a text, one a line; lines that begin with `#` say something to people. Nothing of the text
/// is in the error.
fn parse(name: &str, text: &str) -> Result<Sealer, SecretError> {
    let mut keys: Vec<[u8; SEALING_KEY_BYTES]> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = BASE64.decode(line).ok().and_then(|bytes| bytes.try_into().ok());
        keys.push(key.ok_or_else(|| {
            let why = "is not 32 bytes in base64, as `openssl rand -base64 32` prints them";
            SecretError::Unreadable(format!("{name}: line {} {why}", index + 1))
        })?);
    }
    if keys.is_empty() {
        return Err(SecretError::Unreadable(format!("{name}: there is no key in it")));
    }
    Ok(Sealer::new(keys))
}

/// Makes the file with a fresh key, for its owner only; whole or not at all. One that is there stays.
fn make(path: &Path) -> io::Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    let made = parent.join(format!("{FILE}.{}", filegate_types::hex(&random::<8>())));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&made)
        .and_then(|mut file| {
            writeln!(file, "{}", BASE64.encode(random::<SEALING_KEY_BYTES>()))?;
            file.sync_all()
        })
        .and_then(|()| match fs::hard_link(&made, path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            Ok(()) | Err(_) => Ok(()),
        });
    fs::remove_file(&made)?;
    written?;
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use filegate_types::{ChannelCondition, ChannelId, ChannelSettings, UnixMillis};

    use super::*;
    use crate::config::Secret;

    const URL: &str = "https://api.minimax.io";
    const KEY: &str = "upstream-key";

    fn row(sealed_key: Vec<u8>) -> ChannelRow {
        ChannelRow {
            channel_id: ChannelId(1),
            name: "global".to_owned(),
            account_id: None,
            base_url: URL.to_owned(),
            sealed_key,
            key_hint: "-key".to_owned(),
            state: ChannelState::Active,
            settings: ChannelSettings::default(),
            created_at: UnixMillis(0),
            condition: ChannelCondition::Well,
            condition_until: None,
            condition_since: None,
            condition_why: String::new(),
        }
    }

    fn in_dir(home: &Path) -> Config {
        Config { data_dir: home.to_owned(), ..Config::default() }
    }

    fn with_file(path: &Path) -> Config {
        let mut config = in_dir(Path::new("/nowhere"));
        config.relay.secret_key_file = path.display().to_string();
        config
    }

    fn write(path: &Path, text: &str) {
        File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    fn line(seed: u8) -> String {
        BASE64.encode([seed; 32])
    }

    fn seal(secrets: &Secrets) -> Vec<u8> {
        secrets.to_seal(false).unwrap().seal(KEY, URL, random()).unwrap()
    }

    #[test]
    fn the_first_channel_makes_the_file_and_the_next_start_opens_it() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join(FILE);
        let secrets = Secrets::new(&in_dir(home.path())).unwrap();
        secrets.to_seal(true).unwrap().seal(KEY, URL, random()).unwrap();
        assert!(!file.try_exists().unwrap());
        assert!(matches!(secrets.open(&row(vec![1])), Err(SecretError::Unset)));
        let sealed = seal(&secrets);
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert_eq!(secrets.open(&row(sealed.clone())).unwrap(), KEY);
        let next = Secrets::new(&in_dir(home.path())).unwrap();
        assert_eq!(next.open(&row(sealed.clone())).unwrap(), KEY);
        // Another process seals with the same one.
        assert_eq!(secrets.open(&row(seal(&next))).unwrap(), KEY);
        // The file of somebody else: what helps is said, the key is not.
        write(&file, &line(7));
        let lost = Secrets::new(&in_dir(home.path())).unwrap();
        let why = lost.open(&row(sealed)).unwrap_err().to_string();
        assert!(why.contains("\"global\"") && why.contains("give back the sealing key"), "{why}");
    }

    #[test]
    fn a_process_that_was_there_first_finds_the_file_of_another() {
        let home = tempfile::tempdir().unwrap();
        let (one, two) = (Secrets::new(&in_dir(home.path())), Secrets::new(&in_dir(home.path())));
        let sealed = seal(&two.unwrap());
        assert_eq!(one.unwrap().open(&row(sealed)).unwrap(), KEY);
    }

    #[test]
    fn a_file_that_is_set_is_read_again_when_it_has_changed() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys");
        write(&file, &format!("# made today\n\n{}\n", line(1)));
        let (secrets, other) =
            (Secrets::new(&with_file(&file)).unwrap(), Secrets::new(&with_file(&file)).unwrap());
        let old = row(seal(&secrets));
        write(&file, &format!("{}\n{}\n", line(2), line(1)));
        assert!(secrets.to_seal(false).unwrap().needs_reseal(&old.sealed_key));
        assert_eq!(secrets.open(&old).unwrap(), KEY);
        let new = row(seal(&secrets));
        assert!(!secrets.to_seal(false).unwrap().needs_reseal(&new.sealed_key));
        // One that has not looked since opens it too.
        assert_eq!(other.open(&new).unwrap(), KEY);
    }

    #[test]
    fn what_cannot_be_used_is_named_and_not_shown() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("keys");
        let why = Secrets::new(&with_file(&file)).unwrap_err().to_string();
        assert!(why.contains("relay.secret_key_file") && why.contains("keys"), "{why}");
        write(&file, &format!("{}\nhush-hush\n", line(1)));
        let why = Secrets::new(&with_file(&file)).unwrap_err().to_string();
        assert!(why.contains("line 2") && !why.contains("hush"), "{why}");
        write(&file, "# nothing\n");
        let why = Secrets::new(&with_file(&file)).unwrap_err().to_string();
        assert!(why.contains("no key"), "{why}");
        let mut replica = in_dir(home.path());
        replica.database_url = Secret::from("postgres://db/files".to_owned());
        let secrets = Secrets::new(&replica).unwrap();
        let why = secrets.to_seal(false).unwrap_err().to_string();
        assert!(why.contains("relay.secret_key_file or relay.secret_key"), "{why}");
        assert!(!home.path().join(FILE).try_exists().unwrap());
        replica.relay.secret_key = Secret::from(line(3));
        let secrets = Secrets::new(&replica).unwrap();
        let sealed = seal(&secrets);
        assert_eq!(secrets.open(&row(sealed)).unwrap(), KEY);
    }
}
