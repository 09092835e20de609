//! Values and rules shared by every part of filegate: no I/O, no async runtime.
//!
//! A value that exists is valid: [`FileId`], [`PurposeName`], [`PlainKey`] and the like can only be
//! made by the functions that check them, so code below the HTTP layer never sees raw client text.

pub mod admin;
pub mod call;
pub mod channel;
pub mod clock;
pub mod error;
pub mod file;
pub mod id;
pub mod key;
pub mod money;
pub mod purpose;
pub mod tenant;
pub mod units;
pub mod wire;

pub use admin::AdminScope;
pub use call::{Call, PriceUnit};
pub use channel::{ChannelCondition, ChannelId, ChannelSettings, ChannelState, Replicate};
pub use clock::{Clock, SystemClock, UnixMillis};
pub use error::{ApiError, ErrorCode};
pub use file::{BlobKey, BlobPlace, FileRecord, FileState, hex};
pub use id::{FileId, FileIdError};
pub use key::{AccountId, KeyHash, KeyId, PlainKey, Principal, Scope, Scopes};
pub use money::{Money, MoneyError};
pub use purpose::{AcceptRule, DurationErrors, PurposeName, PurposePolicy};
pub use tenant::{AccountSettings, TenantLimits};
