//! Clients for addresses that others have chosen: a webhook's, a client's callback, where upstream keeps a result.

use std::sync::Arc;

use reqwest::ClientBuilder;
use reqwest::redirect::Policy;

use crate::moderation::addresses::PublicOnly;

/// A client that follows no redirect, asks no proxy and speaks HTTP/1.1. With `public` it connects to nothing at
/// loopback, private and link-local addresses, whatever a name stands for by then.
pub(crate) fn builder(public: bool) -> ClientBuilder {
    // Fails only when one is installed already.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(concat!("filegate/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .http1_only();
    if public { builder.dns_resolver(Arc::new(PublicOnly)) } else { builder }
}
