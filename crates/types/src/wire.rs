//! The JSON of the Files API, as clients parse it (contract §2).

use serde::{Deserialize, Serialize};

use crate::error::ApiError;
use crate::id::FileId;

/// `base_resp`: on every JSON reply of the MiniMax surface, success included.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BaseResp {
    /// 0 for success, else a code of the error table.
    pub status_code: i64,
    /// `success`, or what went wrong.
    pub status_msg: String,
}

impl BaseResp {
    /// `0 success`.
    pub fn success() -> Self {
        Self { status_code: 0, status_msg: "success".to_owned() }
    }

    /// The code and message of `error`.
    pub fn of(error: &ApiError) -> Self {
        Self { status_code: error.code.number(), status_msg: error.message().to_owned() }
    }
}

/// A file, as upload, list and retrieve show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct FileObject {
    /// The id: a positive integer below 2^53.
    #[cfg_attr(feature = "openapi", schema(value_type = i64, example = 426_586_401_755_526_i64))]
    pub file_id: FileId,
    /// Length in bytes.
    pub bytes: u64,
    /// Unix seconds.
    pub created_at: i64,
    /// The name the client gave, without directories.
    pub filename: String,
    /// What it was uploaded for.
    pub purpose: String,
    /// Absolute signed URL of the content; on `retrieve` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_url: Option<String>,
    /// Unix seconds after which the file is deleted; absent when it is kept until deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// `review` or `quarantined` when the content is not given out; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(example = "review"))]
    pub state: Option<String>,
    /// What was measured of the content (format, codec, `duration_ms`, …); on `retrieve` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
    pub media: Option<serde_json::Value>,
}

/// The reply to an upload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UploadReply {
    /// The file; `null` when it was refused or only validated.
    pub file: Option<FileObject>,
    /// With `validate_only=true`: what would have been stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validated: Option<Validated>,
    /// How it went.
    pub base_resp: BaseResp,
}

/// What an upload with `validate_only=true` found. Nothing was stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Validated {
    /// Length in bytes.
    pub bytes: u64,
    /// The name as it would be kept.
    pub filename: String,
    /// The purpose it was checked against.
    pub purpose: String,
    /// Hex SHA-256 of the content.
    pub sha256: String,
    /// What was measured of the content.
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub media: serde_json::Value,
}

/// The reply to a list.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ListReply {
    /// Newest first; empty, never null, when there are none.
    #[serde(default)]
    pub files: Vec<FileObject>,
    /// Whether more follow; only when `limit` or `after` was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub has_more: Option<bool>,
    /// How it went.
    pub base_resp: BaseResp,
}

/// The reply to a retrieve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetrieveReply {
    /// The file with its `download_url`.
    pub file: Option<FileObject>,
    /// How it went.
    pub base_resp: BaseResp,
}

/// The body of a delete.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteRequest {
    /// The file to delete: a number, or its decimal digits in a string.
    #[cfg_attr(feature = "openapi", schema(value_type = i64))]
    pub file_id: FileId,
    /// If given, must be the purpose of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
}

/// The reply to a delete.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeleteReply {
    /// The id that was deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "openapi", schema(value_type = Option<i64>))]
    pub file_id: Option<FileId>,
    /// How it went.
    pub base_resp: BaseResp,
}

/// A reply of which only the outcome matters, as every refusal can be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ErrorReply {
    /// What went wrong.
    pub base_resp: BaseResp,
}
