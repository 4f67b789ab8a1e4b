//! Watched tables as they are found in the catalog, and how their triggers, functions and tags are called.

use std::collections::BTreeSet;

/// The tag of entries that any change of a table purges. A manifest's spelling of the table is part of it.
pub fn table_any(table: &str) -> String {
    format!("{table}:any")
}

/// The tag of all entries that depend on a table.
pub fn table_all(table: &str) -> String {
    format!("{table}:all")
}

/// Each spelling of a table with what it leads to: the table, and below it its partitions and children at every depth, since
/// each of them can be written directly. A spelling that leads nowhere has one row of nulls. A name has 63 bytes, so that of a
/// function keeps only characters of one byte.
pub(super) const RELATIONS: &str = "\
    WITH RECURSIVE asked AS ( \
        SELECT spelling, to_regclass(spelling)::oid AS root FROM unnest($1::text[]) AS spelling \
    ), family AS ( \
        SELECT root, root AS relation FROM asked WHERE root IS NOT NULL \
        UNION SELECT f.root, i.inhrelid FROM family f JOIN pg_inherits i ON i.inhparent = f.relation \
    ) \
    SELECT a.spelling, a.root::bigint AS root, f.relation::bigint AS relation, \
        coalesce(quote_ident(n.nspname) || '.' || quote_ident(c.relname), '') AS name, \
        coalesce(quote_ident(left(regexp_replace(rc.relname::text, '[^ -~]', '_', 'g'), 40) || '_' || left(md5(rn.nspname || '.' || rc.relname), 8)), '') AS function, \
        c.relkind::text AS kind, c.relpersistence::text AS persistence, \
        EXISTS (SELECT FROM pg_inherits WHERE inhrelid = a.root) AS is_child, \
        EXISTS (SELECT FROM pg_subscription_rel s JOIN family x ON x.relation = s.srrelid WHERE x.root = a.root) AS is_replicated, \
        ARRAY(SELECT t.tgname || ' ' || t.tgenabled::text || ' ' || format('%I', p.proname) FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid \
              WHERE t.tgrelid = f.relation AND NOT t.tgisinternal AND p.pronamespace = to_regnamespace('mainstay')) AS triggers, \
        ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = a.root AND attnum > 0 AND NOT attisdropped) AS columns \
    FROM asked a LEFT JOIN family f ON f.root = a.root \
    LEFT JOIN pg_class c ON c.oid = f.relation LEFT JOIN pg_namespace n ON n.oid = c.relnamespace \
    LEFT JOIN pg_class rc ON rc.oid = a.root LEFT JOIN pg_namespace rn ON rn.oid = rc.relnamespace \
    ORDER BY a.spelling, f.relation";

/// A relation that a spelling leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation {
    /// The table at the top.
    pub root: i64,
    /// The relation itself: the table, or one below it.
    pub oid: i64,
    /// Its name with its schema, quoted.
    pub name: String,
    /// The function of its triggers, in schema `mainstay`, quoted.
    pub function: String,
    /// `relkind` of the catalog.
    pub kind: String,
    /// `relpersistence` of the catalog.
    pub persistence: String,
    /// Whether the table at the top is itself part of another one.
    pub is_child: bool,
    /// Whether a subscription writes into the table.
    pub is_replicated: bool,
    /// Our triggers on it.
    pub triggers: BTreeSet<Trigger>,
    /// The columns of the table at the top.
    pub columns: Vec<String>,
}

/// A trigger as it is, or as it has to be: name, `tgenabled`, function.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Trigger {
    /// Its name.
    pub name: String,
    /// `A`: in every session. `R`: only where changes are replicated into the table.
    pub enabled: String,
    /// Its function, in schema `mainstay`, quoted.
    pub function: String,
}

impl Trigger {
    /// From the catalog's `name enabled function`; the names of ours have no space.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ' ').map(str::to_owned);
        Some(Self { name: parts.next()?, enabled: parts.next()?, function: parts.next()? })
    }

    /// What it does, as `CREATE TRIGGER` says it before and after the table's name.
    pub(super) fn events(&self) -> (&'static str, &'static str) {
        match self.name.as_str() {
            INSERT => ("AFTER INSERT", "REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT"),
            UPDATE => ("AFTER UPDATE", "REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT"),
            DELETE => ("AFTER DELETE", "REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT"),
            APPLY => ("AFTER INSERT OR UPDATE OR DELETE", "FOR EACH ROW"),
            _ => ("AFTER TRUNCATE", "FOR EACH STATEMENT"),
        }
    }
}

const INSERT: &str = "mainstay_insert";
const UPDATE: &str = "mainstay_update";
const DELETE: &str = "mainstay_delete";
const TRUNCATE: &str = "mainstay_truncate";
const APPLY: &str = "mainstay_apply";

impl Relation {
    /// The triggers that it has to have.
    ///
    /// Logical replication writes without statements, so rows have triggers as well where it writes; they are silent in
    /// all other sessions, where the statement has told already. On a partitioned table Postgres would copy them down.
    pub fn wanted(&self) -> BTreeSet<Trigger> {
        let trigger = |name: &str, enabled: &str| Trigger {
            name: name.to_owned(),
            enabled: enabled.to_owned(),
            function: self.function.clone(),
        };
        let mut wanted: BTreeSet<_> =
            [INSERT, UPDATE, DELETE, TRUNCATE].into_iter().map(|name| trigger(name, "A")).collect();
        if self.is_replicated && self.kind == "r" {
            wanted.insert(trigger(APPLY, "R"));
        }
        wanted
    }

    /// Why changes of it cannot be followed, if so.
    pub fn refusal(&self) -> Option<&'static str> {
        match (self.kind.as_str(), self.persistence.as_str()) {
            ("v", _) => Some("is a view; watch the tables that it reads"),
            ("m", _) => Some("is a materialized view, which changes without any trigger; watch what it is made of"),
            ("f", _) => Some("is a foreign table, whose changes nobody here sees"),
            ("r" | "p", "u") => Some("is unlogged, so that replicas do not have it"),
            ("r" | "p", "t") => Some("is temporary"),
            ("r" | "p", _) if self.is_child => {
                Some("is part of another table, through which it changes, too; watch that one")
            }
            ("r" | "p", _) => None,
            _ => Some("is no table"),
        }
    }
}
