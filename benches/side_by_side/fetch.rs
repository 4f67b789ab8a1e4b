//! One request at a time, to learn what a server answers and to check that all answer alike.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Outcome;

/// A response: what the bare server is told to say, and what every peer must say, too.
#[derive(Clone, Deserialize, Serialize)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    pub fn get(url: &str, headers: &[(&str, &str)]) -> Outcome<Self> {
        Self::ask("GET", url, headers, "")
    }

    pub fn post(url: &str, headers: &[(&str, &str)], body: &str) -> Outcome<Self> {
        Self::ask("POST", url, headers, body)
    }

    fn ask(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Outcome<Self> {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .build();
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let agent = config.new_agent();
        let response = match body {
            "" => agent.run(request.body(())?),
            body => agent.run(request.body(body)?),
        };
        let mut response = response.map_err(|error| format!("{method} {url}: {error}"))?;
        let mut headers = Vec::new();
        for (name, value) in response.headers() {
            headers.push((name.to_string(), value.to_str()?.to_owned()));
        }
        Ok(Self { status: response.status().as_u16(), headers, body: response.body_mut().read_to_string()? })
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Without the headers that every HTTP server writes for itself.
    pub fn to_copy(&self) -> Self {
        let own = ["date", "content-length", "connection", "transfer-encoding"];
        let mut copy = self.clone();
        copy.headers.retain(|(name, _)| !own.contains(&name.as_str()));
        copy
    }

    /// Without `Age`, as from an origin that made the answer just now.
    pub fn to_new(&self) -> Self {
        let mut new = self.clone();
        new.headers.retain(|(name, _)| name != "age");
        new
    }

    /// Refuses an answer whose status, body or headers differ from the original's; more headers are allowed.
    pub fn must_repeat(&self, original: &Self) -> Outcome<()> {
        if self.status != original.status || self.body != original.body {
            return Err(format!("answers differently: status {}, {} bytes", self.status, self.body.len()).into());
        }
        for (name, value) in &original.headers {
            // Every cache counts `Age` by its own clock.
            let is_there = |(key, own): &(String, String)| key == name && (own == value || key == "age");
            if !self.headers.iter().any(is_there) {
                return Err(format!("answers {name}: {:?} instead of {value:?}", self.header(name)).into());
            }
        }
        Ok(())
    }
}
