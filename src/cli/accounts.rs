//! `mainstay accounts`: customers of the reference application.

use clap::{Args, Subcommand};
use diesel::Connection;
use serde_json::json;

use super::audited::Auditor;
use super::{Failure, FolderArgs, maintenance_connection, put};
use crate::app::Parts;
use crate::auth::keys::{self, IssueError, NewKey};
use crate::config::settings::Settings;
use crate::database::maintenance::Pooled;
use crate::ramp::accounts;

/// How long a name may be.
const NAME_BYTES_MAX: usize = 200;

const CREATE_HELP: &str = "\
Opens an account and makes an API key for it, both or none. The key is printed this once. With it, in the header
Authorization: Bearer KEY, go the routes of the account: /account/balances, /api/v1/transfers and so on.
Connects with DATABASE_DIRECT_URL, else DATABASE_URL, as the owner of the tables that `mainstay migrate` makes. Who has opened
which account is a line of the audit log, on standard error and where log.amqp is set there as well.

Example:
  mainstay accounts create --name 'Ada Lovelace' --json";

#[derive(Subcommand)]
pub(super) enum AccountsCommand {
    /// Open an account, with an API key for it.
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// Print all accounts.
    List(ListArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// What the customer is called.
    #[arg(long, value_parser = name)]
    name: String,
    /// How well the customer is known, which decides how much may be moved: 0 not at all, 1 by documents, 2 by an interview.
    #[arg(long, value_name = "TIER", default_value = "1", value_parser = clap::value_parser!(i16).range(0..=2))]
    kyc_tier: i16,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Print a JSON array instead of lines.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

fn name(text: &str) -> Result<String, String> {
    let is_right = !text.trim().is_empty() && text.len() <= NAME_BYTES_MAX;
    if is_right { Ok(text.to_owned()) } else { Err(format!("a name has 1 to {NAME_BYTES_MAX} bytes")) }
}

pub(super) fn run(command: &AccountsCommand, parts: &Parts) -> Result<(), Failure> {
    match command {
        AccountsCommand::Create(args) => create(args, parts),
        AccountsCommand::List(args) => list(args),
    }
}

fn create(args: &CreateArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings(Vec::new())?;
    let mut conn = connection(&settings)?;
    let auditor = Auditor::new(&settings, parts, &mut conn)?;
    let made = conn.transaction(|conn| {
        let account = accounts::create(conn, &args.name, args.kyc_tier)?;
        let key = NewKey { name: args.name.clone(), owner: Some(account.id.to_string()), ..NewKey::default() };
        Ok::<_, IssueError>((account, keys::create(conn, &key)?))
    });
    let (account, issued) = made.map_err(Failure::new)?;
    // Its name is the customer's own, and is nobody's business in a log.
    let what = format!("account {} of tier {}, key {}", account.id, account.kyc_tier, issued.prefix);
    auditor.done("accounts_create", &what);
    if args.json {
        put(&json!({
            "account_id": account.id,
            "api_key": issued.api_key.expose(),
            "name": account.name,
            "kyc_tier": account.kyc_tier,
        })
        .to_string());
        return Ok(());
    }
    say!("account   {}", account.id);
    say!("name      {}", account.name);
    say!("kyc tier  {}", account.kyc_tier);
    say!("key       {}", issued.api_key.expose());
    put("Keep the key now: it is not shown again.");
    Ok(())
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let accounts = accounts::list(&mut *connection(&args.folder.settings(Vec::new())?)?).map_err(Failure::new)?;
    if args.json {
        put(&serde_json::to_string_pretty(&accounts).map_err(Failure::new)?);
        return Ok(());
    }
    for account in accounts {
        say!("{}  {}  tier {}  {}", account.id, account.created_at.format("%F %TZ"), account.kyc_tier, account.name);
    }
    Ok(())
}

/// A connection to a database that has the tables.
fn connection(settings: &Settings) -> Result<Pooled, Failure> {
    let mut conn = maintenance_connection(settings)?;
    if !accounts::are_there(&mut conn).map_err(Failure::new)? {
        let sentence =
            "this database has no accounts yet: run `mainstay migrate` with a manifest that uses the built-in API";
        return Err(Failure::new(sentence));
    }
    Ok(conn)
}
