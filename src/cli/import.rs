//! `mainstay import rates FILE`: loads a file of reference rates, and shows how far it is.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use diesel::connection::LoadConnection;
use diesel::pg::Pg;

use super::progress::{Progress, Shown};
use super::{Failure, FolderArgs, maintenance_connection};
use crate::ramp::import::{self, ImportError, Report};

#[derive(Subcommand)]
pub(super) enum ImportCommand {
    /// Load a file of euro reference rates as the European Central Bank publishes it: CSV, packed with gzip or not; - is
    /// standard input, not packed. All of it or nothing is loaded, and loading it again changes nothing.
    Rates {
        /// The file, like data/eurofxref-hist.csv.gz.
        file: PathBuf,
        #[command(flatten)]
        folder: FolderArgs,
    },
}

pub(super) fn run(command: &ImportCommand) -> Result<(), Failure> {
    let ImportCommand::Rates { file, folder } = command;
    let settings = folder.settings(Vec::new())?;
    let input: Box<dyn Read> = if file == Path::new("-") {
        Box::new(io::stdin())
    } else {
        import::open(file).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?
    };
    let mut conn = maintenance_connection(&settings)?;
    let report = rates(&mut *conn, input).map_err(|error| Failure::new(format!("{}: {error}", file.display())))?;
    say!("{}", sentence(&report));
    Ok(())
}

/// Imports a file of rates and shows how far it is.
///
/// # Errors
/// Those of [`import::rates`]; their text is complete, and the command ends with a failure.
pub(super) fn rates<C>(conn: &mut C, file: impl Read) -> Result<Report, ImportError>
where
    C: LoadConnection<Backend = Pg>,
{
    let progress = Progress::of(Some(0), "rates", Shown::Shown);
    import::rates(conn, file, |loaded, total| {
        progress.set_total(u64::try_from(total).unwrap_or(u64::MAX));
        progress.set(u64::try_from(loaded).unwrap_or(u64::MAX));
    })
}

/// What an import did, in one sentence.
pub(super) fn sentence(report: &Report) -> String {
    let Report { fixings, currencies, rates, changed } = report;
    format!("{rates} rates of {currencies} currencies on {fixings} days: {changed} changed")
}
