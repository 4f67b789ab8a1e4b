//! What a command has changed of who may do what, past any instance: a line in the audit log, as an instance writes one for a purge.

use super::Failure;
use super::check::role_of;
use crate::app::Parts;
use crate::config::settings::Settings;
use crate::database::maintenance::MaintenanceConnection;
use crate::telemetry::logs::{self, Guard};

/// Characters of a text that a line quotes.
const QUOTED_CHARS_MAX: usize = 200;

/// Writes to the audit log, in the name of whoever runs the command.
pub(super) struct Auditor {
    _lines_get_out: Guard,
    /// The role that the database knows them as.
    role: String,
    /// The user that this machine knows them as. A name of theirs in the environment could be anyone's.
    uid: u32,
}

impl Auditor {
    /// One that is there before anything is changed, so that what is wrong with the settings of the log stops the command before that.
    pub(super) fn new(settings: &Settings, parts: &Parts, conn: &mut MaintenanceConnection) -> Result<Self, Failure> {
        let version = parts.version.as_deref().unwrap_or(env!("CARGO_PKG_VERSION"));
        let _lines_get_out = logs::start_audit(settings, version)?;
        Ok(Self { _lines_get_out, role: role_of(conn)?, uid: rustix::process::getuid().as_raw() })
    }

    /// Writes down what was done. A key is named by its prefix; no text may hold a secret.
    pub(super) fn done(&self, action: &str, what: &str) {
        let what: String = what.escape_debug().take(QUOTED_CHARS_MAX).collect();
        log::info!(
            target: "mainstay::audit",
            role = self.role.as_str(), uid = self.uid, action, what:% = what, result = "done";
            "{action} {what}: done"
        );
    }
}
