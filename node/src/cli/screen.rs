//! A table that stays in its place on a terminal.
//!
//! It is erased and written again below what the terminal has. The cursor rests below it, nothing is hidden and no mode
//! is changed, so there is nothing to restore however the process ends.

use std::io::{self, Write};

use super::output::CliError;

/// A terminal on standard output, and what was drawn on it last.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: String,
}

impl Screen {
    /// Replaces what was drawn last.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn draw(&mut self, text: &str) -> Result<(), CliError> {
        let text = fit(text, size());
        print(&format!("{}{text}", erase(&self.drawn)))?;
        self.drawn = text;
        Ok(())
    }

    /// Prints something else above it.
    ///
    /// # Errors
    /// If nobody reads the output any more.
    pub(super) fn aside(&mut self, other: impl FnOnce() -> Result<(), CliError>) -> Result<(), CliError> {
        print(&erase(&self.drawn))?;
        other()?;
        print(&self.drawn)
    }
}

fn print(text: &str) -> Result<(), CliError> {
    let mut to = io::stdout().lock();
    let written = to.write_all(text.as_bytes()).and_then(|()| to.flush());
    written.map_err(|error| CliError::io("write to the terminal", &error))
}

/// The terminal's columns and lines.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(io::stdout()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (usize::from(size.ws_col), usize::from(size.ws_row)),
        _ => (80, 24),
    }
}

/// The lines that fit, each ended, none wrapped: their number is what is erased later.
fn fit(text: &str, (columns, lines): (usize, usize)) -> String {
    // The cursor has the last line.
    let whole = text.lines().take(lines.saturating_sub(1).max(1));
    whole.map(|line| line.chars().take(columns).chain(['\n']).collect::<String>()).collect()
}

/// Up by so many lines, and clear from there on (ECMA-48: CUU, ED).
fn erase(drawn: &str) -> String {
    match drawn.lines().count() {
        0 => String::new(),
        lines => format!("\r\x1b[{lines}A\x1b[J"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_fits_and_is_erased_whole() {
        let text = "a long line\nanother\nthird\nfourth";
        assert_eq!(fit(text, (6, 4)), "a long\nanothe\nthird\n");
        assert_eq!(fit(text, (80, 1)), "a long line\n");
        assert_eq!(erase(&fit(text, (6, 4))), "\r\x1b[3A\x1b[J");
        assert_eq!(erase(""), "");
    }
}
