//! A typed client of the MiniMax Files API.
//!
//! Bodies stream both ways in constant memory. Redirects are not followed, nothing is
//! decompressed, and only HTTP/1.1 is spoken. The calling program installs a rustls provider
//! before the first [`Client::new`].
//!
//! ```no_run
//! # async fn example() -> Result<(), filegate_client::Error> {
//! use filegate_client::{Client, ClientConfig, Key, Upload};
//!
//! let config = ClientConfig::new("http://127.0.0.1:8080", Some(Key::new("fg-…")?));
//! let client = Client::new(&config)?;
//! let reply = client.upload(Upload::from_path("voice_clone", "voice.mp3").await?).await?;
//! # let _ = reply; Ok(()) }
//! ```

mod client;
mod config;
mod content;
mod error;
mod form;
mod reply;
mod upload;

pub use client::{Client, ListQuery, Pages};
pub use config::{ClientConfig, Key};
pub use content::Content;
pub use error::Error;
pub use form::{FormEnvelope, escape_name};
pub use upload::{Progress, Upload};
