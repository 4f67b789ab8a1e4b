//! What a role that serves may do in the schema `ramp`: read, and call the functions that write. It may write nothing itself.

use diesel::sql_types::Text;
use diesel::{QueryResult, QueryableByName, RunQueryDsl, sql_query};

use crate::database::maintenance::MaintenanceConnection;

const TABLES: [&str; 18] = [
    "public.currencies",
    "public.exchange_rates",
    "public.fee_schedules",
    "public.docs",
    "ramp.accounts",
    "ramp.kyc_limits",
    "ramp.daily_volumes",
    "ramp.ledger_accounts",
    "ramp.ledger_transactions",
    "ramp.ledger_entries",
    "ramp.idempotency_keys",
    "ramp.transfers",
    "ramp.orders",
    "ramp.order_transitions",
    "ramp.order_history",
    "ramp.webhook_events",
    "ramp.daily_requests",
    "ramp.daily_money",
];

const FUNCTIONS: [&str; 15] = [
    "ramp.spend(uuid, text, bigint)",
    "ramp.spend_from_balance(uuid, text, bigint, bigint)",
    "ramp.send(uuid, uuid, uuid, text, bigint, bigint)",
    "ramp.claim_idempotency_key(uuid, text, text, bytea)",
    "ramp.keep_outcome(uuid, text, text, text, bytea)",
    "ramp.prune_idempotency_keys(interval)",
    "ramp.create_order(uuid, uuid, text, text, bigint, text, bigint, text, bigint, text, double precision)",
    "ramp.advance(uuid, text, text, bigint, text, timestamp with time zone)",
    "ramp.expire_order(integer)",
    "ramp.store_webhook_event(text, text, text, uuid, bigint, text, bytea)",
    "ramp.lock_webhook_event(text, text, boolean)",
    "ramp.keep_webhook_outcome(text, text, text)",
    "ramp.prune_webhook_events(interval)",
    "ramp.add_requests(uuid, bigint, date[], text[], bigint[], bigint[], bigint[])",
    "ramp.count_money(integer)",
];

/// The grants that a serving role lacks; nothing where there is no such role.
///
/// # Errors
/// When the server cannot be asked.
pub fn grants(conn: &mut MaintenanceConnection, role: &str) -> QueryResult<Option<String>> {
    #[derive(QueryableByName)]
    struct Role {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let mut wanted: Vec<String> =
        TABLES.iter().map(|table| format!("has_table_privilege(oid, to_regclass('{table}'), 'SELECT')")).collect();
    wanted.push("has_schema_privilege(oid, to_regnamespace('ramp')::oid, 'USAGE')".to_owned());
    wanted.extend(
        FUNCTIONS.iter().map(|name| format!("has_function_privilege(oid, to_regprocedure('{name}')::oid, 'EXECUTE')")),
    );
    // Of what is not there, nothing is known, and all is missing.
    let lacking = format!(
        "SELECT quote_ident(rolname) AS name FROM pg_roles WHERE rolname = $1 AND NOT coalesce({}, false)",
        wanted.join(" AND ")
    );
    let lacking = sql_query(lacking).bind::<Text, _>(role).load::<Role>(conn)?;
    Ok(lacking.first().map(|Role { name }| {
        format!(
            "GRANT USAGE ON SCHEMA ramp TO {name}; GRANT SELECT ON {} TO {name}; \
             GRANT EXECUTE ON FUNCTION {} TO {name}",
            TABLES.join(", "),
            FUNCTIONS.join(", ")
        )
    }))
}
