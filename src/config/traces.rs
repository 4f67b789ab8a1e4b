//! Which requests are traced, and where their traces go.

use serde::{Deserialize, Serialize};

use super::ConfigError;
use super::units::{Secret, Span};

/// How upstreams are told of a trace in the headers of Zipkin, beside `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum B3 {
    /// Not at all.
    Off,
    /// In the one header `b3`.
    Single,
    /// In several, `X-B3-…`.
    Multi,
}

/// `[traces]`
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml documents every key beside its default")]
pub struct TraceSettings {
    pub endpoint: String,
    pub headers: Secret,
    pub tls_ca_file: String,
    pub service_name: String,
    pub sample_ratio: f64,
    pub slow: Span,
    pub traces_per_second_max: u32,
    pub b3: B3,
    pub export_interval: Span,
    pub timeout: Span,
    pub attempts_max: u32,
    pub queue_spans_max: usize,
}

impl TraceSettings {
    /// Whether anything is traced.
    pub fn is_set(&self) -> bool {
        !self.endpoint.is_empty()
    }

    /// Where traces are sent.
    pub fn url(&self) -> String {
        format!("{}/v1/traces", self.endpoint.trim_end_matches('/'))
    }

    /// What goes with each export, as names and values: the form is that of `OTEL_EXPORTER_OTLP_HEADERS`.
    ///
    /// # Errors
    /// A sentence on the member that is none. It does not show it, for it may be a secret.
    pub fn header_pairs(&self) -> Result<Vec<(String, String)>, ConfigError> {
        let members = self.headers.list();
        let pair = |(index, member): (usize, &Secret)| {
            let pair = member.expose().split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            let (name, value) = pair.filter(|(name, _)| !name.is_empty()).ok_or_else(|| {
                let number = index + 1;
                ConfigError::new(format!("traces.headers: member {number} is not like \"name=value\""))
            })?;
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            Ok((name.to_ascii_lowercase(), value))
        };
        members.iter().enumerate().map(pair).collect()
    }

    /// Whether traces can be made and sent with these.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let fail = |sentence: &str| Err(ConfigError::new(sentence));
        if !self.is_set() {
            return Ok(());
        }
        if !self.endpoint.starts_with("https://") && !self.endpoint.starts_with("http://") {
            return fail("traces.endpoint: a URL for OTLP over HTTP, like \"http://collector:4318\"");
        }
        if !(0.0..=1.0).contains(&self.sample_ratio) {
            return fail("traces.sample_ratio: a number from 0 to 1");
        }
        if self.service_name.is_empty() {
            return fail("traces.service_name: must not be empty");
        }
        let positive = [
            ("traces.traces_per_second_max", self.traces_per_second_max == 0),
            ("traces.attempts_max", self.attempts_max == 0),
            ("traces.queue_spans_max", self.queue_spans_max == 0),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, is_zero)| *is_zero) {
            return Err(ConfigError::new(format!("{key}: must be at least 1")));
        }
        let spans = [
            ("traces.slow", self.slow),
            ("traces.export_interval", self.export_interval),
            ("traces.timeout", self.timeout),
        ];
        if let Some((key, _)) = spans.into_iter().find(|(_, span)| span.0.is_zero()) {
            return Err(ConfigError::new(format!("{key}: must be longer than zero")));
        }
        self.header_pairs().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_the_standard_writes_them_and_never_shown() {
        let settings = |headers: &str| TraceSettings {
            endpoint: "http://127.0.0.1:4318/".to_owned(),
            headers: Secret::new(headers),
            tls_ca_file: String::new(),
            service_name: "mainstay".to_owned(),
            sample_ratio: 0.01,
            slow: Span(std::time::Duration::from_secs(1)),
            traces_per_second_max: 1,
            b3: B3::Off,
            export_interval: Span(std::time::Duration::from_secs(1)),
            timeout: Span(std::time::Duration::from_secs(1)),
            attempts_max: 1,
            queue_spans_max: 1,
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(settings("").header_pairs().unwrap(), []);
        let pairs = settings("Authorization=Basic%20abc=, x-tenant = 7").header_pairs().unwrap();
        assert_eq!(pairs, [pair("authorization", "Basic abc="), pair("x-tenant", "7")]);
        let error = settings("a=b,hunter2").check().unwrap_err().to_string();
        assert!(error.contains("member 2") && !error.contains("hunter2"), "{error}");
        assert!(!format!("{:?}", settings("a=hunter2")).contains("hunter2"));
        assert_eq!(settings("").url(), "http://127.0.0.1:4318/v1/traces");
    }
}
