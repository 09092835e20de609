//! An account upstream.

use std::collections::BTreeMap;

use super::{File, Task, Voice};
use crate::AccountOptions;
use crate::reply::Refusal;

#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) key: String,
    /// Every call is answered with 1004.
    pub(crate) banned: bool,
    /// Without it `voice_clone` is answered with 2038.
    pub(crate) verified: bool,
    /// Units left; unlimited if absent.
    pub(crate) balance: Option<u64>,
    pub(crate) files: BTreeMap<i64, File>,
    pub(crate) voices: BTreeMap<String, Voice>,
    pub(crate) tasks: BTreeMap<i64, Task>,
}

impl Account {
    pub(super) fn new(options: &AccountOptions, balance: Option<u64>) -> Self {
        Self {
            name: options.name.clone(),
            key: options.key.clone(),
            banned: false,
            verified: true,
            balance,
            files: BTreeMap::new(),
            voices: BTreeMap::new(),
            tasks: BTreeMap::new(),
        }
    }

    /// Takes so many units, or 1008.
    pub(crate) fn pay(&mut self, units: u64) -> Result<(), Refusal> {
        if let Some(balance) = &mut self.balance {
            let left = balance.checked_sub(units);
            *balance = left.ok_or_else(|| Refusal::new(1008, "insufficient balance"))?;
        }
        Ok(())
    }
}
