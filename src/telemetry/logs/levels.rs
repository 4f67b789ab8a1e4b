//! Which lines are written: a level for each module, which may be changed while the process runs.

use std::str::FromStr;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use log::{LevelFilter, Metadata};

/// Bytes of a filter: whoever needs more wants another default.
const FILTER_BYTES_MAX: usize = 1024;
/// What these libraries say is not written at any level: the frames that they send, the password of the login among them, the values
/// that statements are run with, and each failure once more, which is said sparingly here.
const UNHEARD: [&str; 6] =
    ["lapin", "amq_protocol", "amq_protocol_tcp", "tcp_stream", "tokio_postgres", "tracing::span"];

/// What operators did, and who tried to be one. Whoever covers up what he did, or is only tired of the log, must not be able to switch
/// that off: it is written whatever a filter says.
const AUDIT: &str = "mainstay::audit";
/// The least urgent level at which it is.
const AUDIT_LEVEL: LevelFilter = LevelFilter::Info;

/// A level for each module, as in `RUST_LOG`: `info,mainstay=debug,mainstay::cache=trace`. The longest name that fits decides;
/// what no name fits, and no level without a name, is not written. `mainstay::audit` alone is above that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    text: String,
    /// The longest names first; an empty one fits all.
    rules: Vec<(String, LevelFilter)>,
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() > FILTER_BYTES_MAX {
            return Err(format!("is longer than {FILTER_BYTES_MAX} bytes"));
        }
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let mut rules = parts.map(rule).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() {
            return Err("names no level; \"off\" writes nothing".to_owned());
        }
        rules.sort_by(|(one, _), (other, _)| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        let mut next_to_each_other = rules.iter().zip(rules.iter().skip(1));
        if let Some(((twice, _), _)) = next_to_each_other.find(|((one, _), (next, _))| one == next) {
            return Err(format!("says two levels for {:?}", if twice.is_empty() { "all else" } else { twice }));
        }
        Ok(Self { text: text.to_owned(), rules })
    }
}

/// Reads `level`, or `module=level`. A module alone is refused: it may be a level with a slip of the pen in it, which would
/// switch off all else.
fn rule(part: &str) -> Result<(String, LevelFilter), String> {
    let (name, level) = part.split_once('=').unwrap_or(("", part));
    let (name, level) = (name.trim(), level.trim());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"_:-".contains(&byte);
    match level.parse() {
        Ok(parsed) if name.bytes().all(is_name) && (part.contains('=') != name.is_empty()) => {
            Ok((name.to_owned(), parsed))
        }
        Ok(_) => Err(format!("{name:?} is no module")),
        Err(_) => Err(format!("{level:?} is no level; off, error, warn, info, debug and trace are")),
    }
}

impl Filter {
    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn allows(&self, metadata: &Metadata<'_>) -> bool {
        let (target, level) = (metadata.target(), metadata.level());
        if target == AUDIT && level <= AUDIT_LEVEL {
            return true;
        }
        let rule = self.rules.iter().find(|(name, _)| is_below(target, name));
        rule.is_some_and(|(_, allowed)| level <= *allowed) && !UNHEARD.iter().any(|name| is_below(target, name))
    }

    /// The most verbose level that is let through, at least the audit log's. Lines below it then cost one comparison where they are written: libraries
    /// trace on every request, and asking the filter each time took a twelfth of a cache hit.
    fn most_verbose(&self) -> LevelFilter {
        self.rules.iter().map(|(_, level)| *level).fold(AUDIT_LEVEL, std::cmp::max)
    }
}

/// Whether a target is a module, or inside it.
fn is_below(target: &str, module: &str) -> bool {
    let rest = target.strip_prefix(module);
    module.is_empty() || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What is in force.
#[derive(Debug)]
pub struct InForce {
    /// The filter.
    pub filter: Filter,
    /// The one that the configuration names, to which it comes back.
    pub configured: Filter,
    /// When it comes back by itself; none where it does not.
    pub until: Option<SystemTime>,
}

/// The filter in force.
pub struct Levels(ArcSwap<InForce>);

impl Levels {
    /// Nothing is written until [`Levels::configure`].
    pub(super) fn off() -> Self {
        let filter = Filter { text: "off".to_owned(), rules: Vec::new() };
        Self(ArcSwap::from_pointee(InForce { filter: filter.clone(), configured: filter, until: None }))
    }

    pub(super) fn allow(&self, metadata: &Metadata<'_>) -> bool {
        self.0.load().filter.allows(metadata)
    }

    pub(super) fn configure(&self, filter: Filter) {
        self.put(InForce { filter: filter.clone(), configured: filter, until: None });
    }

    /// What is in force.
    pub fn in_force(&self) -> Arc<InForce> {
        self.0.load_full()
    }

    /// Puts a filter in force, and says what is in force now. Whoever names a time sees to it that [`Levels::end`] is called.
    pub fn change(&self, filter: Filter, until: Option<SystemTime>) -> Arc<InForce> {
        self.put(InForce { filter, configured: self.0.load().configured.clone(), until })
    }

    /// Comes back to the configured filter.
    pub fn reset(&self) -> Arc<InForce> {
        let configured = self.0.load().configured.clone();
        self.change(configured, None)
    }

    /// Comes back to the configured filter, where nobody has changed it since; says whether that is so.
    pub fn end(&self, change: &Arc<InForce>) -> bool {
        let is_last = Arc::ptr_eq(&self.0.load(), change);
        if is_last {
            self.reset();
        }
        is_last
    }

    fn put(&self, in_force: InForce) -> Arc<InForce> {
        let (in_force, most_verbose) = (Arc::new(in_force), LevelFilter::Trace);
        // In this order no line is lost in between that either of the two would have written.
        log::set_max_level(most_verbose);
        self.0.store(Arc::clone(&in_force));
        log::set_max_level(in_force.filter.most_verbose());
        in_force
    }
}

#[cfg(test)]
mod tests {
    use log::Level;

    use super::*;

    fn allows(filter: &str, target: &str, level: Level) -> bool {
        let metadata = Metadata::builder().target(target).level(level).build();
        filter.parse::<Filter>().unwrap().allows(&metadata)
    }

    #[test]
    fn the_longest_name_that_fits_decides() {
        let filter = "mainstay=info, warn,mainstay::cache = trace,mainstay::cache::bus=off";
        let cases = [
            ("mainstay", Level::Info, true),
            ("mainstay", Level::Debug, false),
            ("mainstay::http", Level::Info, true),
            ("mainstay::cache::key", Level::Trace, true),
            ("mainstay::cache::bus", Level::Error, false),
            ("mainstay::cache::business", Level::Trace, true),
            ("mainstayed", Level::Info, false),
            ("actix", Level::Warn, true),
            ("actix", Level::Info, false),
        ];
        for (target, level, expected) in cases {
            assert_eq!(allows(filter, target, level), expected, "{target} {level}");
        }
        assert!(!allows("mainstay=trace", "actix", Level::Error), "what no name fits is not written");
    }

    #[test]
    fn no_filter_silences_the_audit_log() {
        for filter in ["off", "error", "mainstay=off", "mainstay::audit=off", "info,mainstay::audit=error"] {
            for level in [Level::Error, Level::Warn, Level::Info] {
                assert!(allows(filter, AUDIT, level), "{filter} {level}");
            }
            let most_verbose = filter.parse::<Filter>().unwrap().most_verbose();
            assert!(most_verbose >= LevelFilter::Info, "{filter}: lines are dropped where they are written");
        }
        assert!(
            !allows("off", "mainstay::auditor", Level::Error) && !allows("off", "mainstay::audit::x", Level::Error)
        );
        assert!(!allows("info", AUDIT, Level::Debug) && allows("debug", AUDIT, Level::Debug));
    }

    #[test]
    fn libraries_that_say_what_they_send_are_not_heard() {
        let targets = [
            "lapin::channel",
            "amq_protocol::frame",
            "tokio_postgres::query",
            "tracing::span",
            "tracing::span::active",
        ];
        for target in targets {
            assert!(!allows("trace", target, Level::Error), "{target}");
            assert!(!allows("trace,lapin=trace,tokio_postgres=trace", target, Level::Trace), "{target}");
        }
    }

    #[test]
    fn the_most_verbose_level_of_a_filter_counts() {
        let cases = [
            ("info", LevelFilter::Info),
            ("info,mainstay=debug", LevelFilter::Debug),
            ("warn, mainstay = trace", LevelFilter::Trace),
            ("off", LevelFilter::Info),
            ("OFF,mainstay=INFO", LevelFilter::Info),
        ];
        for (filter, expected) in cases {
            assert_eq!(filter.parse::<Filter>().unwrap().most_verbose(), expected, "{filter:?}");
        }
    }

    #[test]
    fn what_is_no_filter_is_refused_by_name() {
        let long = "a".repeat(FILTER_BYTES_MAX) + "=info";
        let cases = [
            ("", "names no level"),
            ("loud", "\"loud\" is no level"),
            ("mainstay", "\"mainstay\" is no level"),
            ("mainstay=", "\"\" is no level"),
            ("=info", "\"\" is no module"),
            ("a=b=info", "\"b=info\" is no level"),
            ("a b=info", "\"a b\" is no module"),
            ("info,debug", "two levels for \"all else\""),
            ("a=info,b=info,info,a=debug", "two levels for \"a\""),
            (long.as_str(), "longer than 1024 bytes"),
        ];
        for (filter, expected) in cases {
            let error = filter.parse::<Filter>().unwrap_err();
            assert!(error.contains(expected), "{filter:?}: {error}");
        }
    }

    #[test]
    fn a_change_ends_unless_another_one_came_after_it() {
        let filter = |text: &str| text.parse::<Filter>().unwrap();
        let levels = Levels::off();
        levels.configure(filter("info"));
        let first = levels.change(filter("debug"), Some(SystemTime::now()));
        let second = levels.change(filter("trace"), None);
        assert!(!levels.end(&first), "it is not in force any more");
        assert_eq!(levels.in_force().filter.text(), "trace");
        assert!(levels.end(&second));
        let after = levels.in_force();
        assert_eq!((after.filter.text(), after.until), ("info", None));
    }
}
