//! `mainstay probe`: how long an edge and its regions take to answer, and who answers.

mod connection;
mod report;
mod run;
mod tally;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hyper::header::{HeaderName, HeaderValue};
use reqwest::Url;

use super::admin::print_json;
use super::progress::Shown;
use super::{Failure, span};
use report::Report;

/// The cacheable paths of the reference application.
const PATHS: [&str; 5] =
    ["/public/rates", "/public/rates?base=USD&symbols=EUR,GBP", "/public/currencies", "/public/fees", "/public/docs"];

pub(super) const HELP: &str = "\
Each path is asked once to begin with, which is shown by itself (`first`), and then --requests times, over one kept connection to each
region, one request after the other; regions are asked side by side. A time is from the request to the last byte of its answer.
Connecting and TLS are measured apart and are in none of the other figures. HTTP/1.1 is spoken.

  cdn      what X-Cache, CF-Cache-Status, or the Cache-Status of a cache before Mainstay says
  origin   what the Cache-Status of Mainstay says, as the CDN has kept it
  layer    who answered: the CDN where it had a hit, else what Mainstay names: L1, L2, replica, primary, …

Examples:
  mainstay probe https://api.example.com
  mainstay probe https://api.example.com --region us-east-1=198.51.100.7 --region eu-west-1=203.0.113.9
  mainstay probe http://127.0.0.1:8080 --path '/public/rates?base=USD' --requests 200 --target-ms 5

Exit codes:
  0   every region's average is at most --target-ms, and every request was answered with a 2xx
  1   an average is above it, or a request failed
  2   the arguments are wrong
  64  --ca-file cannot be used, and the message says why";

/// What a region is called, and where the name of a URL is reached for it.
#[derive(Clone)]
struct Region {
    name: String,
    ip: IpAddr,
    port: Option<u16>,
}

#[derive(Args)]
pub(super) struct ProbeArgs {
    /// Where an edge or an origin is: scheme, name and port.
    #[arg(required = true, value_name = "URL", value_parser = base)]
    urls: Vec<Url>,
    /// Reach the URL's name at this address, and call that a region; the name stays in Host and in TLS. Can be repeated;
    /// without it the name is looked up.
    #[arg(long = "region", value_name = "NAME=IP[:PORT]", value_parser = region)]
    regions: Vec<Region>,
    /// A path to ask for, with its query. Can be repeated; default: the cacheable paths of the reference application.
    #[arg(long = "path", value_name = "PATH", value_parser = path)]
    paths: Vec<String>,
    /// Requests for each path that count.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    requests: u32,
    /// The highest average that is well, over all paths of a region, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 30.0, value_parser = target)]
    target_ms: f64,
    /// How long connecting may take, and how long a request may.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = timeout)]
    timeout: Duration,
    /// A header of every request, `Name: value`. Can be repeated.
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Certificates to trust in place of the system's, as PEM.
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// One region of one URL.
struct Target {
    name: String,
    url: Url,
    /// Where it is reached; none: where the name leads.
    address: Option<SocketAddr>,
}

fn base(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{error}; it is to be like https://api.example.com"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("it is to begin with http:// or https:// and a name".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("it has a path; --path says what to ask for".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it has a user in it; --header sends credentials".to_owned());
    }
    Ok(url)
}

fn region(text: &str) -> Result<Region, String> {
    let (name, address) = text.split_once('=').ok_or("it is to be like eu-west-1=203.0.113.9")?;
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
        return Err("a region's name has letters, digits, and - _ . between them".to_owned());
    }
    let named = |ip, port| Ok(Region { name: name.to_owned(), ip, port });
    if let Ok(ip) = address.parse() {
        return named(ip, None);
    }
    match address.parse::<SocketAddr>() {
        Ok(address) => named(address.ip(), Some(address.port())),
        Err(_) => Err(format!("{address} is no address such as 203.0.113.9, 203.0.113.9:8443 or [2001:db8::1]:8443")),
    }
}

fn path(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    match text.starts_with('/') && is_plain {
        true => Ok(text.to_owned()),
        false => Err("a path begins with /, and has no spaces and no #".to_owned()),
    }
}

fn target(text: &str) -> Result<f64, String> {
    let is_time = |ms: &f64| ms.is_finite() && *ms > 0.0;
    text.parse().ok().filter(is_time).ok_or_else(|| "it is to be a number of milliseconds above 0".to_owned())
}

fn timeout(text: &str) -> Result<Duration, String> {
    let time = span(text)?;
    match time.is_zero() || time > Duration::from_secs(600) {
        true => Err("it is to be above 0 and at most 10 minutes".to_owned()),
        false => Ok(time),
    }
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || "it is to be like 'X-Name: value'".to_owned();
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let mut value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    value.set_sensitive(true);
    Ok((name.trim().parse().map_err(|_| wrong())?, value))
}

impl ProbeArgs {
    /// Every region of every URL.
    fn targets(&self) -> Vec<Target> {
        let several = self.urls.len() > 1;
        let mut targets = Vec::new();
        for url in &self.urls {
            let port = url.port_or_known_default().unwrap_or(443);
            let place = match url.port() {
                Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
                None => url.host_str().unwrap_or_default().to_owned(),
            };
            for Region { name, ip, port: own } in &self.regions {
                let name = if several { format!("{name} of {place}") } else { name.clone() };
                let address = Some(SocketAddr::new(*ip, own.unwrap_or(port)));
                targets.push(Target { name, url: url.clone(), address });
            }
            if self.regions.is_empty() {
                targets.push(Target { name: place, url: url.clone(), address: None });
            }
        }
        targets
    }

    fn paths(&self) -> Vec<String> {
        if self.paths.is_empty() { PATHS.map(str::to_owned).to_vec() } else { self.paths.clone() }
    }
}

pub(super) fn run(args: &ProbeArgs) -> Result<(), Failure> {
    let tallies = run::run(args)?;
    let report = Report::new(args.target_ms, args.requests, &tallies);
    if args.json {
        print_json(&report.json())?;
    } else {
        report.print();
    }
    match report.verdict() {
        None => Ok(()),
        Some(sentence) => Err(Failure::Failed(sentence)),
    }
}
