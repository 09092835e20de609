//! Encryption of connections to PostgreSQL.
//!
//! | `sslmode` | what is done |
//! |---|---|
//! | `disable` | no encryption |
//! | `allow`, `prefer` (the default) | encryption if the server offers it; who the server is is not checked |
//! | `require` | encryption; who the server is is not checked, as in libpq |
//! | `verify-ca`, `verify-full` | encryption, and the certificate must be the host's, by an authority that the system trusts or that is in the file `sslrootcert` |

use std::pin::Pin;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::error::StoreError;

/// How connections are encrypted.
#[derive(Clone)]
pub(in crate::catalog) enum Tls {
    Never,
    As(MakeRustlsConnect),
}

/// What reads and writes a connection, for as long as it lives.
type Driver = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Tls {
    /// By the `sslmode` and `sslrootcert` of a URL, and what is left of the URL for `tokio-postgres`,
    /// which knows neither `verify-full` nor roots.
    pub(super) fn of_url(url: &str) -> Result<(Self, Config), StoreError> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut mode, mut roots, mut rest) = ("prefer", None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", value)) => mode = value,
                Some(("sslrootcert", value)) => roots = Some(value),
                _ => rest.push(pair),
            }
        }
        let (mode, verified) = match mode {
            "disable" => (SslMode::Disable, false),
            "allow" | "prefer" => (SslMode::Prefer, false),
            "require" => (SslMode::Require, false),
            "verify-ca" | "verify-full" => (SslMode::Require, true),
            _ => {
                let why =
                    "the sslmode of database_url is none of disable, prefer, require, verify-full";
                return Err(StoreError::Unusable(why.to_owned()));
            }
        };
        // What is wrong may be said in words that have the password in them.
        let mut config: Config = format!("{base}?{}", rest.join("&")).parse().map_err(
            |_unsaid: tokio_postgres::Error| {
                StoreError::Unusable(
                    "database_url cannot be read: it has to be \
                     postgres://user:password@host:port/database, special characters as %XX, and \
                     after a ? only parameters of a connection"
                        .to_owned(),
                )
            },
        )?;
        config.ssl_mode(mode);
        if mode == SslMode::Disable {
            return Ok((Self::Never, config));
        }
        Ok((Self::As(MakeRustlsConnect::new(client(verified, roots)?)), config))
    }

    pub(in crate::catalog) async fn connect(
        &self,
        config: &Config,
    ) -> Result<(Client, Driver), tokio_postgres::Error> {
        match self {
            Self::Never => {
                let (client, connection) = config.connect(NoTls).await?;
                Ok((client, Box::pin(drive(connection))))
            }
            Self::As(tls) => {
                let (client, connection) = config.connect(tls.clone()).await?;
                Ok((client, Box::pin(drive(connection))))
            }
        }
    }
}

async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        // Whoever waits for an answer is told as well.
        tracing::debug!(%error, "catalog.connection.lost");
    }
}

fn client(verified: bool, roots: Option<&str>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let wrong = |what: &str, error: &dyn std::error::Error| {
        StoreError::Unusable(format!("{what} for the TLS of database_url: {error}"))
    };
    let judge: Arc<dyn ServerCertVerifier> = if verified {
        let of_system = match roots {
            None => Verifier::new(Arc::clone(&provider)),
            Some(path) => {
                let certificates = CertificateDer::pem_file_iter(path)
                    .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                    .map_err(|e| wrong("reading sslrootcert", &e))?;
                Verifier::new_with_extra_roots(certificates, Arc::clone(&provider))
            }
        };
        Arc::new(of_system.map_err(|e| wrong("loading the system's authorities", &e))?)
    } else {
        Arc::new(Anyone(Arc::clone(&provider)))
    };
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| wrong("choosing versions", &e))?
        .dangerous()
        .with_custom_certificate_verifier(judge)
        .with_no_client_auth())
}

/// Takes any certificate, as `require` does in libpq: against those who listen, not against those who
/// stand between.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let known = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
