//! `mainstay keys`: API keys for routes with `auth = "key"`.

use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::audited::Auditor;
use super::{Failure, FolderArgs, maintenance_connection, put, span, table};
use crate::app::Parts;
use crate::auth::keys::{self, IssueError, Listed, NewKey, Revoked};
use crate::config::overload::Rate;

const CREATE_HELP: &str = "\
The key is printed this once: the database has only its SHA-256, and nobody can find it out again. It works at once, everywhere.
Connects with DATABASE_DIRECT_URL, else DATABASE_URL, as the owner of mainstay.api_keys, which `mainstay migrate` makes. Who has made
which key is a line of the audit log, on standard error and where log.amqp is set there as well.

Examples:
  mainstay keys create --name 'billing, production'
  mainstay keys create --name reports --owner acme --scope reports:read --claim tenant=42 --rate 600/m --expires 90d --json";

const REVOKE_HELP: &str = "\
A revoked key is refused by every instance as soon as it hears of the change, commonly within a tenth of a second, and is never
good again. Who has revoked it is a line of the audit log, as for create. Exit code 1 where there is no such key.";

#[derive(Subcommand)]
pub(super) enum KeysCommand {
    /// Make a key, and print it this once.
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
    /// Make keys worthless, by prefix or as a whole.
    #[command(after_help = REVOKE_HELP)]
    Revoke(RevokeArgs),
    /// Print the keys that may be used, without the keys themselves.
    List(ListArgs),
}

#[derive(Args)]
pub(super) struct CreateArgs {
    /// What it is for, to tell it from others.
    #[arg(long)]
    name: String,
    /// Who the caller is: keys of one owner are one caller, `sub` in its claims. Without it the key is its own, by its prefix.
    #[arg(long)]
    owner: Option<String>,
    /// What the caller may do; may be given again.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// What else is known of the caller, for parameters with in = "claim"; may be given again.
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = claim)]
    claims: Vec<(String, String)>,
    /// How often it may be used: 100/s, 6000/m or 1000/h. Without it, as often as the routes allow.
    #[arg(long)]
    rate: Option<Rate>,
    /// For how long it is good: 90d, 12h. Without it, until it is revoked.
    #[arg(long, value_name = "TIME", value_parser = span)]
    expires: Option<Duration>,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Args)]
pub(super) struct RevokeArgs {
    /// The prefix of a key, or all of it.
    #[arg(value_name = "PREFIX|KEY", required = true)]
    keys: Vec<String>,
    #[command(flatten)]
    folder: FolderArgs,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Those that have expired or were revoked, too.
    #[arg(long)]
    all: bool,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    folder: FolderArgs,
}

fn claim(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("a claim is NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(super) fn run(command: &KeysCommand, parts: &Parts) -> Result<(), Failure> {
    match command {
        KeysCommand::Create(args) => create(args, parts),
        KeysCommand::Revoke(args) => revoke(args, parts),
        KeysCommand::List(args) => list(args),
    }
}

fn create(args: &CreateArgs, parts: &Parts) -> Result<(), Failure> {
    let claims: Map<String, Value> =
        args.claims.iter().map(|(name, value)| (name.clone(), Value::String(value.clone()))).collect();
    if let Some((name, _)) = args.claims.iter().find(|(name, _)| repeated(&args.claims, name)) {
        return Err(Failure::Arguments(format!("--claim {name}: given more than once")));
    }
    let key = NewKey {
        name: args.name.clone(),
        owner: args.owner.clone(),
        scopes: args.scopes.clone(),
        claims,
        rate: args.rate,
        lifetime: args.expires,
    };
    let settings = args.folder.settings(Vec::new())?;
    let mut conn = maintenance_connection(&settings)?;
    let auditor = Auditor::new(&settings, parts, &mut conn)?;
    let issued = keys::create(&mut conn, &key).map_err(failure)?;
    auditor.done("keys_create", &format!("key {} of {}, {}", issued.prefix, issued.owner, key.name));
    let expires_at = issued.expires_at.as_deref();
    if args.json {
        put(&json!({
            "api_key": issued.api_key.expose(),
            "prefix": issued.prefix,
            "name": key.name,
            "owner": issued.owner,
            "scopes": key.scopes,
            "claims": key.claims,
            "rate": key.rate.map(|rate| rate.to_string()),
            "expires_at": expires_at,
        })
        .to_string());
        return Ok(());
    }
    say!("key      {}", issued.api_key.expose());
    say!("prefix   {}", issued.prefix);
    say!("name     {}", key.name);
    say!("owner    {}", issued.owner);
    say!("scopes   {}", or_dash(&key.scopes.join(" ")));
    say!("rate     {}", key.rate.map_or_else(|| "-".to_owned(), |rate| rate.to_string()));
    say!("expires  {}", expires_at.unwrap_or("never"));
    put("Keep the key now: it is not shown again.");
    Ok(())
}

fn repeated(claims: &[(String, String)], name: &str) -> bool {
    claims.iter().filter(|(other, _)| other == name).count() > 1
}

fn revoke(args: &RevokeArgs, parts: &Parts) -> Result<(), Failure> {
    let settings = args.folder.settings(Vec::new())?;
    let mut conn = maintenance_connection(&settings)?;
    let auditor = Auditor::new(&settings, parts, &mut conn)?;
    let revoked = keys::revoke(&mut conn, &args.keys).map_err(failure)?;
    let mut unknown = Vec::new();
    for (prefix, outcome) in revoked {
        match outcome {
            Revoked::Now => {
                auditor.done("keys_revoke", &format!("key {prefix}"));
                say!("revoked  {prefix}");
            }
            Revoked::Before => say!("revoked  {prefix}, before"),
            Revoked::Unknown => unknown.push(prefix),
        }
    }
    if unknown.is_empty() { Ok(()) } else { Err(Failure::Failed(format!("no such key: {}", unknown.join(", ")))) }
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let mut conn = maintenance_connection(&args.folder.settings(Vec::new())?)?;
    let keys = keys::list(&mut conn, args.all).map_err(failure)?;
    if args.json {
        put(&serde_json::to_string_pretty(&keys).map_err(Failure::new)?);
        return Ok(());
    }
    let head = ["PREFIX", "NAME", "OWNER", "SCOPES", "RATE", "CREATED", "EXPIRES", "LAST USED", "STATE"];
    table::lines(&head, keys.into_iter().map(cells)).iter().for_each(|line| put(line));
    Ok(())
}

fn cells(key: Listed) -> Vec<String> {
    let Listed { prefix, name, owner, scopes, rate, created_at, expires_at, last_used_at, state, .. } = key;
    vec![
        prefix,
        name,
        owner,
        or_dash(&scopes.join(" ")),
        rate.unwrap_or_else(|| "-".to_owned()),
        created_at,
        expires_at.unwrap_or_else(|| "never".to_owned()),
        last_used_at.unwrap_or_else(|| "never".to_owned()),
        state,
    ]
}

fn or_dash(text: &str) -> String {
    if text.is_empty() { "-".to_owned() } else { text.to_owned() }
}

fn failure(error: IssueError) -> Failure {
    match error {
        IssueError::Invalid(sentence) => Failure::Arguments(sentence),
        other => Failure::new(other),
    }
}
