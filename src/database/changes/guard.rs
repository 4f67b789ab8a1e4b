//! What triggers cannot notice: a table that was swapped for another, a partition that came with no triggers, a trigger that was
//! dropped or disabled, a manifest that asks for more than was installed. Whoever looks finds it a moment late, so all that depends on the table is purged.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::types::Type;

use super::feed::{Feed, FeedError};
use super::watched::{RELATIONS, Relation, Trigger, table_all};
use crate::config::manifest::Watch;

/// A watched table whose changes are not all noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The table, as the manifest spells it.
    pub table: String,
    /// What is the matter.
    pub reason: String,
}

/// What the last look at a table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Look {
    /// The table and what is below it.
    oids: BTreeSet<i64>,
    reason: Option<String>,
}

impl Feed {
    /// Looks at watched tables. Those that are others than at the last look are purged, and so are those whose changes are not
    /// noticed, each time anew until that is mended: what is kept of them is never older than the time between two looks.
    ///
    /// # Errors
    /// When the primary cannot be asked.
    pub async fn guard(&mut self, watches: &[Watch]) -> Result<Vec<Finding>, FeedError> {
        let tables: BTreeSet<String> = watches.iter().map(|watch| watch.table.clone()).collect();
        self.connected().await?;
        let unknown = self.unknown(watches).await?;
        let mut looks = self.look(&tables.into_iter().collect::<Vec<_>>()).await?;
        for (table, look) in &mut looks {
            if look.reason.is_none() && unknown.contains(table) {
                look.reason = Some(format!("the triggers do not know this spelling of {table}, or a tag of its rows"));
            }
        }
        let mut purged = Vec::new();
        for (table, look) in &looks {
            let before = self.guarded.get(table);
            if look.reason.is_some() || before.is_some_and(|before| before != look) {
                purged.push(table_all(table));
            }
            match (before.and_then(|before| before.reason.as_ref()), &look.reason) {
                (None, Some(reason)) => {
                    log::error!(table = table.as_str(); "changes of {table} go unnoticed: {reason}; run `mainstay migrate`");
                }
                (Some(_), None) => log::info!(table = table.as_str(); "changes of {table} are noticed again"),
                _ => {}
            }
        }
        if !purged.is_empty() {
            self.one("SELECT mainstay.purge($1, false)", &[(&purged, Type::TEXT_ARRAY)]).await?;
        }
        let finding =
            |(table, look): (&String, &Look)| Some(Finding { table: table.clone(), reason: look.reason.clone()? });
        let findings = looks.iter().filter_map(finding).collect();
        self.guarded = looks;
        Ok(findings)
    }

    /// The tables with a watch that was never installed. Their triggers tell something, and not what these entries carry.
    async fn unknown(&mut self, watches: &[Watch]) -> Result<BTreeSet<String>, FeedError> {
        const UNKNOWN: &str = "SELECT a.tbl AS table FROM unnest($1::text[], $2::text[]) AS a (tbl, tag) \
            WHERE NOT EXISTS (SELECT FROM mainstay.watches w WHERE w.tbl = a.tbl AND w.tag = a.tag)";
        let tables: Vec<&str> = watches.iter().map(|watch| watch.table.as_str()).collect();
        let tags: Vec<&str> = watches.iter().map(|watch| watch.tag.as_deref().unwrap_or_default()).collect();
        let rows = self.rows(UNKNOWN, &[(&tables, Type::TEXT_ARRAY), (&tags, Type::TEXT_ARRAY)]).await?;
        let table = |row: &tokio_postgres::Row| row.try_get("table");
        rows.iter().map(table).collect::<Result<_, _>>().map_err(|error| FeedError::Unavailable(error.to_string()))
    }

    async fn look(&mut self, tables: &[String]) -> Result<BTreeMap<String, Look>, FeedError> {
        let rows = self.rows(RELATIONS, &[(&tables, Type::TEXT_ARRAY)]).await?;
        let mut found: BTreeMap<String, Vec<Relation>> =
            tables.iter().map(|table| (table.clone(), Vec::new())).collect();
        for row in &rows {
            let relation = relation(row).map_err(|error| FeedError::Unavailable(error.to_string()))?;
            let spelling = row.try_get("spelling").map_err(|error| FeedError::Unavailable(error.to_string()))?;
            found.entry(spelling).or_default().extend(relation);
        }
        let look = |relations: Vec<Relation>| Look {
            oids: relations.iter().map(|one| one.oid).collect(),
            reason: trouble(&relations),
        };
        Ok(found.into_iter().map(|(table, relations)| (table, look(relations))).collect())
    }
}

/// Why changes of a table are not all noticed, if so.
pub fn trouble(relations: &[Relation]) -> Option<String> {
    if relations.is_empty() {
        return Some("there is no such table".to_owned());
    }
    relations.iter().find_map(|relation| {
        if let Some(reason) = relation.refusal() {
            return Some(format!("{} {reason}", relation.name));
        }
        let wanted = relation.wanted();
        let missing: Vec<&str> = wanted.difference(&relation.triggers).map(|trigger| trigger.name.as_str()).collect();
        (!missing.is_empty()).then(|| format!("{} lacks {}, or has it disabled", relation.name, missing.join(", ")))
    })
}

/// Nothing where the spelling leads nowhere.
fn relation(row: &tokio_postgres::Row) -> Result<Option<Relation>, tokio_postgres::Error> {
    let (Some(root), Some(oid)) = (row.try_get::<_, Option<i64>>("root")?, row.try_get::<_, Option<i64>>("relation")?)
    else {
        return Ok(None);
    };
    let triggers: Vec<String> = row.try_get("triggers")?;
    Ok(Some(Relation {
        root,
        oid,
        name: row.try_get("name")?,
        function: row.try_get("function")?,
        kind: row.try_get("kind")?,
        persistence: row.try_get("persistence")?,
        is_child: row.try_get("is_child")?,
        is_replicated: row.try_get("is_replicated")?,
        triggers: triggers.iter().filter_map(|text| Trigger::parse(text)).collect(),
        columns: row.try_get("columns")?,
    }))
}
