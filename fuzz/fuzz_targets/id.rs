//! Ids from text and from JSON: what is accepted is canonical and says itself again.

#![no_main]

use filegate_types::FileId;
use filegate_types::wire::DeleteRequest;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<FileId>() {
        assert_eq!(id.to_string(), text);
        assert!(id.get() > 0);
    }
    if let Ok(id) = serde_json::from_str::<FileId>(text) {
        assert_eq!(serde_json::from_str::<FileId>(&id.to_string()).ok(), Some(id));
    }
    let _refused = serde_json::from_str::<DeleteRequest>(text);
});
