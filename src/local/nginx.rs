//! nginx in the place of a CDN with an origin group: what the first origin does not answer, the second one is asked.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::Recipe;
use super::server::Server;
use super::{LocalError, Result, ServerUser, binaries, status_of, with_port};

/// Where nginx answers by itself, so that one can tell that it is there. Its port is part of it: another may be on this machine.
const READY_PATH: &str = "/.nginx-ready-";

/// How nginx is run.
#[derive(Clone, Debug, Default)]
pub struct NginxOptions {
    /// The directory for its configuration, log and cache.
    pub dir: PathBuf,
    /// The loopback port that viewers use, or 0 for a free one.
    pub port: u16,
    /// The origin that is asked first, as `host:port`.
    pub primary: String,
    /// The one that is asked where that answers 500, 502, 503 or 504, or not at all.
    pub secondary: String,
    /// Whether it keeps answers for as long as their `Cache-Control` allows.
    pub cache: bool,
    /// How long the first origin may take to answer before the second one is asked.
    pub response_timeout: Duration,
    /// What it proves itself with to origins that ask for `X-Origin-Verify`; empty: nothing.
    pub origin_secret: String,
}

/// An nginx that runs on this machine until it is dropped.
pub struct Nginx {
    /// The process: start, stop, suspend, kill, log.
    pub server: Server,
}

impl Nginx {
    /// Where it is installed.
    ///
    /// # Errors
    /// [`LocalError::NginxMissing`] where it is not.
    pub fn program() -> Result<PathBuf> {
        binaries::nginx().ok_or(LocalError::NginxMissing)
    }

    /// Starts nginx.
    pub fn start(options: &NginxOptions) -> Result<Self> {
        let program = Self::program()?;
        let user = ServerUser::detect()?;
        let dir = user.directory(&options.dir)?;
        with_port(options.port, |port| {
            let file = dir.join("nginx.conf");
            fs::write(&file, configuration(&dir, port, options)).map_err(LocalError::io("write", &file))?;
            user.give(&file)?;
            let [dir_text, file_text] = [&dir, &file].map(|path| path.display().to_string());
            let args = ["-p", &dir_text, "-c", &file_text, "-e", "stderr"].map(str::to_owned).to_vec();
            let recipe = Recipe { user, program: program.clone(), args, env: Vec::new(), stop_signals: "TERM" };
            let ready = format!("{READY_PATH}{port}");
            let is_ready =
                Box::new(move |_| status_of(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &ready) == Some(204));
            Ok(Self { server: Server::launch("nginx", port, dir.join("server.log"), recipe, is_ready)? })
        })
    }

    /// The URL that viewers use.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port())
    }
}

/// What CloudFront does with an origin group, in nginx's words. The time to connect is the least that CloudFront can be set to.
fn configuration(dir: &Path, port: u16, options: &NginxOptions) -> String {
    let NginxOptions { primary, secondary, cache, response_timeout, origin_secret, .. } = options;
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        // Writing to a string cannot fail.
        let _ = writeln!(temporary, "    {kind}_temp_path temp_{kind};");
    }
    let (mut keep, mut prove) = (String::new(), String::new());
    if *cache {
        temporary.push_str("    proxy_cache_path cache keys_zone=edge:8m max_size=256m inactive=1h;\n");
        keep = "proxy_cache edge;\n            proxy_cache_key $request_method$request_uri;\n            \
                proxy_cache_lock on;\n            add_header X-Cache $upstream_cache_status always;"
            .to_owned();
    }
    if !origin_secret.is_empty() {
        prove = format!("proxy_set_header X-Origin-Verify \"{origin_secret}\";");
    }
    format!(
        r#"# Made anew at each start.
daemon off;
worker_processes 1;
pid {dir}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    server_tokens off;
{temporary}
    upstream primary {{ server {primary} max_fails=0; keepalive 64; }}
    upstream secondary {{ server {secondary} max_fails=0; keepalive 64; }}
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $host;
    {prove}
    proxy_connect_timeout 1s;
    proxy_read_timeout {response_timeout_ms}ms;
    # A connection that the origin has just given up is no failure of the origin.
    proxy_next_upstream error;

    server {{
        listen 127.0.0.1:{port};
        location = {READY_PATH}{port} {{ return 204; }}
        location / {{
            # Who may have changed something is not asked twice.
            error_page 418 = @primary;
            if ($request_method !~ ^(GET|HEAD|OPTIONS)$) {{ return 418; }}
            error_page 500 502 503 504 = @secondary;
            proxy_intercept_errors on;
            {keep}
            proxy_pass http://primary;
        }}
        location @primary {{ proxy_pass http://primary; }}
        location @secondary {{
            # There is nobody else to ask.
            proxy_read_timeout 30s;
            {keep}
            proxy_pass http://secondary;
        }}
    }}
}}
"#,
        dir = dir.display(),
        response_timeout_ms = response_timeout.as_millis(),
    )
}
