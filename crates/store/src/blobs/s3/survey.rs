//! What `doctor` asks about a bucket.

use super::S3Blobs;

/// What is wrong with a bucket, and the store's own words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum S3Fault {}

/// What was found of a bucket.
#[derive(Debug, Clone, Default)]
pub struct S3Facts {
    /// What is wrong.
    pub faults: Vec<S3Fault>,
}

impl S3Blobs {
    /// Looks at the bucket.
    pub async fn survey(&self) -> S3Facts {
        S3Facts::default()
    }
}
