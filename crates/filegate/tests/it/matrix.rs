//! Who may do what: every route against every kind of credential.

use filegate_testkit::http::{Connection, Reply, Request};
use filegate_testkit::server::TestServer;
use serde_json::Value;

use crate::kit;

/// A route of the API that wants a key.
struct Route {
    method: &'static str,
    /// As `/openapi.json` has it; the aliases, which it does not have, end in `/v1/files`.
    path: &'static str,
    scope: &'static str,
    send: fn(Request, i64) -> Request,
    /// What another account gets.
    foreign: Foreign,
}

#[derive(PartialEq)]
enum Foreign {
    NotFound,
    /// It works, on that account's own files.
    Own,
}

/// Names and values.
type Headers = Vec<(String, String)>;

fn with_form(request: Request, _: i64) -> Request {
    request.form("retrieval", "a.txt", b"hello")
}

fn with_json(request: Request, file_id: i64) -> Request {
    request.body(format!("{{\"file_id\":{file_id}}}"))
}

fn plain(request: Request, _: i64) -> Request {
    request
}

const fn route(
    method: &'static str,
    path: &'static str,
    scope: &'static str,
    send: fn(Request, i64) -> Request,
    foreign: Foreign,
) -> Route {
    Route { method, path, scope, send, foreign }
}

/// The calls. `ID` stands for a file's id.
const CALLS: [Route; 5] = [
    route("POST", "/v1/files/upload", "files:write", with_form, Foreign::Own),
    route("GET", "/v1/files/list", "files:list", plain, Foreign::Own),
    route("GET", "/v1/files/retrieve?file_id=ID", "files:read", plain, Foreign::NotFound),
    route("GET", "/v1/files/retrieve_content?file_id=ID", "files:read", plain, Foreign::NotFound),
    route("POST", "/v1/files/delete", "files:delete", with_json, Foreign::NotFound),
];

/// Under the prefixes only.
const ALIASES: [Route; 3] = [
    route("POST", "/v1/files", "files:write", with_form, Foreign::Own),
    route("GET", "/v1/files", "files:list", plain, Foreign::Own),
    route("DELETE", "/v1/files?file_id=ID", "files:delete", plain, Foreign::NotFound),
];

/// Routes that want no key: what opens them is in the URL.
const WITHOUT_KEY: [(&str, &str); 1] = [("GET", "/d/{file_id}")];

fn routes() -> Vec<(&'static str, &'static Route)> {
    let mut routes = vec![];
    for mount in kit::MOUNTS {
        routes.extend(CALLS.iter().map(|route| (mount, route)));
        if !mount.is_empty() {
            routes.extend(ALIASES.iter().map(|route| (mount, route)));
        }
    }
    routes
}

fn request(server: &TestServer, mount: &str, route: &Route, file_id: i64) -> Request {
    let target = format!("{mount}{}", route.path.replace("ID", &file_id.to_string()));
    (route.send)(Request::new(&server.address, route.method, &target), file_id)
}

/// What tells two replies apart for a client: all but its name and the time.
fn visible(reply: &Reply) -> (u16, Headers, String) {
    let named = |name: &str| name == "trace-id" || name == "date";
    let headers = reply.headers.iter().filter(|(name, _)| !named(name)).cloned().collect();
    (reply.status, headers, reply.text())
}

#[test]
fn the_matrix_lists_every_route() {
    let server = kit::start();
    let document = Request::new(&server.address, "GET", "/openapi.json").send().json();
    let mut documented = vec![];
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            documented.push((method.to_uppercase(), path.clone()));
        }
    }
    let mut listed: Vec<(String, String)> = CALLS
        .iter()
        .map(|route| (route.method, route.path.split('?').next().unwrap()))
        .chain(WITHOUT_KEY)
        .map(|(method, path)| (method.to_owned(), path.to_owned()))
        .collect();
    documented.sort();
    listed.sort();
    assert_eq!(documented, listed);
    let mounts: Vec<_> =
        document["servers"].as_array().unwrap().iter().map(|server| &server["url"]).collect();
    assert_eq!(mounts, ["/minimax", "/minimaxi", "/"]);
}

#[test]
fn every_route_with_every_credential() {
    let server = kit::start();
    let file_id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let unknown = format!("fg-{}", "A".repeat(43));
    let revoked = server.make_key("revoked", "default");
    server.command(&["key", "revoke", &revoked]);
    let expired = server.command(&["key", "create", "--name", "expired", "--expires-in", "1ms"]);
    let bearer = |key: &str| ("Authorization".to_owned(), format!("Bearer {key}"));
    let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let good = &server.key;
    let login = "login fail: Please carry the API secret key in the 'Authorization' field of the request header";
    let cases: Vec<(Headers, i64, &str)> = vec![
        (vec![], 1004, login),
        (vec![own("Authorization", "")], 1004, login),
        (vec![own("Authorization", "Bearer")], 1004, login),
        (vec![own("Authorization", good)], 1004, login),
        (vec![own("Authorization", &format!("Basic {good}"))], 1004, login),
        (vec![own("Authorization", &format!("Bearer{good}"))], 1004, login),
        (vec![own("Authorization", &format!("Bearer {good} {good}"))], 1004, login),
        (vec![own("Authorization", "Bearer fg-ключ")], 1004, login),
        (vec![own("Authorization", &format!("Bearer {}", "k".repeat(5000)))], 1004, login),
        (vec![bearer(good), bearer(good)], 1004, login),
        (vec![bearer(good), own("x-api-key", &unknown)], 1004, login),
        (vec![own("x-api-key", good), own("x-api-key", good)], 1004, login),
        (vec![own("x-api-key", "")], 1004, login),
        (vec![own("Cookie", &format!("Authorization=Bearer {good}"))], 1004, login),
        (vec![own("Proxy-Authorization", &format!("Bearer {good}"))], 1004, login),
        (vec![bearer(&unknown)], 2049, "invalid api key"),
        (vec![own("x-api-key", &unknown)], 2049, "invalid api key"),
        (vec![bearer("sk-something-else")], 2049, "invalid api key"),
        (vec![bearer("' OR 1=1;--".replace(' ', "/**/").as_str())], 2049, "invalid api key"),
        (vec![bearer("%")], 2049, "invalid api key"),
        (vec![bearer(&good[..good.len() - 1])], 2049, "invalid api key"),
        (vec![bearer(&good.to_lowercase())], 2049, "invalid api key"),
        (vec![bearer(&revoked)], 2049, "invalid api key"),
        (vec![bearer(&expired)], 2049, "invalid api key"),
    ];
    for (mount, route) in routes() {
        for (headers, code, message) in &cases {
            let with = headers
                .iter()
                .fold(request(&server, mount, route, file_id), |request, (name, value)| {
                    request.header(name, value)
                });
            let reply = kit::refused(with.send(), *code, message);
            assert_eq!(&reply.message(), message, "{} {headers:?}", route.path);
            let echoed = headers.iter().any(|(_, value)| {
                value.len() > 8 && reply.text().contains(value.trim_start_matches("Bearer "))
            });
            assert!(!echoed, "{}", reply.text());
        }
        let separator = if route.path.contains('?') { '&' } else { '?' };
        for name in ["key", "api_key", "access_token", "Authorization"] {
            let target = format!(
                "{mount}{}{separator}{name}={good}",
                route.path.replace("ID", &file_id.to_string())
            );
            let in_query = Request::new(&server.address, route.method, &target);
            kit::refused((route.send)(in_query, file_id).send(), 1004, login);
        }
    }
    let list = kit::success(server.get("/v1/files/list")).json();
    assert_eq!(list["files"].as_array().map(Vec::len), Some(1), "nothing came or went");
    for key in [good, &unknown, &revoked, &expired] {
        assert!(!server.log().contains(key.as_str()), "a key is in the log");
    }
    kit::still_well(&server);
}

#[test]
fn every_route_with_good_credentials() {
    let server = kit::start();
    let scopes = ["files:write", "files:read", "files:list", "files:delete", "relay"];
    for (mount, route) in routes() {
        let others: Vec<_> = scopes.into_iter().filter(|scope| *scope != route.scope).collect();
        let create = ["key", "create", "--name", "n", "--scopes"];
        let without = server.command(&[&create as &[&str], &[&others.join(",")]].concat());
        let only = server.command(&[&create as &[&str], &[route.scope]].concat());
        for header in ["Authorization", "authorization", "x-api-key", "X-API-Key"] {
            let file_id = server.upload("retrieval", "a.txt", b"hello").file_id();
            let with = |key: &str| {
                let scheme = if header.starts_with(['A', 'a']) { "BEARER " } else { "" };
                let made = request(&server, mount, route, file_id);
                made.header(header, &format!("{scheme}{key}")).send()
            };
            let refused = kit::refused(with(&without), 1004, "login fail");
            assert!(refused.message().ends_with(route.scope), "{}", refused.message());
            let reply = with(&only);
            if route.path.contains("content") {
                kit::content(reply, 200);
            } else {
                kit::success(reply);
            }
        }
    }
}

#[test]
fn a_foreign_file_is_an_absent_file() {
    let server = kit::start();
    let file_id = server.upload("retrieval", "a.txt", b"hello").file_id();
    let stranger = server.make_key("stranger", "elsewhere");
    let absent = file_id - 4096;
    for (mount, route) in routes() {
        let with = |id| request(&server, mount, route, id).bearer(&stranger).send();
        let (foreign, missing) = (kit::checked(with(file_id)), kit::checked(with(absent)));
        if route.foreign == Foreign::NotFound {
            kit::refused(foreign.clone(), 2013, "invalid params, file not found");
            assert_eq!(visible(&foreign), visible(&missing), "{} {}", route.method, route.path);
        } else {
            let json = kit::success(foreign).json();
            let seen = json["files"].as_array().cloned().unwrap_or_default();
            assert!(seen.iter().all(|file| file["file_id"] != file_id), "{}", route.path);
        }
    }
    // A guess at its purpose, a range, a condition or HEAD say no more.
    for purpose in ["retrieval", "voice_clone"] {
        let with = |id: i64| {
            let body = format!("{{\"file_id\":{id},\"purpose\":\"{purpose}\"}}");
            let request = Request::new(&server.address, "POST", "/v1/files/delete");
            request.bearer(&stranger).body(body).send()
        };
        assert_eq!(visible(&with(file_id)), visible(&with(absent)));
    }
    for (method, header, value) in [
        ("GET", "Range", "bytes=0-0"),
        ("GET", "Range", "bytes=999-"),
        ("GET", "If-None-Match", "*"),
        ("HEAD", "Accept", "*/*"),
    ] {
        let with = |id: i64| {
            let target = format!("/v1/files/retrieve_content?file_id={id}");
            let request = Request::new(&server.address, method, &target);
            request.bearer(&stranger).header(header, value).send()
        };
        assert_eq!(visible(&with(file_id)), visible(&with(absent)));
    }
    // Pages may be asked for from anywhere.
    let target = format!("/v1/files/list?after={}", file_id + 1);
    let page = Request::new(&server.address, "GET", &target).bearer(&stranger).send();
    let json = kit::success(page).json();
    assert!(json["files"].as_array().unwrap().iter().all(|file| file["file_id"] != file_id));
    let own = server.get(&format!("/v1/files/retrieve_content?file_id={file_id}"));
    assert_eq!(kit::content(own, 200).body, b"hello");
}

#[test]
fn revocation_counts_from_the_next_request() {
    let server = kit::start();
    let key = server.make_key("short-lived", "default");
    let mut connection = Connection::open(&server.address).unwrap();
    let list = Request::new(&server.address, "GET", "/v1/files/list").bearer(&key).bytes();
    let mut ask = || {
        connection.write(&list).unwrap();
        connection.reply().unwrap()
    };
    assert_eq!(kit::success(ask()).json()["files"], Value::Array(vec![]));
    server.command(&["key", "revoke", &key]);
    kit::refused(ask(), 2049, "invalid api key");
    kit::refused(ask(), 2049, "invalid api key");
    kit::success(server.get("/v1/files/list"));
}

/// Embedded, a caller that is known is not read again while nothing is committed: whoever commits, the next call
/// reads.
#[test]
fn what_another_process_and_this_one_change_is_seen_by_the_very_next_call() {
    let server = kit::setup().embedded().start();
    server.command(&["account", "create", "--name", "payer"]);
    let key = server.make_key("k", "payer");
    let mut connection = Connection::open(&server.address).unwrap();
    let list = Request::new(&server.address, "GET", "/v1/files/list").bearer(&key).bytes();
    let mut ask = || {
        // The second is one whose caller is known, if the first was let in.
        let mut asked = || {
            connection.write(&list).unwrap();
            connection.reply().unwrap()
        };
        let (first, second) = (asked(), asked());
        assert_eq!(first.code(), second.code());
        first
    };
    kit::success(ask());
    server.command(&["price", "set", "files.list", "0.5"]);
    assert_eq!(ask().code(), 1008);
    server.command(&["ledger", "top-up", "payer", "1"]);
    // Both pay, and then nothing is left.
    kit::success(ask());
    assert_eq!(ask().code(), 1008);
    server.command(&["price", "rm", "files.list"]);
    kit::success(ask());
    server.command(&["account", "disable", "payer"]);
    assert_ne!(ask().code(), 0);
    server.command(&["account", "enable", "payer"]);
    kit::success(ask());
    let price = server.admin("POST", "/prices").header("Content-Type", "application/json");
    let set = price.body(r#"{"call":"files.list","amount":"0.5"}"#).send();
    assert_eq!(set.status, 200, "{}", set.text());
    assert_eq!(ask().code(), 1008);
    server.command(&["price", "rm", "files.list"]);
    kit::success(ask());
    server.command(&["key", "revoke", &key]);
    kit::refused(ask(), 2049, "invalid api key");
}
