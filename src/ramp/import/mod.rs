//! `mainstay import rates`: the European Central Bank's history of reference rates into `exchange_rates`.
//!
//! The file is read and checked as a whole before the database is touched, and loaded in one transaction: a file with a bad row
//! changes nothing. Loading it again changes nothing either. Rates that a file does not mention stay as they are.

mod sheet;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use diesel::connection::LoadConnection;
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, Date, Text};
use flate2::bufread::MultiGzDecoder;

pub use sheet::Problem;
use sheet::{Quote, Sheet};

use super::EURO;
use super::schema::currencies;

/// The rates from 1999-01-04 to 2026-10-30, packed. Source: European Central Bank.
const BUNDLED: &[u8] = include_bytes!("../../../data/eurofxref-hist.csv.gz");
/// Rates that one statement carries: few round trips, and still a progress to show.
const BATCH: usize = 10_000;

/// Loads a batch, and touches only what differs: an unchanged row would cost WAL, and purge caches for nothing (even an
/// update that a `WHERE` holds back locks its row, which is written). Texts are compared because the digits count: 1.10 is
/// published otherwise than 1.1. The conflict clause is for another import at the same time.
const UPSERT: &str = "\
    INSERT INTO exchange_rates (date, base, currency, rate) \
    SELECT file.date, $1, file.currency, file.rate::numeric \
    FROM unnest($2, $3, $4) AS file (date, currency, rate) \
    LEFT JOIN exchange_rates known \
    ON known.base = $1 AND known.date = file.date AND known.currency = file.currency \
    WHERE known.rate::text IS DISTINCT FROM file.rate \
    ON CONFLICT (base, date, currency) DO UPDATE SET rate = excluded.rate";

/// What an import found and did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// Days with a fixing in the file.
    pub fixings: usize,
    /// Currencies that the file quotes.
    pub currencies: usize,
    /// Rates in the file.
    pub rates: usize,
    /// Rates that were new to the database, or different there.
    pub changed: usize,
}

/// Why nothing was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be opened, read or unpacked.
    #[error("the file cannot be read: {0}")]
    Read(#[from] std::io::Error),
    /// The file says what cannot be loaded.
    #[error("nothing was imported:{}", sheet::list(.0))]
    Invalid(Vec<Problem>),
    /// The database refused.
    #[error("nothing was imported, because the database failed: {0}")]
    Database(#[from] diesel::result::Error),
}

/// A file of rates, unpacked on the way where it is packed with gzip, whatever its name.
///
/// # Errors
/// [`ImportError::Read`].
pub fn open(path: &Path) -> Result<Box<dyn Read>, ImportError> {
    let mut file = BufReader::new(File::open(path)?);
    let packed = file.fill_buf()?.starts_with(&[0x1f, 0x8b]);
    Ok(if packed { Box::new(MultiGzDecoder::new(file)) } else { Box::new(file) })
}

/// The rates that come with the binary, so that a first start needs no other file.
pub fn bundled() -> impl Read {
    MultiGzDecoder::new(BUNDLED)
}

/// Imports a file in the form of the European Central Bank: a line of currencies, then a line a day. `progress` is told how many
/// rates are loaded, and of how many.
///
/// # Errors
/// With any error the database is as it was.
pub fn rates<C>(conn: &mut C, file: impl Read, mut progress: impl FnMut(usize, usize)) -> Result<Report, ImportError>
where
    C: LoadConnection<Backend = Pg>,
{
    let known: Vec<String> = currencies::table.filter(currencies::code.ne(EURO)).select(currencies::code).load(conn)?;
    let sheet = Sheet::read(file, &known)?;
    let total = sheet.quotes.len();
    let changed = conn.transaction(|conn| {
        let mut changed = 0;
        let mut loaded = 0;
        for batch in sheet.quotes.chunks(BATCH) {
            changed += upsert(conn, batch)?;
            loaded += batch.len();
            progress(loaded, total);
        }
        Ok::<_, diesel::result::Error>(changed)
    })?;
    Ok(Report { fixings: sheet.fixings, currencies: sheet.currencies, rates: total, changed })
}

/// Loads one batch and says how many rows it changed.
fn upsert<C>(conn: &mut C, batch: &[Quote]) -> QueryResult<usize>
where
    C: LoadConnection<Backend = Pg>,
{
    let dates: Vec<_> = batch.iter().map(|quote| quote.date).collect();
    let codes: Vec<_> = batch.iter().map(|quote| &*quote.currency).collect();
    let rates: Vec<_> = batch.iter().map(|quote| quote.rate.to_string()).collect();
    diesel::sql_query(UPSERT)
        .bind::<Text, _>(EURO)
        .bind::<Array<Date>, _>(dates)
        .bind::<Array<Text>, _>(codes)
        .bind::<Array<Text>, _>(rates)
        .execute(conn)
}
