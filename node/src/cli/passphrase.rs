//! Where a passphrase comes from: a file, the environment, or the terminal, which does not show it.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use postroad_client::{ClientError, Passphrase};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::client_side::usage;
use super::output::CliError;

const VARIABLE: &str = "POSTROAD_PASSPHRASE";
const MAX_BYTES: u64 = 4_096;

/// Where it is read from.
#[derive(Debug, clap::Args)]
pub(super) struct Source {
    /// Read the passphrase from this file; without it from POSTROAD_PASSPHRASE, or the terminal
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
}

impl Source {
    /// The passphrase. On a terminal it is asked for again if it is `new`, because nobody sees a slip.
    ///
    /// # Errors
    /// If it is empty, there is none, or the two are not the same.
    pub(super) async fn read(&self, new: bool) -> Result<Passphrase, CliError> {
        let text = match (&self.passphrase_file, std::env::var(VARIABLE)) {
            (Some(file), _) => from_file(file)?,
            (None, Ok(text)) => text,
            (None, Err(_)) if io::stdin().is_terminal() => from_terminal(new).await?,
            (None, Err(_)) => {
                let message = "there is no passphrase, and no terminal to ask for one";
                return Err(usage(message, format!("name a file with --passphrase-file, or set {VARIABLE}")));
            }
        };
        Passphrase::new(text).map_err(|error| ClientError::from(error).into())
    }
}

/// The file's text without the newline at its end.
fn from_file(path: &Path) -> Result<String, CliError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    let bytes = read.map_err(|error| CliError::io(format_args!("read {}", path.display()), &error))?;
    if bytes as u64 > MAX_BYTES {
        return Err(usage(format!("{}: a passphrase has at most {MAX_BYTES} bytes", path.display()), ""));
    }
    Ok(without_newline(text))
}

fn without_newline(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

async fn from_terminal(new: bool) -> Result<String, CliError> {
    let text = ask("Passphrase: ").await?;
    if new && !text.is_empty() && ask("The same again: ").await? != text {
        return Err(usage("the two are not the same", "try again"));
    }
    Ok(text)
}

async fn ask(question: &str) -> Result<String, CliError> {
    let failed = |error: io::Error| CliError::io("ask for the passphrase", &error);
    // Whoever catches interrupts gets its turn first: one that nobody catches would leave the terminal silent.
    tokio::task::yield_now().await;
    // Held here and not by the thread that reads: an interrupt drops it, while that thread still waits.
    let _silence = Silence::begin().map_err(failed)?;
    eprint!("{question}");
    io::stderr().flush().map_err(failed)?;
    let read = tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|_| line)
    });
    let line = read.await.map_err(io::Error::other).and_then(|line| line).map_err(failed)?;
    Ok(without_newline(line))
}

/// While it lives, the terminal does not show what is typed, but for the newline.
struct Silence(Termios);

impl Silence {
    fn begin() -> io::Result<Silence> {
        let before = tcgetattr(io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(io::stdin(), OptionalActions::Flush, &silent)?;
        Ok(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_newline_at_the_end_is_no_part_of_it() {
        let texts =
            [("a b", "a b"), ("a b\n", "a b"), ("a b\r\n", "a b"), (" a\n\n", " a\n"), ("a\r", "a\r"), ("", "")];
        for (text, passphrase) in texts {
            assert_eq!(without_newline(text.into()), passphrase);
        }
    }
}
