//! `mainstay audit`: what was wrong, and that somebody knows of it.

use clap::Args;
use serde_json::{Map, Value};

use super::Failure;
use super::admin::{AdminArgs, LOOK_TIMEOUT, print_json, text};

pub(super) const HELP: &str = "\
Of the answers from its cache an instance computes a few again on the primary, and compares. A wrong one degrades the instance and
rings until somebody acknowledges it; what is wrong after that rings anew.

Examples:
  mainstay audit                    what was compared since the start, and what was wrong
  mainstay audit --acknowledge      I have looked into what was wrong until now

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE: the audit log and the journal say whose it was. Exit code 1: refused, not
reached, or not answered within 5 s.";

#[derive(Args)]
pub(super) struct AuditArgs {
    /// Acknowledge all that was wrong until now.
    #[arg(long)]
    acknowledge: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &AuditArgs) -> Result<(), Failure> {
    let client = args.admin.client()?.within(LOOK_TIMEOUT);
    if args.acknowledge {
        let done = client.post("/admin/audit/acknowledge", &Value::Null)?;
        if args.admin.json {
            return print_json(&done);
        }
        say!("acknowledged    {}", by_route(&done, "/acknowledged"));
        return Ok(());
    }
    let status = client.get("/admin/status")?;
    let audit = status.pointer("/audit").cloned().unwrap_or_default();
    if args.admin.json {
        return print_json(&audit);
    }
    say!("compared        {} answers since the start", text(&audit, "/checked"));
    say!("wrong           {}", text(&audit, "/wrong"));
    say!("unacknowledged  {}", by_route(&audit, "/unacknowledged"));
    Ok(())
}

/// Counts by route in one line.
pub(super) fn by_route(document: &Value, pointer: &str) -> String {
    let none = Map::new();
    let counts = document.pointer(pointer).and_then(Value::as_object).unwrap_or(&none);
    let named: Vec<String> = counts.iter().map(|(route, count)| format!("{count} at {route}")).collect();
    if named.is_empty() { "nothing".to_owned() } else { named.join(", ") }
}
