//! `mainstay status --watch`: the page again and again, in one place of a terminal, or one after the other.

use std::io::{IsTerminal, Write};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use chrono::Utc;
use rustix::termios::tcgetwinsize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::{Client, Failure, look, page};
use crate::cli::put;

/// To the first line and column.
const HOME: &str = "\x1b[H";
/// Forgets what stands in the rest of the line, and below it.
const TO_END_OF_LINE: &str = "\x1b[K";
const TO_END_OF_SCREEN: &str = "\x1b[J";

enum Event {
    Seen(Box<Result<Value, Failure>>),
    /// A signal, or nobody reads any more.
    End,
}

/// Looks until a signal comes.
///
/// # Errors
/// Where no thread or signal can be had, or the token is wrong. An instance that does not answer is shown as that.
pub(super) fn run(client: Client, interval: Duration, as_json: bool) -> Result<(), Failure> {
    let (send, events) = channel();
    let ended = send.clone();
    let listen = move || {
        if let Err(error) = wait_for_signal() {
            log::warn!("cannot listen for signals: {error}");
        }
        let _nobody = ended.send(Event::End);
    };
    std::thread::Builder::new().spawn(listen).map_err(Failure::new)?;
    std::thread::Builder::new().spawn(move || ask(&client, interval, &send)).map_err(Failure::new)?;
    let mut screen = Screen { in_place: !as_json && std::io::stdout().is_terminal(), is_first: true };
    for event in events {
        match event {
            Event::End => break,
            // Each further look would count as a wrong token, until nothing of this address is heard, with a right one either.
            Event::Seen(seen) if matches!(*seen, Err(Failure::Unauthorized(_))) => return seen.map(drop),
            Event::Seen(seen) if as_json => match *seen {
                Ok(status) => put(&status.to_string()),
                Err(failure) => eprintln!("mainstay: {}", failure.sentence()),
            },
            Event::Seen(seen) => {
                let mut lines = vec![Utc::now().format("%F %TZ").to_string()];
                match *seen {
                    Ok(status) => lines.extend(page::lines(&status)),
                    Err(failure) => lines.push(format!("NOT REACHED  {}", failure.sentence())),
                }
                screen.draw(&lines);
            }
        }
    }
    Ok(())
}

/// Asks until nobody listens.
fn ask(client: &Client, interval: Duration, send: &Sender<Event>) {
    while send.send(Event::Seen(Box::new(look(client)))).is_ok() {
        std::thread::sleep(interval);
    }
}

fn wait_for_signal() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        Ok(())
    })
}

struct Screen {
    in_place: bool,
    is_first: bool,
}

impl Screen {
    fn draw(&mut self, lines: &[String]) {
        if !self.in_place {
            lines.iter().for_each(|line| put(line));
            return put("");
        }
        let lines = match tcgetwinsize(std::io::stdout()) {
            Ok(size) => fitted(lines, usize::from(size.ws_col), usize::from(size.ws_row)),
            Err(_) => lines.to_vec(),
        };
        let clear = if std::mem::take(&mut self.is_first) { TO_END_OF_SCREEN } else { "" };
        let body: String = lines.iter().map(|line| format!("{line}{TO_END_OF_LINE}\n")).collect();
        let mut out = std::io::stdout().lock();
        // Whole at once, so that no half of it is seen.
        let _seen = write!(out, "{HOME}{clear}{body}{TO_END_OF_SCREEN}").and_then(|()| out.flush());
    }
}

/// What of a page fits on a terminal: each line to its width, or it would take two; and as many from the top as there is room for, or
/// what is wrong, which comes first, would be scrolled out of sight. A terminal that does not know its size is given all.
fn fitted(lines: &[String], columns: usize, rows: usize) -> Vec<String> {
    // The cursor stands below the last line.
    let room = if rows == 0 { usize::MAX } else { rows.saturating_sub(1).max(1) };
    let shown = if lines.len() > room { room.saturating_sub(1) } else { lines.len() };
    let mut fitted: Vec<String> = lines.iter().take(shown).map(|line| cut(line, columns)).collect();
    let left_out = lines.len().saturating_sub(shown);
    if left_out > 0 {
        fitted.push(cut(&format!("… {left_out} more lines"), columns));
    }
    fitted
}

fn cut(line: &str, columns: usize) -> String {
    if columns == 0 || line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars().take(columns.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_stays_in_sight_however_small_the_terminal_is() {
        let lines: Vec<String> = (0..40).map(|number| format!("{number} {}", "é".repeat(150))).collect();
        let small = fitted(&lines, 80, 24);
        assert_eq!(small.len(), 23, "below the last line stands the cursor");
        assert_eq!(small[0], format!("0 {}…", "é".repeat(77)));
        assert_eq!(small[22], "… 18 more lines");
        assert_eq!(fitted(&lines, 0, 0), lines, "what knows no size is given all");
        assert_eq!(fitted(&lines, 200, 41), lines);
        assert_eq!(fitted(&lines, 200, 40).len(), 39);
        for (columns, rows) in [(1, 1), (2, 2), (3, 1)] {
            let tiny = fitted(&lines, columns, rows);
            assert!(tiny.len() <= rows && tiny.iter().all(|line| line.chars().count() <= columns), "{tiny:?}");
        }
    }
}
