//! The clients of a bucket: no redirects, every wait bounded.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey as Key, Checksum};
use object_store::client::{HttpClient, HttpConnector};
use object_store::signer::Url;
use object_store::{BackoffConfig, ClientOptions, Error, RetryConfig};

use super::options::{S3Checksum, S3Options};

/// Idle connections are given up before a store does it in the middle of a request.
const POOL_IDLE: Duration = Duration::from_secs(15);
/// The first pause before a request is made again; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// What the environment may say: who we are and where. All else is a setting.
const FROM_ENVIRONMENT: [Key; 11] = [
    Key::AccessKeyId,
    Key::SecretAccessKey,
    Key::Token,
    Key::ImdsV1Fallback,
    Key::MetadataEndpoint,
    Key::ContainerCredentialsRelativeUri,
    Key::ContainerCredentialsFullUri,
    Key::ContainerAuthorizationTokenFile,
    Key::WebIdentityTokenFile,
    Key::RoleArn,
    Key::RoleSessionName,
];

pub(super) struct Clients {
    pub(super) bucket: AmazonS3,
    pub(super) reads: AmazonS3,
    pub(super) http: HttpClient,
}

/// All that speak to the bucket of `options`. They share their credentials, so that a role is asked for
/// once.
pub(super) fn clients(options: &S3Options) -> Result<Clients, Error> {
    // Fails only when one is installed already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let requests = Connector::new(options, false);
    let http = requests.connect(&ClientOptions::new())?;
    let bucket = builder(options).with_http_connector(requests).build()?;
    let reads = builder(options)
        .with_http_connector(Connector::new(options, true))
        .with_credentials(Arc::clone(bucket.credentials()))
        .build()?;
    Ok(Clients { bucket, reads, http })
}

fn builder(options: &S3Options) -> AmazonS3Builder {
    let environment = AmazonS3Builder::from_env();
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&options.bucket)
        .with_virtual_hosted_style_request(!options.path_style)
        // One DELETE an object: some stores know no other.
        .with_disable_bulk_delete(true)
        .with_allow_http(true)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: BACKOFF_FIRST,
                max_backoff: BACKOFF_MAX,
                base: 2.0,
            },
            max_retries: options.retries,
            // No further try begins after the time of one request.
            retry_timeout: options.request_timeout,
        });
    if options.access_key_id.is_empty() {
        for key in FROM_ENVIRONMENT {
            if let Some(value) = environment.get_config_value(&key) {
                builder = builder.with_config(key, value);
            }
        }
    } else {
        builder = builder
            .with_access_key_id(&options.access_key_id)
            .with_secret_access_key(&options.secret_access_key);
    }
    let region = options.region.clone().or_else(|| environment.get_config_value(&Key::Region));
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint_of(endpoint, options));
    }
    if options.checksum == S3Checksum::Sha256 {
        builder = builder.with_checksum_algorithm(Checksum::SHA256);
    }
    for (name, value) in
        [("aws_server_side_encryption", &options.sse), ("aws_sse_kms_key_id", &options.sse_kms_key)]
    {
        if !value.is_empty() {
            let key: Key = name.parse().expect("a name of object_store's");
            builder = builder.with_config(key, value);
        }
    }
    builder
}

/// Scheme, host and port, with the bucket in the host if that is the style.
fn endpoint_of(endpoint: &Url, options: &S3Options) -> String {
    let host = endpoint.host_str().unwrap_or_default();
    let port = endpoint.port().map_or_else(String::new, |port| format!(":{port}"));
    let bucket = if options.path_style { String::new() } else { format!("{}.", options.bucket) };
    format!("{}://{bucket}{host}{port}", endpoint.scheme())
}

/// Makes HTTP clients for `object_store` that follow no redirect: a store that sends a request elsewhere is
/// one whose region or endpoint is wrong, and is told to the operator.
#[derive(Debug)]
struct Connector {
    connect_timeout: Duration,
    request_timeout: Duration,
    /// Whether the time is for each silence of an answer rather than for the whole request.
    silences: bool,
    plain: bool,
}

impl Connector {
    fn new(options: &S3Options, silences: bool) -> Self {
        Self {
            connect_timeout: options.connect_timeout,
            request_timeout: options.request_timeout,
            silences,
            plain: options.endpoint.as_ref().is_some_and(|url| url.scheme() == "http"),
        }
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("filegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .http1_only()
            .pool_idle_timeout(POOL_IDLE)
            .connect_timeout(self.connect_timeout);
        if self.silences {
            builder.read_timeout(self.request_timeout)
        } else {
            builder.timeout(self.request_timeout)
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        let built = match self.builder().build() {
            // Plain HTTP must work where no CA certificates are installed, as in small containers.
            Err(_) if self.plain => self.builder().tls_certs_only([]).build(),
            built => built,
        };
        let client =
            built.map_err(|error| Error::Generic { store: "S3", source: Box::new(error) })?;
        Ok(HttpClient::new(client))
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;
    use object_store::signer::{Method, Signer as _};

    use super::*;

    fn options(url: &str) -> S3Options {
        S3Options {
            access_key_id: "key".to_owned(),
            secret_access_key: "secret".to_owned(),
            ..S3Options::parse(url).unwrap()
        }
    }

    async fn url_of(options: &S3Options) -> String {
        let bucket = clients(options).unwrap().bucket;
        let life = Duration::from_mins(1);
        let url = bucket.signed_url(Method::GET, &Path::from("a/b"), life).await.unwrap();
        url.as_str().split_once('?').unwrap().0.to_owned()
    }

    #[tokio::test]
    async fn the_bucket_is_in_the_path_or_in_the_host() {
        let own = "s3://files?endpoint=http://store.example:3900&region=garage";
        for (url, in_path, in_host) in [
            (own, "http://store.example:3900/files/a/b", "http://files.store.example:3900/a/b"),
            (
                "s3://files?region=eu-west-1",
                "https://s3.eu-west-1.amazonaws.com/files/a/b",
                "https://files.s3.eu-west-1.amazonaws.com/a/b",
            ),
        ] {
            assert_eq!(url_of(&options(url)).await, in_path);
            let host_style = S3Options { path_style: false, ..options(url) };
            assert_eq!(url_of(&host_style).await, in_host);
        }
    }

    #[tokio::test]
    async fn every_way_of_encryption_is_understood() {
        for (sse, key) in [
            ("", ""),
            ("AES256", ""),
            ("aws:kms", ""),
            ("aws:kms", "arn:aws:kms:us-east-1:1:key/2"),
            ("aws:kms:dsse", ""),
        ] {
            let options = S3Options {
                sse: sse.to_owned(),
                sse_kms_key: key.to_owned(),
                checksum: S3Checksum::None,
                ..options("s3://files")
            };
            options.check(1).unwrap();
            clients(&options).unwrap();
        }
    }

    #[test]
    fn without_a_key_the_role_is_asked_when_it_is_needed() {
        clients(&S3Options::parse("s3://files").unwrap()).unwrap();
    }
}
