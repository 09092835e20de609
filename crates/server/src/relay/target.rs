//! Which requests are relayed, and what they are called upstream.

use http::Method;

/// The prefixes that carry the MiniMax surface beside the bare one.
const PREFIXES: [&str; 2] = ["/minimax", "/minimaxi"];
/// What is relayed of it.
const MOUNTS: [&str; 4] = ["/v1/", "/v2/", "/anthropic/", "/ws/"];

/// A request that is upstream's to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The path that upstream is asked, as the client wrote it: the request's without our prefix.
    pub(crate) path: String,
    /// The same as rules and prices know it: lower case, without a slash at the end.
    pub(crate) known_as: String,
}

impl Target {
    /// What `path` is upstream, if it is relayed at all.
    ///
    /// Rules hang on paths, and whoever serves them upstream may take several spellings for one. So a path
    /// is relayed only if it has one reading: nothing escaped, no empty or dotted segments, no parameters. No
    /// path of upstream's needs them. All of `/v1/files` is ours or nobody's: upstream's list would show what
    /// is everybody's.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            // The first is no path, and the answer to the second is what we sent, keys and all.
            return None;
        }
        let under = PREFIXES.iter().find_map(|prefix| {
            let rest = path.strip_prefix(prefix)?;
            rest.starts_with('/').then_some(rest)
        });
        let path = under.unwrap_or(path);
        let mounted =
            MOUNTS.iter().any(|mount| path.len() > mount.len() && path.starts_with(mount));
        if !mounted || !has_one_reading(path) {
            return None;
        }
        let known_as = path.trim_end_matches('/').to_ascii_lowercase();
        let ours = known_as == "/v1/files" || known_as.starts_with("/v1/files/");
        (!ours).then(|| Self { path: path.to_owned(), known_as })
    }

    /// Whether it is a WebSocket's.
    pub(crate) fn is_socket(&self) -> bool {
        self.known_as.starts_with("/ws/")
    }
}

fn has_one_reading(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-_.~:@!$*+,=".contains(&byte);
    let path = path.strip_suffix('/').unwrap_or(path);
    path.bytes().all(plain)
        && path.split('/').skip(1).all(|segment| !matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str) -> Option<String> {
        Target::of(&Method::POST, path).map(|target| target.path)
    }

    #[test]
    fn everything_under_the_mounts_but_files_is_relayed() {
        for prefix in ["", "/minimax", "/minimaxi"] {
            for path in [
                "/v1/t2a_v2",
                "/v2/query/video_generation/123",
                "/anthropic/v1/messages",
                "/ws/v1/t2a_v2",
                "/v1/filesystem",
                "/v1/models/MiniMax-M2.5",
            ] {
                assert_eq!(of(&format!("{prefix}{path}")).as_deref(), Some(path));
            }
        }
    }

    #[test]
    fn what_is_ours_or_nobodys_is_not() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v3/x",
            "/minimax",
            "/minimax/",
            "/minimaxx/v1/t2a_v2",
            "/d/1",
            "/healthz",
            "/openai/v1/chat",
            "/minimax/minimax/v1/t2a_v2",
            "/v1/files",
            "/v1/files/",
            "/V1/t2a_v2",
            "/v1/files/anything",
            "/v1/Files/list",
            "/minimax/v1/files/list/",
            "/minimax/v1/FILES/delete",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_with_several_readings_is_not() {
        for path in [
            "/v1/%66iles/list",
            "/v1/./files/list",
            "/v1/x/../files/list",
            "/v1//files/list",
            "/v1/files;x/list",
            "/v1/x//",
            "/v1/get%5fvoice",
            "/v1/\\files",
            "/v1/x/..",
            "/v1/é",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
    }

    #[test]
    fn rules_know_a_path_by_one_spelling() {
        let target = Target::of(&Method::GET, "/minimax/v1/Get_Voice/").unwrap();
        assert_eq!(
            (target.path.as_str(), target.known_as.as_str()),
            ("/v1/Get_Voice/", "/v1/get_voice")
        );
    }

    #[test]
    fn methods_that_give_away_or_mean_no_path_are_not() {
        assert_eq!(Target::of(&Method::TRACE, "/v1/x"), None);
        assert_eq!(Target::of(&Method::CONNECT, "/v1/x"), None);
        assert!(Target::of(&Method::OPTIONS, "/v1/x").is_some());
    }
}
