//! The one call that is made of CloudFront's API: `CreateInvalidation`, signed by Signature Version 4.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use reqwest::{Client, RequestBuilder};
use tokio::time::timeout;

use super::credentials::Source;
use crate::config::ConfigError;
use crate::config::edge::EdgeSettings;
use crate::database::target::TlsMode;
use crate::database::tls;
use crate::outgoing::{self, reason};

/// Paths of one call. CloudFront works on 15 with a `*` at a time, and refuses a call with more for good.
pub const PATHS_MAX: usize = 15;
/// The version of the API, and of its documents.
const API: &str = "2020-05-31";
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 256 * 1024;
/// What CloudFront says where the same call may succeed later, beside any 5xx and 429.
const PASSING: [&str; 4] =
    ["TooManyInvalidationsInProgress", "Throttling", "ThrottlingException", "RequestLimitExceeded"];

/// Why the edge was not told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refused {
    /// In a sentence without secrets.
    pub sentence: String,
    /// Whether the same call may succeed later.
    pub is_passing: bool,
}

impl Refused {
    pub(super) fn passing(sentence: String) -> Self {
        Self { sentence, is_passing: true }
    }

    fn for_good(sentence: String) -> Self {
        Self { sentence, is_passing: false }
    }
}

/// CloudFront's API, for one distribution.
pub struct CloudFront {
    url: String,
    signing_region: String,
    timeout: Duration,
    credentials: Source,
    client: Client,
}

impl CloudFront {
    /// The API as it is configured.
    ///
    /// # Errors
    /// A sentence that names the setting.
    pub fn new(settings: &EdgeSettings) -> Result<Self, ConfigError> {
        let has_tls =
            settings.endpoint.starts_with("https://") || settings.container_credentials_url.starts_with("https://");
        let tls = if has_tls { tls::client_config(TlsMode::VerifyFull, None) } else { tls::no_roots() };
        let tls = tls.map_err(|why| ConfigError::new(format!("edge.endpoint: {why}")))?;
        // A call every few seconds at most: a connection that stays open for it is more trouble than a new one.
        let client = outgoing::client(tls)
            .pool_max_idle_per_host(0)
            .user_agent(concat!("mainstay/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            url: format!(
                "{}/{API}/distribution/{}/invalidation",
                settings.endpoint, settings.cloudfront_distribution_id
            ),
            signing_region: settings.signing_region.clone(),
            timeout: settings.timeout.0,
            credentials: Source::new(settings),
            client: client.map_err(|error| ConfigError::new(format!("edge.endpoint: {}", reason(error))))?,
        })
    }

    /// Tells the distribution to forget paths. The same reference names the same batch: CloudFront does it once, however often it is told.
    ///
    /// # Errors
    /// Where it does not take it within `edge.timeout`.
    pub async fn invalidate(&self, reference: &str, paths: &[String]) -> Result<(), Refused> {
        let late = |_| Err(Refused::passing("no answer within edge.timeout".to_owned()));
        timeout(self.timeout, self.call(reference, paths)).await.unwrap_or_else(late)
    }

    async fn call(&self, reference: &str, paths: &[String]) -> Result<(), Refused> {
        let body = document(reference, paths);
        let credentials = self.credentials.current(&self.client).await?;
        let identity = credentials.into();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.signing_region)
            .name("cloudfront")
            .time(SystemTime::now())
            .settings(SigningSettings::default())
            .build();
        let unsigned = |error: &dyn std::fmt::Display| Refused::for_good(format!("the call cannot be signed: {error}"));
        let params = params.map_err(|error| unsigned(&error))?.into();
        let content_type = ("content-type", "text/xml");
        let signable = SignableRequest::new(
            "POST",
            self.url.as_str(),
            std::iter::once(content_type),
            SignableBody::Bytes(body.as_bytes()),
        );
        let signed = signable.and_then(|signable| sign(signable, &params)).map_err(|error| unsigned(&error))?;
        let (instructions, _) = signed.into_parts();
        let mut request = self.client.post(&self.url).header(content_type.0, content_type.1);
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        let (status, answer) = read(request.body(body), ANSWER_BYTES_MAX).await?;
        outcome(status, &answer)
    }
}

/// Sends a request and reads its answer.
pub(super) async fn read(request: RequestBuilder, bytes_max: usize) -> Result<(u16, Vec<u8>), Refused> {
    let broken = |error| Refused::passing(reason(error));
    let mut response = request.send().await.map_err(broken)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(broken)? {
        if bytes.len() + chunk.len() > bytes_max {
            return Err(Refused::for_good(format!("the answer is longer than {bytes_max} bytes")));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((response.status().as_u16(), bytes))
}

fn outcome(status: u16, answer: &[u8]) -> Result<(), Refused> {
    if (200..300).contains(&status) {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer);
    let member = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        Some(rest.split_once('<')?.0.chars().take(200).collect::<String>())
    };
    let code = member("Code").unwrap_or_default();
    let sentence = format!("HTTP {status} {code}: {}", member("Message").unwrap_or_default());
    let is_passing = status >= 500 || status == 429 || PASSING.contains(&code.as_str());
    Err(Refused { sentence, is_passing })
}

fn document(reference: &str, paths: &[String]) -> String {
    let mut items = String::new();
    for path in paths {
        // Writing to a string cannot fail.
        let _ = write!(items, "<Path>{}</Path>", escaped(path));
    }
    format!(
        "<InvalidationBatch xmlns=\"http://cloudfront.amazonaws.com/doc/{API}/\"><Paths><Quantity>{}</Quantity>\
         <Items>{items}</Items></Paths><CallerReference>{}</CallerReference></InvalidationBatch>",
        paths.len(),
        escaped(reference),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_now_is_told_from_what_is_refused_for_good() {
        let error = |code: &str| {
            format!("<ErrorResponse><Error><Code>{code}</Code><Message>why</Message></Error></ErrorResponse>")
        };
        for (status, code, is_passing) in [
            (400, "TooManyInvalidationsInProgress", true),
            (400, "Throttling", true),
            (429, "", true),
            (503, "", true),
            (500, "InternalError", true),
            (400, "InvalidArgument", false),
            (403, "SignatureDoesNotMatch", false),
            (404, "NoSuchDistribution", false),
        ] {
            let refused = outcome(status, error(code).as_bytes()).unwrap_err();
            assert_eq!((refused.is_passing, refused.sentence), (is_passing, format!("HTTP {status} {code}: why")));
        }
        assert_eq!(outcome(201, b""), Ok(()));
        assert!(outcome(400, b"<Code>").is_err(), "what is no document is no reason to fail otherwise");
    }

    #[test]
    fn paths_cannot_end_their_element() {
        let text = document("a&b", &["/x</Path>*".to_owned()]);
        assert!(text.contains("<Quantity>1</Quantity><Items><Path>/x&lt;/Path&gt;*</Path></Items>"), "{text}");
        assert!(text.ends_with("<CallerReference>a&amp;b</CallerReference></InvalidationBatch>"), "{text}");
    }
}
