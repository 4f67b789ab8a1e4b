//! Payment providers: who moves money outside, and tells by webhook what became of it.
//!
//! A provider is an adapter: it knows how the other side proves that a delivery is its own, and how its events are written.
//! What an event means for an order, and that it means so once, is not its business (`super::webhooks`). The sandbox is the
//! one that comes along; others stand beside it, added by [`Builder::provider`](crate::Builder::provider).

pub mod sandbox;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use crate::config::ConfigError;
use crate::config::webhooks::WebhookSettings;
use crate::error::Error;
use sandbox::Sandbox;

/// How long the name of a provider may be: accounts of the ledger are called by it.
const NAME_BYTES_MAX: usize = 32;

/// What a provider tells of an order. Deliveries of one event have one id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its id, which the provider gave it.
    pub id: String,
    /// What happened: `payment.succeeded`, …
    pub kind: String,
    /// The order that it happened to.
    pub order_id: Uuid,
    /// How much was moved, in minor units, where the provider says so.
    pub amount: Option<i64>,
    /// The currency of that amount.
    pub currency: Option<String>,
}

/// A request to the webhook of a provider, before anybody knows that it is the provider's.
pub struct Delivery<'a> {
    /// Header lines, names in lower case.
    pub headers: &'a [(Box<str>, Box<[u8]>)],
    /// The body, byte for byte: what is signed is this, and not what it means.
    pub body: &'a [u8],
    /// The time since the epoch.
    pub now: Duration,
}

impl<'a> Delivery<'a> {
    /// All values of a header whose name, in lower case, is given.
    pub fn header(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(other, _)| **other == *name).map(|(_, value)| &**value)
    }
}

/// What a customer is to pay, for [`Provider::instructions`].
#[derive(Clone, Copy, Debug)]
pub struct Due<'a> {
    /// The order, by whose id the provider will name it in its events.
    pub order_id: Uuid,
    /// In minor units.
    pub amount: i64,
    /// The currency of the amount.
    pub currency: &'a str,
}

/// An adapter to a payment provider. It runs where requests are served, so that nothing in it may block.
pub trait Provider: Send + Sync {
    /// Its name in paths, orders and accounts of the ledger: a lower-case letter, then letters, digits and underscores, 32 in all.
    fn name(&self) -> &str;

    /// Reads a delivery, once it is proved to be the provider's own and not an old one that somebody has kept.
    ///
    /// # Errors
    /// `signature_invalid` where the proof is missing, wrong or too old; it says which, and nothing that would help to make another.
    /// `body_invalid` where the proof is right, and the body is no event.
    fn verify(&self, delivery: &Delivery<'_>) -> Result<Event, Error>;

    /// What a customer is told to do to pay an order, shown with it. Called for each answer that shows the order, so it depends on
    /// the order alone.
    fn instructions(&self, _due: &Due<'_>) -> Option<Value> {
        None
    }
}

/// The providers of an instance, by name.
#[derive(Clone, Default)]
pub struct Providers(BTreeMap<String, Arc<dyn Provider>>);

impl Providers {
    /// Adds one; a later one of the same name takes its place.
    pub fn add(&mut self, provider: Arc<dyn Provider>) {
        self.0.insert(provider.name().to_owned(), provider);
    }

    /// The provider of a name.
    pub fn get(&self, name: &str) -> Option<&dyn Provider> {
        self.0.get(name).map(|provider| &**provider)
    }

    /// With the sandbox beside them, where it has a secret.
    ///
    /// # Errors
    /// Where one has a name that none can have, or the sandbox's.
    pub fn with_sandbox(mut self, settings: &WebhookSettings) -> Result<Self, ConfigError> {
        if let Some(wrong) = self.0.keys().find(|name| !is_name(name)) {
            let form = "a lower-case letter, then letters, digits and underscores, 32 in all";
            return Err(ConfigError::new(format!("the provider {wrong:?}: its name must be {form}")));
        }
        if let Some(sandbox) = Sandbox::new(&settings.sandbox_secret.list(), settings.tolerance.0) {
            if self.0.contains_key(sandbox::NAME) {
                return Err(ConfigError::new(
                    "webhooks.sandbox_secret: another provider is called sandbox; leave it empty",
                ));
            }
            self.add(Arc::new(sandbox));
        }
        Ok(self)
    }
}

/// Whether a text may be a provider's name.
fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}
