//! Who has signed in with a browser. Sessions live in this process alone: they end when it does, and with it whatever ADMIN_TOKEN was.

use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderMap, HeaderName, HeaderValue};
use parking_lot::Mutex;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::error::{Code, Error};
use crate::http::headers::CONSOLE_COOKIE;

/// A session that nothing is asked with for so long is over. An open page asks.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60 * 60);
/// However much is asked with it, it is over after this time.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Sessions at once. One more takes the place of the one that was idle for longest.
const SESSIONS_MAX: usize = 64;
/// Bytes of an id, and of what a page shows to prove that it is ours.
const SECRET_BYTES: usize = 32;

/// What a page sends with whatever changes something. Another site's page can neither read it nor send the header.
pub(super) const CSRF_HEADER: HeaderName = HeaderName::from_static("x-csrf-token");

/// The sessions.
pub(in crate::admin) struct Sessions {
    kept: Mutex<Vec<Session>>,
    /// The name of the cookie. Cookies know no ports: instances on one machine would sign each other out if it were the same.
    cookie: String,
    random: SystemRandom,
}

/// By what a session is known: the hash of its id. Whoever reads memory or a log gets no id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) struct SessionKey([u8; 32]);

#[derive(Clone)]
struct Session {
    key: SessionKey,
    csrf: String,
    /// Who signed in, as the audit log knows them.
    token: String,
    began: Instant,
    used: Instant,
}

/// What is told of a session.
pub(in crate::admin) struct Shown {
    pub(in crate::admin) key: SessionKey,
    pub(in crate::admin) csrf: String,
    pub(in crate::admin) token: String,
    pub(in crate::admin) left: Duration,
}

impl Session {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.used) >= IDLE_TIME_MAX || self.left(now).is_zero()
    }

    fn left(&self, now: Instant) -> Duration {
        LIFETIME.saturating_sub(now.saturating_duration_since(self.began))
    }

    fn shown(&self, now: Instant) -> Shown {
        Shown { key: self.key, csrf: self.csrf.clone(), token: self.token.clone(), left: self.left(now) }
    }
}

impl Sessions {
    pub(in crate::admin) fn new() -> Self {
        let cookie = format!("{CONSOLE_COOKIE}{:08x}", fastrand::u32(..));
        Self { kept: Mutex::default(), cookie, random: SystemRandom::new() }
    }

    /// Begins a session of who has shown a token, and returns it with its `Set-Cookie`.
    ///
    /// # Errors
    /// `internal` where the system has no random bytes.
    pub(super) fn begin(&self, token: &str, is_tls: bool, now: Instant) -> Result<(Shown, HeaderValue), Error> {
        let (id, csrf) = (self.secret()?, self.secret()?);
        let session = Session { key: key(id.as_bytes()), csrf, token: token.to_owned(), began: now, used: now };
        let shown = session.shown(now);
        let mut kept = self.kept.lock();
        kept.retain(|session| !session.is_over(now));
        if kept.len() >= SESSIONS_MAX
            && let Some(idle) = kept.iter().enumerate().min_by_key(|(_, session)| session.used).map(|(index, _)| index)
        {
            kept.swap_remove(idle);
        }
        kept.push(session);
        drop(kept);
        Ok((shown, self.set_cookie(&id, LIFETIME.as_secs(), is_tls)?))
    }

    /// Ends a session, and returns the `Set-Cookie` that makes the browser forget it.
    ///
    /// # Errors
    /// None in practice: the name of the cookie is a header's value.
    pub(super) fn end(&self, key: SessionKey, is_tls: bool) -> Result<HeaderValue, Error> {
        self.kept.lock().retain(|session| session.key != key);
        self.set_cookie("", 0, is_tls)
    }

    /// The session of a request; nothing where it names none that lives.
    pub(in crate::admin) fn of(&self, headers: &HeaderMap, now: Instant) -> Option<Shown> {
        let key = key(self.id(headers)?);
        let mut kept = self.kept.lock();
        let session = kept.iter_mut().find(|session| session.key == key && !session.is_over(now))?;
        session.used = now;
        Some(session.shown(now))
    }

    /// Whether a request names a session, whether or not it lives.
    pub(in crate::admin) fn is_named(&self, headers: &HeaderMap) -> bool {
        self.id(headers).is_some()
    }

    /// Whether a session lives. To ask is to use it: somebody has the page open.
    pub(super) fn lives(&self, key: SessionKey, now: Instant) -> bool {
        let mut kept = self.kept.lock();
        let session = kept.iter_mut().find(|session| session.key == key && !session.is_over(now));
        session.map(|session| session.used = now).is_some()
    }

    fn id<'a>(&self, headers: &'a HeaderMap) -> Option<&'a [u8]> {
        let lines = headers.get_all(header::COOKIE).filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.find(|(name, _)| *name == self.cookie).map(|(_, id)| id.as_bytes())
    }

    /// No script reads it, and no other site's page sends it. `__Host-` and `Secure` everywhere would be stricter, and would keep out whoever
    /// reaches the listener over plain http by another name than localhost.
    fn set_cookie(&self, id: &str, seconds: u64, is_tls: bool) -> Result<HeaderValue, Error> {
        let (name, secure) = (&self.cookie, if is_tls { "; Secure" } else { "" });
        HeaderValue::from_str(&format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}"))
            .map_err(|error| Error::new(Code::Internal, format!("the cookie cannot be set: {error}")))
    }

    fn secret(&self) -> Result<String, Error> {
        let mut bytes = [0; SECRET_BYTES];
        let no_random = |_| Error::new(Code::Internal, "the system has no random bytes");
        self.random.fill(&mut bytes).map_err(no_random)?;
        Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
    }
}

impl Shown {
    /// Whether the page that sends a request is ours.
    pub(in crate::admin) fn has_sent(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF_HEADER).map(HeaderValue::as_bytes).unwrap_or_default();
        given.ct_eq(self.csrf.as_bytes()).into()
    }
}

fn key(id: &[u8]) -> SessionKey {
    SessionKey(Sha256::digest(id).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(set_cookie: &HeaderValue) -> HeaderMap {
        let pair = set_cookie.to_str().unwrap().split(';').next().unwrap().to_owned();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::from_str(&format!("other=1; {pair}")).unwrap());
        headers
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_however_busy_it_is() {
        let (sessions, start) = (Sessions::new(), Instant::now());
        let (_, idle) = sessions.begin("a", false, start).unwrap();
        let (shown, busy) = sessions.begin("b", false, start).unwrap();
        let (idle, busy) = (headers(&idle), headers(&busy));
        assert!(sessions.of(&idle, start + IDLE_TIME_MAX / 2).is_some());
        let mut now = start;
        while now + IDLE_TIME_MAX / 2 < start + LIFETIME {
            now += IDLE_TIME_MAX / 2;
            assert!(sessions.lives(shown.key, now));
        }
        assert!(sessions.of(&idle, now).is_none());
        assert_eq!(sessions.of(&busy, now).unwrap().token, "b");
        assert!(sessions.of(&busy, start + LIFETIME).is_none());
    }

    #[test]
    fn who_signs_out_is_out_and_nobody_else() {
        let (sessions, now) = (Sessions::new(), Instant::now());
        let (one, cookie) = sessions.begin("a", false, now).unwrap();
        let (_, other) = sessions.begin("a", false, now).unwrap();
        let forgotten = sessions.end(one.key, false).unwrap();
        assert!(forgotten.to_str().unwrap().contains("=; Path=/; Max-Age=0; "));
        assert!(sessions.of(&headers(&cookie), now).is_none() && sessions.of(&headers(&other), now).is_some());
    }

    #[test]
    fn sessions_without_end_take_the_place_of_the_idle() {
        let (sessions, start) = (Sessions::new(), Instant::now());
        let (first, _) = sessions.begin("a", false, start).unwrap();
        let (second, _) = sessions.begin("a", false, start).unwrap();
        for second_later in 1..=u64::try_from(SESSIONS_MAX).unwrap() - 1 {
            let now = start + Duration::from_secs(second_later);
            assert!(sessions.lives(first.key, now));
            sessions.begin("a", false, now).unwrap();
        }
        assert_eq!(sessions.kept.lock().len(), SESSIONS_MAX);
        assert!(sessions.lives(first.key, start) && !sessions.lives(second.key, start));
    }

    #[test]
    fn the_cookie_is_for_this_site_and_no_script() {
        let sessions = Sessions::new();
        let (shown, cookie) = sessions.begin("a", true, Instant::now()).unwrap();
        let cookie = cookie.to_str().unwrap();
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Strict; Secure"), "{cookie}");
        let mut headers = HeaderMap::new();
        assert!(!shown.has_sent(&headers));
        headers.insert(CSRF_HEADER, HeaderValue::from_static("0"));
        assert!(!shown.has_sent(&headers));
        headers.insert(CSRF_HEADER, HeaderValue::from_str(&shown.csrf).unwrap());
        assert!(shown.has_sent(&headers));
    }
}
