//! The OpenAPI document, made from the handlers: a route is registered and described in one place.

use std::sync::Arc;

use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Server};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{content, delete, download, list, retrieve, upload};
use crate::app::App;

/// The five calls.
pub(super) fn files() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(upload::handler))
        .routes(routes!(list::handler))
        .routes(routes!(retrieve::handler))
        .routes(routes!(content::handler))
        .routes(routes!(delete::handler))
}

/// Signed downloads.
pub(super) fn links() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new().routes(routes!(download::handler))
}

/// The document as JSON, the same at every call.
pub fn document() -> String {
    let (_, links) = links().split_for_parts();
    let (_, mut document) = OpenApiRouter::with_openapi(base()).merge(files()).split_for_parts();
    document.merge(links);
    let mut text = document.to_pretty_json().expect("the document serialises");
    text.push('\n');
    text
}

fn base() -> OpenApi {
    let mut components = Components::new();
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    components.add_security_scheme(
        "api_key",
        SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("x-api-key"))),
    );
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("filegate")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(
                    "The MiniMax Files API. Errors of the API answer HTTP 200 with \
                     `base_resp.status_code`; every reply carries `Trace-Id`.",
                ))
                .license(Some(
                    LicenseBuilder::new()
                        .name("MIT OR Apache-2.0")
                        .identifier(Some("MIT OR Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .servers(Some([Server::new("/minimax"), Server::new("/minimaxi"), Server::new("/")]))
        .components(Some(components))
        .build()
}
