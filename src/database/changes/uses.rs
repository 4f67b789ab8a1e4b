//! The last uses of API keys, written on a connection of the feed: it is the one of a server that may write at any time.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::feed::{Feed, FeedError};

impl Feed {
    /// Writes down that these keys were used just now.
    ///
    /// # Errors
    /// When the primary cannot be asked, or this role may not write there.
    pub async fn note_key_uses(&mut self, prefixes: &[Arc<str>]) -> Result<(), FeedError> {
        self.connected().await?;
        let prefixes: Vec<&str> = prefixes.iter().map(|prefix| &**prefix).collect();
        let sql = "SELECT mainstay.note_api_key_uses($1)::text";
        self.one(sql, &[(&prefixes, Type::TEXT_ARRAY)]).await.map(drop)
    }
}
