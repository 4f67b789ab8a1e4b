//! `mainstay log`: the levels of a running instance's log.

use clap::Args;
use serde_json::json;

use super::Failure;
use super::admin::{AdminArgs, LOOK_TIMEOUT, print_json, text};

pub(super) const HELP: &str = "\
Examples:
  mainstay log                                       which levels are in force
  mainstay log info,mainstay::cache=debug            others for ten minutes
  mainstay log warn --for 2h
  mainstay log --reset                               the configured ones again

The token is ADMIN_TOKEN, or the content of ADMIN_TOKEN_FILE. Exit code 1: refused, not reached, or not
answered within 5 s.";

#[derive(Args)]
pub(super) struct LogArgs {
    /// Levels like log.level: a level for all, and for modules.
    #[arg(value_name = "LEVELS", conflicts_with = "reset")]
    level: Option<String>,
    /// For how long; `restart`: until the instance restarts, or somebody changes them.
    #[arg(long = "for", value_name = "TIME", default_value = "10m", requires = "level")]
    time: String,
    /// Take back what was changed.
    #[arg(long)]
    reset: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) fn run(args: &LogArgs) -> Result<(), Failure> {
    let client = args.admin.client()?.within(LOOK_TIMEOUT);
    let shown = match &args.level {
        Some(level) if args.time == "restart" => client.put("/admin/log", &json!({ "level": level }))?,
        Some(level) => client.put("/admin/log", &json!({ "level": level, "for": args.time }))?,
        None if args.reset => client.delete("/admin/log")?,
        None => client.get("/admin/log")?,
    };
    if args.admin.json {
        return print_json(&shown);
    }
    say!("level      {}", text(&shown, "/level"));
    say!("configured {}", text(&shown, "/configured"));
    say!("until      {}", text(&shown, "/until"));
    Ok(())
}
