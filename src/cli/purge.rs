//! `mainstay purge`: makes cached answers fall.

use clap::Args;
use serde_json::{Value, json};

use super::Failure;
use super::admin::{AdminArgs, print_json, text};

pub(super) const HELP: &str = "\
A soft purge makes the next request ask the source; only if that fails, what was purged stands in (stale_if_error). A hard one is
for what must never be seen again.

Examples:
  mainstay purge --tag rates:USD --tag rates:CHF
  mainstay purge --path '/public/rates?symbols=USD'   one answer; its parameters may stand in any spelling
  mainstay purge --path /public/rates                 all answers of that path
  mainstay purge --path '/public/rates/*'             /public/rates and all routes below it
  mainstay purge --path /public/docs/secret --hard
  mainstay purge --all

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE. Exit code 1: refused, or not confirmed by all instances and regions.";

#[derive(Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    what: What,
    /// Never serve it again, not even when the source fails.
    #[arg(long)]
    hard: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct What {
    /// All answers with this tag; may be given again.
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// The answers of a path: with its query one of them, ending in /* all routes below.
    #[arg(long)]
    path: Option<String>,
    /// The answer with this key, as /admin/cache/entry shows it.
    #[arg(long)]
    key: Option<String>,
    /// Everything.
    #[arg(long)]
    all: bool,
}

pub(super) fn run(args: &PurgeArgs) -> Result<(), Failure> {
    let client = args.admin.client()?;
    let mode = if args.hard { "hard" } else { "soft" };
    let purged = match &args.what {
        What { all: true, .. } => client.post(&format!("/admin/cache/flush?mode={mode}"), &Value::Null)?,
        What { path: Some(path), .. } => client.post("/admin/cache/purge", &json!({ "path": path, "mode": mode }))?,
        What { key: Some(key), .. } => client.post("/admin/cache/purge", &json!({ "key": key, "mode": mode }))?,
        What { tags, .. } => client.post("/admin/cache/purge", &json!({ "tags": tags, "mode": mode }))?,
    };
    if args.admin.json {
        print_json(&purged)?;
    } else {
        say!("purged ({}): {}", text(&purged, "/mode"), text(&purged, "/tags"));
        say!("id        {}", text(&purged, "/id"));
        say!("fence     {}", text(&purged, "/fence"));
        say!("instances {} of {} confirmed", text(&purged, "/instances/confirmed"), text(&purged, "/instances/known"));
        say!("regions   {}", text(&purged, "/regions/reached"));
    }
    complete(&purged)
}

/// Whether all who are known have it.
fn complete(purged: &Value) -> Result<(), Failure> {
    let number = |pointer| purged.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (known, confirmed) = (number("/instances/known"), number("/instances/confirmed"));
    if confirmed < known {
        let missing = known - confirmed;
        return Err(Failure::new(format!(
            "{missing} of {known} instances have not confirmed it yet; each applies it before it is told anything newer"
        )));
    }
    match text(purged, "/regions/unreached").as_str() {
        "-" => Ok(()),
        // It is not in the log, from which they would have it.
        regions if regions.starts_with("all others") => Err(Failure::Failed(format!("not reached: {regions}"))),
        regions => Err(Failure::new(format!("not reached: {regions}; they have it once they are in touch again"))),
    }
}
