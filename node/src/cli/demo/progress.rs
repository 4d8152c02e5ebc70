//! What a person sees while a demo works: bars on a terminal, a few plain lines elsewhere, nothing where programs read.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::output::Output;

/// Two counts on their way to their totals.
pub struct Progress {
    bars: Option<(MultiProgress, ProgressBar, ProgressBar)>,
    output: Output,
    total: u64,
    said_percent: u64,
}

impl Progress {
    /// Nothing done yet, of `ordered` messages that are `received` times received.
    pub fn new(output: &Output, ordered: u64, received: u64) -> Progress {
        let draws = !output.is_json() && std::io::stderr().is_terminal();
        let bars = draws.then(|| {
            let all = MultiProgress::new();
            let bar = |title: &'static str, total: u64| {
                let template = "{prefix:>9} {bar:40} {pos:>6} of {len} {elapsed:>4}";
                let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = all.add(ProgressBar::new(total)).with_style(style).with_prefix(title);
                bar.enable_steady_tick(Duration::from_millis(200));
                bar
            };
            let (first, second) = (bar("ordered", ordered), bar("received", received));
            (all, first, second)
        });
        Progress { bars, output: *output, total: ordered, said_percent: 0 }
    }

    /// How far it has come.
    pub fn set(&mut self, ordered: u64, received: u64) {
        if let Some((_, first, second)) = &self.bars {
            first.set_position(ordered);
            second.set_position(received);
            return;
        }
        let percent = ordered * 100 / self.total.max(1);
        if percent >= self.said_percent + 25 {
            self.said_percent = percent - percent % 25;
            self.output.note(&format!("{percent} % ordered: {ordered} messages, {received} received"));
        }
    }

    /// Prints something else without tearing the bars.
    pub fn aside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bars {
            Some((all, ..)) => all.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((all, first, second)) = &self.bars {
            first.finish_and_clear();
            second.finish_and_clear();
            let _ = all.clear();
        }
    }
}
