//! TLS to Postgres: rustls with the ring provider, and the certificate checks of libpq's modes.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio_postgres::tls::TlsConnect;

use super::target::TlsMode;
use super::wire::{Begin, Tap, Watched};

/// The client configuration of a mode.
///
/// # Errors
/// What is wrong with the roots, in a sentence.
pub fn client_config(mode: TlsMode, roots_file: Option<&Path>) -> Result<ClientConfig, String> {
    let provider = Arc::new(ring::default_provider());
    let lax = |trusted| Arc::new(Lax { provider: provider.clone(), trusted });
    let verifier: Arc<dyn ServerCertVerifier> = match (mode, roots_file) {
        (TlsMode::Disable | TlsMode::Prefer, _) | (TlsMode::Require, None) => lax(None),
        (TlsMode::Require | TlsMode::VerifyCa, _) => lax(Some(webpki(roots_file, &provider)?)),
        (TlsMode::VerifyFull, _) => webpki(roots_file, &provider)?,
    };
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// A configuration that trusts nobody, for clients without `https`: to read the system's roots takes its time.
///
/// # Errors
/// That TLS cannot be set up.
pub fn no_roots() -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be set up: {error}"))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn webpki(roots_file: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Arc<WebPkiServerVerifier>, String> {
    let roots = match roots_file {
        Some(file) => roots_of(file)?,
        None => native_roots(),
    };
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|error| format!("the roots for TLS cannot be used: {error}"))
}

fn roots_of(file: &Path) -> Result<RootCertStore, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("cannot read roots from {}: {error}", file.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        roots.add(certificate).map_err(|error| unreadable(&error))?;
    }
    Ok(roots)
}

/// The system's roots; those that cannot be parsed are left out, as every TLS client does.
fn native_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
}

/// The laxer modes. `prefer` and `require`: encrypted, with whom stays unknown. `verify-ca`: a trusted certificate of any name.
#[derive(Debug)]
struct Lax {
    provider: Arc<CryptoProvider>,
    /// Who is trusted, where it is looked at.
    trusted: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Lax {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(trusted) = &self.trusted else { return Ok(ServerCertVerified::assertion()) };
        match trusted.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // rustls looks at the name last, so that this error alone says that all else was right.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Another connector's TLS, with the tap on the decrypted side.
pub struct Tapped<T> {
    /// The connector.
    pub inner: T,
    /// Where SQLSTATEs go.
    pub tap: Arc<Tap>,
}

impl<S, T> TlsConnect<S> for Tapped<T>
where
    T: TlsConnect<S>,
    T::Future: Unpin,
    T::Stream: Unpin,
{
    type Stream = Watched<T::Stream>;
    type Error = T::Error;
    type Future = TappedFuture<T::Future>;

    fn connect(self, stream: S) -> Self::Future {
        TappedFuture { inner: self.inner.connect(stream), tap: self.tap }
    }
}

/// The handshake of [`Tapped`].
pub struct TappedFuture<F> {
    inner: F,
    tap: Arc<Tap>,
}

impl<F: Future<Output = Result<S, E>> + Unpin, S, E> Future for TappedFuture<F> {
    type Output = Result<Watched<S>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let stream = ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(stream.map(|stream| Watched::new(stream, self.tap.clone(), Begin::AtOnce)))
    }
}
