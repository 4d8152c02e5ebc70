//! What the command says, and how it ends.
//!
//! Every command prints through [`Output`] and fails with [`CliError`], so that the machine-readable forms and the exit
//! codes are the same everywhere: with `--json` one object per line on standard output and one error object on standard
//! error, otherwise text for people. It refuses to lose anything silently: a line that could not be written is an error,
//! because `recv` acknowledges only what was written.

use std::io::{self, Write};
use std::process::ExitCode;

use serde::Serialize;
use serde_json::json;

/// How a command ends; the numbers are fixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done.
    Done = 0,
    /// An honest no: of this program, of a node, or of the system.
    Refused = 1,
    /// The command line, the configuration or a file given is wrong.
    Usage = 2,
    /// Something does not verify.
    Unverified = 3,
    /// Nobody answered, or not in time.
    Unreachable = 4,
    /// Another process runs on the directory.
    InUse = 5,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command failed, for programs (`code`), for people (`message`) and for whoever has to act (`fix`).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    /// A short name in kebab case that never changes.
    pub code: &'static str,
    /// What went wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub fix: String,
    /// How the process ends.
    pub exit: Exit,
}

impl CliError {
    /// An error.
    pub fn new(exit: Exit, code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> CliError {
        CliError { code, message: message.into(), fix: fix.into(), exit }
    }

    /// An honest no.
    pub fn refused(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> CliError {
        CliError::new(Exit::Refused, code, message, fix)
    }

    /// A mistake in what the command was given.
    pub fn usage(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> CliError {
        CliError::new(Exit::Usage, code, message, fix)
    }

    /// Something that does not verify.
    pub fn unverified(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> CliError {
        CliError::new(Exit::Unverified, code, message, fix)
    }

    /// No answer, or not in time.
    pub fn unreachable(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> CliError {
        CliError::new(Exit::Unreachable, code, message, fix)
    }

    /// Another process runs on the directory.
    pub fn in_use(message: impl Into<String>) -> CliError {
        CliError::new(Exit::InUse, "in-use", message, "stop the other process, or use another directory")
    }

    /// Ctrl-C.
    pub fn interrupted() -> CliError {
        CliError::new(Exit::Interrupted, "interrupted", "interrupted", "")
    }

    /// A file or directory that could not be read or written; `doing` reads after "could not".
    pub fn io(doing: impl std::fmt::Display, error: &io::Error) -> CliError {
        let message = format!("could not {doing}: {error}");
        CliError::refused("io", message, "check the path, its permissions and the free space")
    }

    /// Whoever read our standard output has left. Printed nowhere: nobody asked.
    fn output_closed() -> CliError {
        CliError::refused("output-closed", "standard output was closed", "")
    }
}

/// Where a command prints.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

impl Output {
    /// Prints JSON lines, or text for people.
    pub fn new(json: bool) -> Output {
        Output { json }
    }

    /// Whether it prints JSON lines.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints one line and flushes it: `json` as one object with `--json`, `plain` otherwise (nothing if it is empty).
    ///
    /// # Errors
    /// If the line was not written, in particular because the reader of a pipe has left.
    pub fn emit<T: Serialize + ?Sized>(&self, json: &T, plain: &str) -> Result<(), CliError> {
        self.emit_to(&mut io::stdout().lock(), json, plain)
    }

    fn emit_to<T: Serialize + ?Sized>(&self, to: &mut impl Write, json: &T, plain: &str) -> Result<(), CliError> {
        let mut line = if self.json {
            serde_json::to_string(json).map_err(|error| CliError::io("write JSON", &error.into()))?
        } else if plain.is_empty() {
            return Ok(());
        } else {
            plain.to_owned()
        };
        line.push('\n');
        to.write_all(line.as_bytes()).and_then(|()| to.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::output_closed(),
            _ => CliError::io("write to standard output", &error),
        })
    }

    /// Prints an error on standard error. What cannot be written there has nowhere else to go.
    pub fn error(&self, error: &CliError) {
        // Nobody reads the one any more; and whoever pressed Ctrl-C needs no telling, but a program does.
        let is_silent = error.code == "output-closed" || (error.exit == Exit::Interrupted && !self.json);
        if !is_silent {
            let _ = writeln!(io::stderr().lock(), "{}", self.error_text(error));
        }
    }

    fn error_text(&self, error: &CliError) -> String {
        if self.json {
            let CliError { code, message, fix, .. } = error;
            return json!({ "type": "error", "code": code, "message": message, "fix": fix }).to_string();
        }
        match error.fix.as_str() {
            "" => format!("postroad: {}", error.message),
            fix => format!("postroad: {}\n  to fix it: {fix}", error.message),
        }
    }

    /// Prints a remark for people on standard error; nothing with `--json`, where programs read.
    pub fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(io::stderr().lock(), "{text}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_line_in_either_form() {
        let mut to = Vec::new();
        Output::new(true).emit_to(&mut to, &json!({ "type": "ready" }), "is up").unwrap();
        Output::new(false).emit_to(&mut to, &json!({ "type": "ready" }), "is up").unwrap();
        Output::new(false).emit_to(&mut to, &json!({ "type": "ready" }), "").unwrap();
        assert_eq!(String::from_utf8(to).unwrap(), "{\"type\":\"ready\"}\nis up\n");
    }

    #[test]
    fn a_reader_that_left_is_an_error_and_no_panic() {
        let error = Output::new(true).emit_to(&mut Closed, &json!({}), "").unwrap_err();
        assert_eq!((error.code, error.exit), ("output-closed", Exit::Refused));
    }

    #[test]
    fn errors_name_code_message_and_fix() {
        let error = CliError::usage("bad", "it is bad", "make it good");
        assert_eq!(
            Output::new(true).error_text(&error),
            r#"{"type":"error","code":"bad","message":"it is bad","fix":"make it good"}"#
        );
        assert_eq!(Output::new(false).error_text(&error), "postroad: it is bad\n  to fix it: make it good");
    }
}
