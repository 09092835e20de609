//! Links to content that need no key: signed, absolute, and good for a while, as upstream's are.

use crate::world::token;

/// Below this path is what links lead to.
pub(crate) const PREFIX: &str = "/emulate/oss";

#[derive(Debug)]
pub(crate) struct Links {
    base: String,
    seed: u64,
}

impl Links {
    pub(crate) fn new(public: &str, seed: u64) -> Self {
        Self { base: public.trim_end_matches('/').to_owned(), seed }
    }

    /// A link to `object` that ends at `expires`, in Unix seconds.
    pub(crate) fn link(&self, object: &str, expires: i64) -> String {
        let signature = self.signature(object, expires);
        format!("{}{PREFIX}/{object}?Expires={expires}&Signature={signature}", self.base)
    }

    /// Whether the link was made here and has not ended.
    pub(crate) fn holds(&self, object: &str, expires: i64, signature: &str, now: i64) -> bool {
        now < expires && self.signature(object, expires) == signature
    }

    fn signature(&self, object: &str, expires: i64) -> String {
        token(self.seed, &format!("{object} {expires}"))
    }
}
