//! Processes of this same executable, and how they end with the one that started them.
//!
//! A child's standard input is a pipe: when it ends, this process is gone, whatever killed it, and
//! the child ends as well. Children get their own process group, so that a Ctrl-C in the terminal reaches only this
//! process, which then stops them in order.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{self, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::output::CliError;

/// A process that this one started.
#[derive(Debug)]
pub struct Child {
    /// What it is called in messages.
    pub name: String,
    /// Its process id, also after its end.
    pub pid: u32,
    /// Where its standard error goes.
    pub log: PathBuf,
    process: process::Child,
    /// Until [`Child::forward`] takes it.
    lines: Option<Lines<BufReader<ChildStdout>>>,
    /// Held open as long as this process lives.
    input: Option<ChildStdin>,
}

/// What a child that is followed says: its place, and an object, or `None` when it has closed its output.
pub type Said = (usize, Option<serde_json::Value>);

impl Child {
    /// Starts this executable with `args`, JSON on its standard output, and its standard error appended to `log`.
    ///
    /// # Errors
    /// If the log cannot be opened or the process not be started.
    pub fn spawn(name: &str, args: &[&std::ffi::OsStr], log: &Path) -> Result<Child, CliError> {
        let failed = |error: &io::Error| CliError::io(format_args!("start {name}"), error);
        let stderr = OpenOptions::new()
            .append(true)
            .create(true)
            .open(log)
            .map_err(|error| CliError::io(format_args!("open {}", log.display()), &error))?;
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        // What configures one node is not meant for all of them; logging is.
        for (key, _) in std::env::vars_os() {
            let is_logging = key == "POSTROAD_LOG" || key == "POSTROAD_LOG_FORMAT";
            if key.as_encoded_bytes().starts_with(b"POSTROAD_") && !is_logging {
                command.env_remove(key);
            }
        }
        let mut process = command
            .arg("--json")
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(&error))?;
        let pid = process.id().ok_or_else(|| failed(&io::ErrorKind::NotFound.into()))?;
        let input = process.stdin.take();
        let stdout = process.stdout.take().ok_or_else(|| failed(&io::ErrorKind::BrokenPipe.into()))?;
        let lines = Some(BufReader::new(stdout).lines());
        Ok(Child { name: name.to_owned(), pid, log: log.to_owned(), process, lines, input })
    }

    /// Writes one object on its standard input. A child that has ended is noticed elsewhere.
    pub async fn tell(&mut self, value: &serde_json::Value) {
        if let Some(input) = &mut self.input {
            let _ = input.write_all(format!("{value}\n").as_bytes()).await;
            let _ = input.flush().await;
        }
    }

    /// Sends everything that it prints to a channel, from a task of its own.
    pub fn forward(&mut self, place: usize, to: mpsc::Sender<Said>) {
        let Some(mut lines) = self.lines.take() else { return };
        tokio::spawn(async move {
            loop {
                let value = next_object(&mut lines).await;
                let closed = value.is_none();
                if to.send((place, value)).await.is_err() || closed {
                    return;
                }
            }
        });
    }

    /// Waits until it prints an object of this `type`.
    ///
    /// # Errors
    /// If it ends first; the error quotes the end of its log.
    pub async fn expect(&mut self, kind: &str) -> Result<serde_json::Value, CliError> {
        if let Some(lines) = &mut self.lines {
            while let Some(value) = next_object(lines).await {
                if value["type"] == kind {
                    return Ok(value);
                }
            }
        }
        let status = self.ended().await.map_err(|error| CliError::io(format_args!("watch {}", self.name), &error))?;
        Err(self.failure(status))
    }

    /// Waits for its end. Cancelling loses nothing.
    ///
    /// # Errors
    /// If the system does not tell.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.process.wait().await
    }

    /// What its unexpected end looks like.
    pub fn failure(&self, status: ExitStatus) -> CliError {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(5)..].join("\n    ");
        let message = format!("{} (pid {}) ended: {status}\n    {last}", self.name, self.pid);
        CliError::refused("child-ended", message, format!("see {}", self.log.display()))
    }

    /// Whether it has not ended, as far as this process knows.
    pub fn runs(&self) -> bool {
        self.process.id().is_some()
    }

    /// Sends it a signal, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = self.process.id() {
            send_signal(pid, signal);
        }
    }
}

async fn next_object(lines: &mut Lines<BufReader<ChildStdout>>) -> Option<serde_json::Value> {
    loop {
        let line = lines.next_line().await.ok()??;
        if let Ok(value) = serde_json::from_str(&line) {
            return Some(value);
        }
    }
}

/// Sends a signal to a process. That it is gone already is no error.
pub fn send_signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// Stops all children: SIGTERM, and SIGKILL for those that are still there after `grace` or when `hurry` ends.
pub async fn stop_all(children: &mut [Child], grace: Duration, hurry: impl Future<Output = ()>) {
    for child in children.iter().filter(|child| child.runs()) {
        child.signal(Signal::TERM);
    }
    let all_ended = async {
        for child in children.iter_mut() {
            let _ = child.ended().await;
        }
    };
    tokio::select! {
        () = all_ended => return,
        () = tokio::time::sleep(grace) => {}
        () = hurry => {}
    }
    for child in children.iter_mut() {
        if child.runs() {
            child.signal(Signal::KILL);
            let _ = child.ended().await;
        }
    }
}

/// Waits for the next child that ends: its place, and how it ended. For ever, if none runs.
pub async fn next_end(children: &mut [Child]) -> (usize, io::Result<ExitStatus>) {
    let ends: Vec<_> = children
        .iter_mut()
        .enumerate()
        .filter(|(_, child)| child.runs())
        .map(|(place, child)| Box::pin(async move { (place, child.ended().await) }))
        .collect();
    match ends.is_empty() {
        true => std::future::pending().await,
        false => futures::future::select_all(ends).await.0,
    }
}
