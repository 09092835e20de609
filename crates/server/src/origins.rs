//! Where the value of each setting comes from.

use std::collections::BTreeMap;

use figment::{Figment, Metadata, Source};
use serde_json::Value;

use crate::config::{Config, Overrides};

/// Settings by their dotted names. What is not here was not set by anybody.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(BTreeMap<String, String>);

impl Origins {
    /// `default`, `file NAME`, `environment` or `command line`.
    pub fn of_setting(&self, path: &[String]) -> &str {
        // An empty list or table, or a part of a value that was set as a whole.
        (1..=path.len())
            .rev()
            .find_map(|parts| self.0.get(&path[..parts].join(".")))
            .map_or("default", String::as_str)
    }

    pub(crate) fn of(figment: &Figment, config: &Config) -> Self {
        let mut origins = Self::default();
        let whole = serde_json::to_value(config).unwrap_or_default();
        origins.visit(figment, String::new(), &whole);
        origins
    }

    fn visit(&mut self, figment: &Figment, path: String, value: &Value) {
        if let Some(object) = value.as_object() {
            for (name, value) in object {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                self.visit(figment, below, value);
            }
        } else if let Some(origin) = figment.find_metadata(&path).and_then(named) {
            self.0.insert(path, origin);
        }
    }
}

fn named(metadata: &Metadata) -> Option<String> {
    match &metadata.source {
        Some(Source::File(path)) => Some(format!("file {}", path.display())),
        _ if metadata.name.contains("environment") => Some("environment".to_owned()),
        _ if metadata.name.contains(std::any::type_name::<Overrides>()) => {
            Some("command line".to_owned())
        }
        _ => None,
    }
}
