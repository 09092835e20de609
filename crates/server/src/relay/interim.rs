//! What the table of calls will say, until it is merged.

use std::borrow::Cow;

use http::Method;

/// Whether a call changes anything upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It may be made twice.
    None,
    /// It makes or deletes something.
    Lasting,
}

/// What is known of a call.
#[derive(Debug, Clone)]
pub(crate) struct CallRules {
    pub(crate) name: Cow<'static, str>,
    pub(crate) effect: Effect,
}

/// As `calls::lookup` will be.
pub(crate) fn lookup(method: &Method, path: &str) -> CallRules {
    let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let harmless = [
        "/v1/get_voice",
        "/v1/t2a_v2",
        "/v1/chat/completions",
        "/v1/text/chatcompletion_v2",
        "/v1/responses",
        "/anthropic/v1/messages",
        "/v1/coding_plan/vlm",
    ];
    let effect = if reads || harmless.contains(&path) { Effect::None } else { Effect::Lasting };
    CallRules { name: path.to_owned().into(), effect }
}
