//! A database URL, taken apart: what tokio-postgres is told, and how far TLS goes.
//!
//! tokio-postgres knows `sslmode` up to `require`. The stricter modes of libpq are what managed Postgres services print in
//! their URLs, so they are understood here and taken out before its parser sees them.

use std::path::PathBuf;
use std::sync::Arc;

use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode};

/// How far TLS goes, with the names and the meaning of libpq.
///
/// <https://www.postgresql.org/docs/current/libpq-ssl.html#LIBPQ-SSL-PROTECTION>
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS where the server has it, without a look at the certificate. `allow` is read as this.
    Prefer,
    /// TLS or nothing. As with libpq, the certificate is not looked at, unless roots are configured: then as `verify-ca`.
    Require,
    /// TLS, and the certificate descends from a root that we trust.
    VerifyCa,
    /// TLS, a trusted certificate, and it names the host.
    VerifyFull,
}

/// A parsed URL.
#[derive(Clone)]
pub struct Target {
    /// For tokio-postgres; carries the password.
    pub config: Config,
    /// How far TLS goes.
    pub tls: TlsMode,
    /// `sslrootcert` of the URL.
    pub roots_file: Option<PathBuf>,
    /// `host:port`, of the first host where there are several.
    pub endpoint: String,
    /// `host:port/database`: all that logs and errors may say of a URL.
    pub label: Arc<str>,
}

impl Target {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// What is wrong with it, in words that repeat nothing of it but the names of its options.
    pub fn parse(url: &str) -> Result<Self, String> {
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err("not a URL like postgres://user:password@host:5432/database".to_owned());
        }
        let (mut tls, mut roots_file, mut kept) = (TlsMode::Prefer, None, Vec::new());
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        for option in query.split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("sslmode", mode)) => tls = tls_mode(mode)?,
                Some(("sslrootcert", "system")) => tls = TlsMode::VerifyFull,
                Some(("sslrootcert", file)) => {
                    let file = percent_encoding::percent_decode_str(file).decode_utf8_lossy();
                    roots_file = Some(PathBuf::from(file.into_owned()));
                }
                _ => kept.push(option),
            }
        }
        let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
        let mut config: Config = format!("{base}{query}").parse().map_err(|error| reason(&error))?;
        if config.get_hosts().is_empty() {
            return Err("it names no host".to_owned());
        }
        config.ssl_mode(match tls {
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        });
        let endpoint = endpoint(&config);
        let label = format!("{endpoint}/{}", config.get_dbname().or(config.get_user()).unwrap_or_default()).into();
        Ok(Self { config, tls, roots_file, endpoint, label })
    }

    /// The hosts to try, in order, each with its port.
    pub fn hosts(&self) -> impl Iterator<Item = (&Host, u16)> {
        self.config.get_hosts().iter().enumerate().map(|(index, host)| (host, port(&self.config, index)))
    }
}

fn tls_mode(text: &str) -> Result<TlsMode, String> {
    match text {
        "disable" => Ok(TlsMode::Disable),
        "allow" | "prefer" => Ok(TlsMode::Prefer),
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        _ => Err("sslmode is none of disable, allow, prefer, require, verify-ca, verify-full".to_owned()),
    }
}

/// One port serves all hosts; else there is one for each.
fn port(config: &Config, index: usize) -> u16 {
    let ports = config.get_ports();
    ports.get(index).or_else(|| ports.first()).copied().unwrap_or(5432)
}

fn endpoint(config: &Config) -> String {
    let host = match config.get_hosts().first() {
        Some(Host::Tcp(host)) if host.contains(':') => format!("[{host}]"),
        Some(Host::Tcp(host)) => host.clone(),
        Some(Host::Unix(path)) => path.display().to_string(),
        None => String::new(),
    };
    format!("{host}:{}", port(config, 0))
}

/// The parser's own words name the option. Some of its causes quote values, so only what is known not to is passed on.
fn reason(error: &tokio_postgres::Error) -> String {
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match cause.strip_prefix("unknown option ").or_else(|| cause.strip_prefix("invalid value for option ")) {
        Some(option) if option.chars().all(|c| c.is_ascii_alphanumeric() || "_`".contains(c)) => {
            format!("its option {option} is unknown or has no valid value")
        }
        _ => "not a URL like postgres://user:password@host:5432/database".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_modes_of_libpq_are_understood() {
        for (mode, tls) in [
            ("?sslmode=disable", TlsMode::Disable),
            ("?sslmode=allow", TlsMode::Prefer),
            ("", TlsMode::Prefer),
            ("?sslmode=require", TlsMode::Require),
            ("?connect_timeout=3&sslmode=verify-ca", TlsMode::VerifyCa),
            ("?sslmode=verify-full&application_name=x", TlsMode::VerifyFull),
            ("?sslrootcert=system", TlsMode::VerifyFull),
        ] {
            assert_eq!(Target::parse(&format!("postgres://u:p@db/app{mode}")).unwrap().tls, tls, "{mode}");
        }
        let target =
            Target::parse("postgresql://u@db.example:6000/app?sslmode=verify-ca&sslrootcert=/a%20b.pem").unwrap();
        assert_eq!(target.roots_file, Some(PathBuf::from("/a b.pem")));
        assert_eq!(&*target.label, "db.example:6000/app");
        assert_eq!(Target::parse("postgres://u@[::1]/app").unwrap().endpoint, "[::1]:5432");
    }

    #[test]
    fn neither_errors_nor_labels_repeat_the_secret() {
        for url in [
            "hunter2",
            "postgres://u:hunter2@",
            "postgres://u:hunter2@db:port/app",
            "postgres://u:hunter2@db/app?sslmode=hunter2",
            "postgres://u:hunter2@db/app?hunter=hunter2",
            "postgres://u:hunter2@db/app?connect_timeout=hunter2",
        ] {
            let Err(error) = Target::parse(url) else { panic!("{url} was accepted") };
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(!Target::parse("postgres://u:hunter2@db/app").unwrap().label.contains("hunter2"));
    }
}
