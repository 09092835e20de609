//! The admin API within the process, on the stores themselves.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use filegate_types::SystemClock;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::auth::Local;
use super::problem::Problem;
use crate::app::App;
use crate::config::Config;
use crate::{StartError, Stores, assemble};

/// The admin API without listeners. It takes no lock, so it works beside a running server as well; what
/// only that server can do, such as waking its jobs, happens in its next round.
///
/// Who can read and write the catalog may do everything: the way back in when the last token is lost.
#[derive(Debug)]
pub struct LocalAdmin {
    app: Arc<App>,
    router: Router,
}

impl LocalAdmin {
    /// Opens the stores that the settings name, making a data directory where it is missing.
    pub async fn open(config: Config) -> Result<Self, StartError> {
        let stores = Stores::open(&config).await?;
        let app = assemble(config, stores, Arc::new(SystemClock)).await?;
        let router = crate::http::operators(&app);
        Ok(Self { app, router })
    }

    /// Makes a call, as the actor `local` with full scope. `path_and_query` is as on the wire:
    /// `/admin/v1/accounts?name=acme`.
    pub async fn call(
        &self,
        method: Method,
        path_and_query: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Response<Bytes> {
        let made = Request::builder().method(method).uri(path_and_query).body(Body::from(body));
        let Ok(mut request) = made else {
            return collected(Problem::unreadable("the path is not valid").reply()).await;
        };
        *request.headers_mut() = headers;
        request.extensions_mut().insert(Local);
        let reply = match self.router.clone().oneshot(request).await {
            Ok(reply) => reply,
            Err(never) => match never {},
        };
        collected(reply).await
    }

    /// Ends what calls have left running.
    pub async fn close(self) {
        self.app.tasks.stop(self.app.config.limits.shutdown.0).await;
    }
}

async fn collected(reply: axum::response::Response) -> Response<Bytes> {
    let (parts, body) = reply.into_parts();
    match body.collect().await {
        Ok(body) => Response::from_parts(parts, body.to_bytes()),
        Err(error) => {
            tracing::error!(%error, "admin.local.body");
            let mut failed = Response::new(Bytes::new());
            *failed.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            failed
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::Server;

    async fn call(admin: &LocalAdmin, method: Method, path: &str, body: Value) -> (u16, Value) {
        let path = format!("/admin/v1{path}");
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let reply = admin.call(method, &path, HeaderMap::new(), body).await;
        (reply.status().as_u16(), serde_json::from_slice(reply.body()).unwrap())
    }

    #[tokio::test]
    async fn the_data_directory_is_a_way_in_beside_a_running_server() {
        let home = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let config = Config {
            data_dir: home.path().join("data"),
            listen: any,
            admin_listen: any,
            ..Config::default()
        };
        let server = Server::start(config.clone()).await.unwrap();
        assert!(server.admin_token.is_some());
        let admin = LocalAdmin::open(config).await.unwrap();
        let made = call(&admin, Method::POST, "/tokens", json!({"name": "me", "scope": "full"}));
        let (status, made) = made.await;
        assert_eq!(status, 200, "{made}");
        assert!(made["token"].as_str().unwrap().starts_with("fg-admin-"));
        let (_, audit) = call(&admin, Method::GET, "/audit", Value::Null).await;
        assert_eq!(audit["data"][0]["actor"], "local");
        assert!(!audit.to_string().contains(made["token"].as_str().unwrap()));
        let (status, problem) = call(&admin, Method::GET, "/keys/7", Value::Null).await;
        assert_eq!((status, &problem["status"]), (404, &json!(404)));
        admin.close().await;
        assert!(server.stop().await);
    }
}
