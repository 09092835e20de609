//! What `doctor` asks about a bucket: everything that a gateway will do in it, on a probe of its own, and what
//! an operator should have set up. Each fault says what was seen, in the store's own words, and what to do.

use std::time::Duration;

use filegate_types::{BlobKey, UnixMillis};
use object_store::multipart::MultipartStore as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _, PutPayload};

use super::unfinished::Answer;
use super::{S3Blobs, S3Checksum};

/// What the probe is made of.
const PROBE: &[u8] = b"filegate doctor";
/// S3 refuses signatures whose clock is off by 15 minutes; long before, something is wrong.
const SKEW_MAX: Duration = Duration::from_mins(1);
/// Characters of the store's own words that are shown.
const WORDS_MAX: usize = 300;

/// What is wrong with a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Fault {
    /// Nobody answers at the endpoint, or not in time.
    Unreachable(String),
    /// The bucket is not there.
    NoBucket(String),
    /// It is in another region, or the signature is for one.
    WrongRegion(String),
    /// The key is unknown, or its secret another.
    WrongKey(String),
    /// The clocks differ too much.
    ClockSkew(String),
    /// The checksum that `s3.checksum` asks for is not taken.
    ChecksumRefused(String),
    /// Something that the gateway does is not allowed: which, and the store's words.
    NotAllowed(&'static str, String),
    /// Something that the gateway does does not work: which, and the store's words.
    Failed(&'static str, String),
}

/// Whether uploads in parts that a crash left are removed by the bucket itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LifecycleRule {
    /// After this many days.
    Aborts(u32),
    /// There is no such rule.
    Missing,
    /// The store does not say, or knows no rules.
    Unknown,
}

/// What was found of a bucket.
#[derive(Debug, Clone)]
pub struct S3Facts {
    /// What is wrong; later checks are left out when an earlier one makes them pointless.
    pub faults: Vec<S3Fault>,
    /// The rule for uploads in parts.
    pub lifecycle: LifecycleRule,
    /// How far the store's clock is ahead of ours, or behind it if negative, if it said.
    pub clock_ahead_s: Option<i64>,
    /// How long a PUT of a few bytes took.
    pub put: Option<Duration>,
}

impl S3Fault {
    /// What an operator is to do.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "check endpoint in blob_url, the network and its certificates",
            Self::NoBucket(_) => "make the bucket, or correct its name in blob_url",
            Self::WrongRegion(_) => {
                "give the region that the store names: blob_url = \"s3://…?region=…\""
            }
            Self::WrongKey(_) => "check s3.access_key_id and s3.secret_access_key, or the role",
            Self::ClockSkew(_) => "set the clock of this machine (NTP)",
            Self::ChecksumRefused(_) => "say s3.checksum = \"none\"",
            Self::NotAllowed(..) => {
                "allow it to this key: GetObject, PutObject, DeleteObject, \
                AbortMultipartUpload on the prefix; ListBucket, ListBucketMultipartUploads on the bucket"
            }
            Self::Failed(..) => "see what the store says",
        }
    }
}

impl std::fmt::Display for S3Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(words) => write!(f, "the store does not answer: {words}"),
            Self::NoBucket(words) => write!(f, "there is no such bucket: {words}"),
            Self::WrongRegion(words) => write!(f, "the region is another: {words}"),
            Self::WrongKey(words) => write!(f, "the key is not known: {words}"),
            Self::ClockSkew(words) => write!(f, "the clocks differ: {words}"),
            Self::ChecksumRefused(words) => write!(f, "the checksum is refused: {words}"),
            Self::NotAllowed(what, words) => write!(f, "{what} is not allowed: {words}"),
            Self::Failed(what, words) => write!(f, "{what} fails: {words}"),
        }
    }
}

impl S3Blobs {
    /// Tries everything with a probe below the prefix, which is removed again. `key` is a fresh one.
    pub async fn survey(&self, key: &BlobKey, now: UnixMillis) -> S3Facts {
        let mut facts = S3Facts {
            faults: Vec::new(),
            lifecycle: LifecycleRule::Unknown,
            clock_ahead_s: None,
            put: None,
        };
        let answer = self.ask(&Path::default(), &[("list-type", "2"), ("max-keys", "1")]).await;
        match answer {
            Err(error) => {
                facts.faults.push(S3Fault::Unreachable(chain(&error)));
                return facts;
            }
            Ok(answer) => {
                facts.clock_ahead_s = clock_ahead(&answer, now);
                if let Some(fault) = bucket_fault(&answer, facts.clock_ahead_s) {
                    facts.faults.push(fault);
                }
            }
        }
        if facts.faults.iter().any(S3Fault::is_final) {
            return facts;
        }
        self.try_objects(key, &mut facts).await;
        facts.lifecycle = self.lifecycle().await;
        facts
    }

    async fn try_objects(&self, key: &BlobKey, facts: &mut S3Facts) {
        let (path, store) = (self.path_of(key), &self.shared.bucket);
        let started = std::time::Instant::now();
        let put = store.put(&path, PutPayload::from_static(PROBE)).await;
        if let Err(error) = put {
            let fault = of_error("writing an object", &error);
            facts.faults.push(self.checksum_or(fault));
            return;
        }
        facts.put = Some(started.elapsed());
        let mut note = |what, result: Result<(), Error>| {
            if let Err(error) = result {
                facts.faults.push(of_error(what, &error));
            }
        };
        let got = match self.shared.reads.get(&path).await {
            Ok(got) => got.bytes().await.map(|bytes| bytes == PROBE),
            Err(error) => Err(error),
        };
        let differs = matches!(got, Ok(false));
        note("reading an object", got.map(drop));
        note("deleting an object", store.delete(&path).await);
        match store.create_multipart(&path).await {
            Err(error) => note("uploading in parts", Err(error)),
            Ok(id) => {
                let sent = store.put_part(&path, &id, 0, PutPayload::from_static(PROBE)).await;
                note("uploading in parts", sent.map(drop));
                note("aborting an upload in parts", store.abort_multipart(&path, &id).await);
            }
        }
        if differs {
            let words = "it is not what was written".to_owned();
            facts.faults.push(S3Fault::Failed("reading an object", words));
        }
        let root = self.shared.options.root();
        let query = [("uploads", ""), ("prefix", root.as_str()), ("max-uploads", "1")];
        match self.ask(&Path::default(), &query).await {
            Ok(answer) if answer.status.is_success() => {}
            Ok(answer) => {
                let fault =
                    of_words("listing uploads in parts", answer.status.as_u16(), &answer.body);
                facts.faults.push(fault);
            }
            Err(error) => facts.faults.push(S3Fault::Unreachable(chain(&error))),
        }
    }

    /// A refused PUT may be about the header alone.
    fn checksum_or(&self, fault: S3Fault) -> S3Fault {
        match fault {
            S3Fault::Failed(_, words)
                if self.shared.options.checksum == S3Checksum::Sha256
                    && ["checksum", "InvalidDigest", "NotImplemented", "InvalidRequest"]
                        .iter()
                        .any(|word| words.contains(word)) =>
            {
                S3Fault::ChecksumRefused(words)
            }
            fault => fault,
        }
    }

    async fn lifecycle(&self) -> LifecycleRule {
        match self.ask(&Path::default(), &[("lifecycle", "")]).await {
            Ok(answer) if answer.status.is_success() => rule_of(&answer.body),
            Ok(answer) if answer.body.contains("NoSuchLifecycleConfiguration") => {
                LifecycleRule::Missing
            }
            _ => LifecycleRule::Unknown,
        }
    }
}

impl S3Fault {
    /// Whether nothing else is worth a try.
    fn is_final(&self) -> bool {
        !matches!(self, Self::NotAllowed(..) | Self::ChecksumRefused(_) | Self::Failed(..))
    }
}

/// The days after which a rule that is in force aborts uploads in parts.
fn rule_of(xml: &str) -> LifecycleRule {
    let days = xml.split("<Rule>").skip(1).filter_map(|rule| {
        let rule = rule.split("</Rule>").next()?;
        let in_force = tag(rule, "Status").is_none_or(|status| status == "Enabled");
        let abort = tag(rule, "AbortIncompleteMultipartUpload").filter(|_| in_force)?;
        tag(abort, "DaysAfterInitiation")?.trim().parse::<u32>().ok()
    });
    days.min().map_or(LifecycleRule::Missing, LifecycleRule::Aborts)
}

fn tag<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(inner, _)| inner)
}

fn bucket_fault(answer: &Answer, clock_ahead_s: Option<i64>) -> Option<S3Fault> {
    let what = "listing objects";
    if !answer.status.is_success() {
        return Some(of_words(what, answer.status.as_u16(), &answer.body));
    }
    let skew = clock_ahead_s.filter(|ahead| ahead.unsigned_abs() > SKEW_MAX.as_secs())?;
    Some(S3Fault::ClockSkew(format!("the store's is {skew} s ahead of ours")))
}

fn of_error(what: &'static str, error: &Error) -> S3Fault {
    // The words of the store are in the text of the error, its status beside them.
    let words = chain(error);
    let status = match error {
        Error::NotFound { .. } => 404,
        Error::PermissionDenied { .. } => 403,
        Error::Unauthenticated { .. } => 401,
        _ => 0,
    };
    of_words(what, status, &words)
}

/// Tells faults apart by the codes of S3, which stores agree on more than on statuses.
fn of_words(what: &'static str, status: u16, words: &str) -> S3Fault {
    let has = |codes: &[&str]| codes.iter().any(|code| words.contains(code));
    let said = shown(status, words);
    if has(&["RequestTimeTooSkewed"]) {
        S3Fault::ClockSkew(said)
    } else if has(&["NoSuchBucket", "BucketNotFound"]) {
        S3Fault::NoBucket(said)
    } else if has(&[
        "AuthorizationHeaderMalformed",
        "PermanentRedirect",
        "IllegalLocationConstraint",
    ]) || has(&["AuthorizationQueryParametersError", "without LOCATION"])
        || (300..400).contains(&status)
    {
        S3Fault::WrongRegion(said)
    } else if has(&["InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "ExpiredToken"])
        // Garage's words, under AccessDenied.
        || has(&["Invalid signature", "No such key"])
    {
        S3Fault::WrongKey(said)
    } else if matches!(status, 401 | 403) {
        S3Fault::NotAllowed(what, said)
    } else {
        S3Fault::Failed(what, said)
    }
}

/// The code and message of an answer, or the answer itself.
fn shown(status: u16, words: &str) -> String {
    let said = match (tag(words, "Code"), tag(words, "Message")) {
        (Some(code), Some(message)) => format!("{code}: {message}"),
        (Some(code), None) => code.to_owned(),
        _ if words.is_empty() => format!("HTTP {status}"),
        _ => words.to_owned(),
    };
    let said = said.replace("&apos;", "'").replace("&quot;", "\"").replace("&amp;", "&");
    said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut said: Vec<String> = Vec::new();
    for text in causes.map(ToString::to_string) {
        // Many errors repeat their cause.
        if said.last().is_none_or(|last| !last.contains(&text)) {
            said.push(text);
        }
    }
    said.join(": ")
}

fn clock_ahead(answer: &Answer, now: UnixMillis) -> Option<i64> {
    let date = http_date(answer.date.as_deref()?)?;
    Some(date - now.seconds())
}

/// Seconds since 1970 of `Wed, 25 Nov 2026 18:03:50 GMT` (RFC 9110 §5.6.7, the form that is sent).
fn http_date(text: &str) -> Option<i64> {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let mut words = text.strip_suffix(" GMT")?.split(' ').skip(1);
    let day: i64 = words.next()?.parse().ok()?;
    let month = MONTHS.find(words.next()?).filter(|at| at % 3 == 0)? as i64 / 3 + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let mut time = words.next()?.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days since 1970 by the calendar whose year begins in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year.div_euclid(4) - year.div_euclid(100)
        + year.div_euclid(400)
        + (153 * month + 2) / 5
        + day
        - 1
        - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_read() {
        for (text, seconds) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Wed, 25 Nov 2026 18:03:50 GMT", Some(1_795_629_830)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Abc 1994 08:49:37 GMT", None),
            ("", None),
        ] {
            assert_eq!(http_date(text), seconds, "{text}");
        }
    }

    #[test]
    fn a_rule_counts_when_it_is_in_force() {
        let rule = |status: &str, days: &str| {
            format!(
                "<Rule><ID>x</ID><Status>{status}</Status><AbortIncompleteMultipartUpload>\
                <DaysAfterInitiation>{days}</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule>"
            )
        };
        let of = |rules: &str| {
            rule_of(&format!("<LifecycleConfiguration>{rules}</LifecycleConfiguration>"))
        };
        assert_eq!(of(""), LifecycleRule::Missing);
        assert_eq!(of(&rule("Disabled", "1")), LifecycleRule::Missing);
        assert_eq!(of(&(rule("Enabled", "7") + &rule("Enabled", "2"))), LifecycleRule::Aborts(2));
        let expiring =
            "<Rule><Status>Enabled</Status><Expiration><Days>9</Days></Expiration></Rule>";
        assert_eq!(of(expiring), LifecycleRule::Missing);
    }

    #[test]
    fn the_words_of_stores_are_told_apart() {
        let of = |status, code: &str| {
            of_words(
                "x",
                status,
                &format!("<Error><Code>{code}</Code><Message>m</Message></Error>"),
            )
        };
        let said = |code: &str| format!("{code}: m");
        for (status, code, fault) in [
            (403, "RequestTimeTooSkewed", S3Fault::ClockSkew as fn(String) -> S3Fault),
            (404, "NoSuchBucket", S3Fault::NoBucket),
            (400, "AuthorizationHeaderMalformed", S3Fault::WrongRegion),
            (301, "PermanentRedirect", S3Fault::WrongRegion),
            (403, "InvalidAccessKeyId", S3Fault::WrongKey),
            (403, "SignatureDoesNotMatch", S3Fault::WrongKey),
            (403, "AccessDenied", |words| S3Fault::NotAllowed("x", words)),
            (501, "NotImplemented", |words| S3Fault::Failed("x", words)),
        ] {
            assert_eq!(of(status, code), fault(said(code)), "{code}");
        }
        let garage = "<Code>AccessDenied</Code><Message>Forbidden: Invalid signature</Message>";
        assert!(matches!(of_words("x", 403, garage), S3Fault::WrongKey(_)));
        assert_eq!(of_words("x", 502, ""), S3Fault::Failed("x", "HTTP 502".to_owned()));
    }
}
