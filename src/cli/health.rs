//! `mainstay health`: the health check of a container, whose image has no shell and no curl.

use std::time::Duration;

use clap::{Args, ValueEnum};
use reqwest::{Client, StatusCode};

use super::{Failure, FolderArgs};
use crate::config::settings::ServerSettings;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing::reason;

pub(super) const HELP: &str = "\
Asks /health/live of BIND_ADDR, or what is named, with the same settings as the server. It needs no token.
Exit code 1: not answered within two seconds, or not with a 200.

Examples:
  mainstay health
  mainstay health ready";

/// Below what orchestrators give a check by default; the answer takes microseconds.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct HealthArgs {
    #[command(flatten)]
    folder: FolderArgs,
    /// What is asked: whether it answers at all, may receive traffic, or should be sent any by DNS.
    #[arg(value_enum, default_value_t = Question::Live)]
    question: Question,
}

#[derive(Clone, Copy, ValueEnum)]
enum Question {
    Live,
    Ready,
    Edge,
}

impl Question {
    fn path(self) -> &'static str {
        match self {
            Self::Live => "/health/live",
            Self::Ready => "/health/ready",
            Self::Edge => "/health/edge",
        }
    }
}

pub(super) fn run(args: &HealthArgs) -> Result<(), Failure> {
    let settings = args.folder.settings(Vec::new())?;
    let url = url(&settings.server, args.question);
    match actix_rt::System::new().block_on(status(&url)) {
        Ok(StatusCode::OK) => Ok(()),
        Ok(status) => Err(Failure::Failed(format!("{url} answers {}", status.as_u16()))),
        Err(reason) => Err(Failure::Failed(format!("{url}: {reason}"))),
    }
}

/// Where this machine reaches its own public listener.
fn url(server: &ServerSettings, question: Question) -> String {
    let address = super::reached_at(server.bind_addr);
    let scheme = if server.tls_cert_file.is_empty() { "http" } else { "https" };
    format!("{scheme}://{address}{}", question.path())
}

async fn status(url: &str) -> Result<StatusCode, String> {
    // Its certificate is for the name that clients use, not for loopback: what is asked here is whether it answers.
    let tls = tls::client_config(TlsMode::Require, None)?;
    let client = Client::builder().tls_backend_preconfigured(tls).timeout(TIMEOUT).no_proxy().build();
    let answer = client.map_err(reason)?.get(url).send().await.map_err(reason)?;
    Ok(answer.status())
}
