//! The change feed: what changed in the database, told in tags, by the database itself.
//!
//! Triggers on the watched tables write the tags of changed rows into a table, in the writer's own transaction
//! ([`install`] plans them, [`schema`] is what they write to). A reader ([`feed`]) asks for what it has not seen, and takes a
//! position for it, which `through` proves complete later. What triggers cannot notice, that a table was swapped or a
//! trigger dropped, is looked for ([`guard`]). [`watched`] knows how tables, triggers and tags are called.
//!
//! There is no NOTIFY: it takes a lock on the whole database through commit, fails PREPARE TRANSACTION, and gets past no
//! pooler. The feed is asked again every `changes.poll_interval` instead.

pub mod feed;
pub mod guard;
pub mod install;
pub mod schema;
mod through;
mod uses;
pub mod watched;
