//! stub
#![allow(missing_docs, clippy::unused_async, clippy::todo)]
use crate::position::*;
use crate::config::manifest::Watch;
use super::super::read::Database;
pub struct Reader { pub name: String, pub region: String }
#[derive(Clone)] pub struct Cursor(String);
impl From<String> for Cursor { fn from(s: String) -> Self { Self(s) } }
impl std::fmt::Display for Cursor { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(&self.0) } }
pub struct Feed;
#[derive(Debug)] pub enum FeedError { NotMigrated, NotPrimary, Unavailable(String) }
impl std::fmt::Display for FeedError { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { write!(f, "{self:?}") } }
pub struct Started { pub position: Position, pub migrated: bool, pub cursor: Cursor, pub last: Option<Position> }
pub struct Batch { pub soft: Vec<String>, pub hard: Vec<String>, pub purges: Vec<i64>, pub cursor: Cursor, pub fence: Option<Position>, pub through: Option<Position>, pub lost: bool }
pub struct Purge { pub id: i64, pub fence: Position }
pub struct ReaderState { pub name: String, pub region: String, pub is_past: bool, pub seen_ago: std::time::Duration }
pub struct Finding { pub table: String, pub what: String }
impl Feed {
  pub async fn start(&mut self) -> Result<Started, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn poll(&mut self, _: &Cursor, _: bool) -> Result<Batch, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn advance(&mut self, _: &Cursor, _: Position) -> Result<bool, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn fence(&mut self) -> Result<Position, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn purge(&mut self, _: &[String], _: bool) -> Result<Purge, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn readers_past(&mut self, _: i64) -> Result<Vec<ReaderState>, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn hard_purges(&mut self) -> Result<Vec<(String, Position)>, FeedError> { Err(FeedError::NotMigrated) }
  pub async fn guard(&mut self, _: &[Watch]) -> Result<Vec<Finding>, FeedError> { Err(FeedError::NotMigrated) }
  pub fn close(&mut self) {}
}
impl Database { pub fn feed(&self, _: Reader) -> Feed { Feed } }
