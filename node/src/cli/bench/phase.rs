//! All clients together at one rate: warm-up, the time that is measured, and the wait for what is under way.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use postroad_client::Endpoint;
use serde::Serialize;
use tokio::task::JoinSet;

use super::client::{Client, Got, Results, Stage};
use super::usage::Usage;
use super::{Args, Sign};
use crate::cli::output::CliError;

/// How long nothing may arrive, after a phase, before what is under way counts as missing.
const STANDSTILL: Duration = Duration::from_secs(10);
/// How often the wait for what is under way looks.
const LOOK: Duration = Duration::from_millis(5);
/// How much more than expected is signed ahead for a rate that is not known.
const AHEAD: f64 = 1.5;

/// How fast is sent.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// As fast as deliveries come: a fixed number of bundles is under way.
    Closed,
    /// So many messages per second, whatever comes back.
    Open(f64),
}

/// What was measured at one rate.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// max, half, low or rate.
    pub load: &'static str,
    /// Messages per second that were to be sent; none where the loop is closed.
    pub offered: Option<f64>,
    /// Messages per second that senders were told are accepted (or ordered at once).
    pub accepted: f64,
    /// Messages per second that senders were told are ordered.
    pub ordered: f64,
    /// Messages per second that all their recipients had.
    pub delivered: f64,
    /// The same counted once for each recipient.
    pub deliveries: f64,
    /// From the time at which a message was to be sent until a recipient had it.
    pub latency: Latency,
    /// Messages sent in the phase, warm-up included.
    pub sent: u64,
    /// Deliveries that never came.
    pub missing: u64,
    /// Deliveries beyond the first to one recipient.
    pub duplicate: u64,
    /// Deliveries that are not what was sent.
    pub wrong: u64,
    /// Bundles that a node was too busy for, and that came again.
    pub busy: u64,
    /// Bundles that were signed as they were sent.
    pub signed_live: u64,
    /// CPU of all nodes per message, microseconds.
    pub node_cpu_us: f64,
    /// CPU of the nodes' core threads per message, microseconds.
    pub core_cpu_us: f64,
    /// CPU of the clients per message, microseconds.
    pub client_cpu_us: f64,
    /// How much of one CPU the busiest possible core thread used: all core threads' time over the time measured.
    pub core_busy: f64,
    /// CPUs that processes other than nodes and clients kept busy.
    pub other_cpus: f64,
    /// Bytes of disk that the nodes' directories grew by, per message.
    pub disk_bytes: f64,
    /// Bytes that the nodes wrote to storage, per message.
    pub written_bytes: f64,
    /// Bytes over the loopback interface per message, with all overhead; other processes' included.
    pub wire_bytes: f64,
    /// Bytes of the messages between clients and nodes, both ways, per message.
    pub client_bytes: f64,
    /// Memory of the largest node at the end.
    pub resident_bytes: u64,
}

/// Latencies in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Latency {
    /// How many were measured.
    pub samples: u64,
    /// Half are below.
    pub p50_ms: f64,
    /// One in a hundred is above.
    pub p99_ms: f64,
    /// One in a thousand is above.
    pub p999_ms: f64,
    /// The longest.
    pub max_ms: f64,
}

/// A run of one work load.
#[derive(Debug)]
pub struct Run {
    stage: Arc<Stage>,
    clients: Vec<Arc<Client>>,
    pids: Vec<u32>,
    dirs: Vec<PathBuf>,
    warm_up: Duration,
    measured: Duration,
    window: usize,
    ahead: bool,
    /// Deliveries that are due so far.
    due: u64,
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    usage: Usage,
    accepted: u64,
    ordered: u64,
    delivered: u64,
    bytes: u64,
}

impl Run {
    /// A run on connected clients.
    pub fn new(stage: Arc<Stage>, clients: Vec<Arc<Client>>, pids: Vec<u32>, dirs: Vec<PathBuf>, args: &Args) -> Run {
        Run {
            stage,
            clients,
            pids,
            dirs,
            warm_up: Duration::from_secs_f64(args.warm_up),
            measured: Duration::from_secs_f64(args.seconds),
            window: args.window.into(),
            ahead: args.sign == Sign::Ahead,
            due: 0,
        }
    }

    /// Closes the loop for a while; about how many messages per second that gives.
    ///
    /// # Errors
    /// As [`Run::phase`].
    pub async fn probe(&mut self, length: Duration) -> Result<f64, CliError> {
        self.begin().await?;
        let (start, from) = (Instant::now(), self.delivered());
        self.closed(start + length).await?;
        let rate = (self.delivered() - from) as f64 / start.elapsed().as_secs_f64() / self.copies();
        self.drain().await?;
        Ok(rate)
    }

    /// One phase.
    ///
    /// # Errors
    /// If a client lost its node or was refused, or the nodes stopped delivering.
    pub async fn phase(&mut self, load: &'static str, pace: Pace, expected: f64) -> Result<Figures, CliError> {
        self.begin().await?;
        if self.ahead {
            let seconds = (self.warm_up + self.measured).as_secs_f64();
            let factor = if matches!(pace, Pace::Closed) { AHEAD } else { 1.0 };
            let bundles = expected * seconds * factor / self.stage.load.messages as f64;
            self.sign_ahead((bundles / self.clients.len() as f64).ceil() as usize + 1).await?;
        }
        let tally = &self.stage.tally;
        let (wrong, busy) = (tally.wrong.load(Ordering::Relaxed), tally.busy.load(Ordering::Relaxed));
        let start = Instant::now();
        let (from, to) = (start + self.warm_up, start + self.warm_up + self.measured);
        let send = async {
            match pace {
                Pace::Closed => self.closed(to).await,
                Pace::Open(rate) => self.open(start, to, rate / self.stage.load.messages as f64).await,
            }
        };
        let sample = async {
            tokio::time::sleep_until(from.into()).await;
            let first = self.sample();
            tokio::time::sleep_until(to.into()).await;
            Ok((first, self.sample()))
        };
        let (first, last) = futures::future::try_join(sample, send).await?.0;
        self.drain().await?;
        let offered = match pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(rate),
        };
        let mut figures = self.between(load, offered, first, last);
        let measured = [from, to].map(|at| (at - self.stage.began).as_micros() as u64);
        self.check(measured, &mut figures);
        let tally = &self.stage.tally;
        figures.wrong = tally.wrong.load(Ordering::Relaxed) - wrong;
        figures.busy = tally.busy.load(Ordering::Relaxed) - busy;
        Ok(figures)
    }

    /// Deliveries per message.
    fn copies(&self) -> f64 {
        self.stage.load.recipients as f64
    }

    fn delivered(&self) -> u64 {
        self.stage.tally.delivered.load(Ordering::Relaxed)
    }

    async fn begin(&self) -> Result<(), CliError> {
        let endpoint = Endpoint::anonymous()?;
        let status = endpoint.status(&self.stage.nodes[0]).await?;
        endpoint.close().await;
        // Another node may be some epochs behind.
        let valid_until = status.epoch + self.stage.federation.params().validity_epochs - 64;
        self.clients.iter().for_each(|client| client.begin(valid_until));
        Ok(())
    }

    async fn sign_ahead(&self, bundles: usize) -> Result<(), CliError> {
        let mut tasks = JoinSet::new();
        for client in self.clients.clone() {
            tasks.spawn_blocking(move || client.prepare(bundles));
        }
        while let Some(done) = tasks.join_next().await {
            done.map_err(|error| CliError::refused("bench", error.to_string(), ""))?;
        }
        Ok(())
    }

    /// Every client sends whenever there is room for another bundle, until `to`.
    async fn closed(&self, to: Instant) -> Result<(), CliError> {
        let each = (self.stage.load.messages * self.stage.load.recipients) as u32;
        let room = &self.stage.room;
        room.forget_permits(room.available_permits());
        room.add_permits(self.window * self.clients.len() * each as usize);
        let mut tasks = JoinSet::new();
        for client in self.clients.clone() {
            let stage = Arc::clone(&self.stage);
            tasks.spawn(async move {
                while let Ok(Ok(permit)) = tokio::time::timeout_at(to.into(), stage.room.acquire_many(each)).await {
                    permit.forget();
                    client.send(stage.now_us());
                }
            });
        }
        self.unless_failed(async {
            while tasks.join_next().await.is_some() {}
            Ok(())
        })
        .await
    }

    /// One thread keeps the rate (bundles per second), so that no send waits for another.
    async fn open(&self, start: Instant, to: Instant, rate: f64) -> Result<(), CliError> {
        let (clients, began) = (self.clients.clone(), self.stage.began);
        let pacer = tokio::task::spawn_blocking(move || {
            for bundle in 0_u64.. {
                let due = start + Duration::from_secs_f64(bundle as f64 / rate);
                if due >= to {
                    return;
                }
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
                clients[bundle as usize % clients.len()].send((due - began).as_micros() as u64);
            }
        });
        self.unless_failed(async { pacer.await.map_err(|error| CliError::refused("bench", error.to_string(), "")) })
            .await
    }

    async fn unless_failed(&self, work: impl Future<Output = Result<(), CliError>>) -> Result<(), CliError> {
        let mut failed = self.stage.failed.subscribe();
        tokio::select! {
            done = work => done,
            failed = failed.wait_for(Option::is_some) => Err(match failed {
                Ok(error) => error.clone().unwrap_or_else(CliError::interrupted),
                Err(_) => CliError::interrupted(),
            }),
        }
    }

    /// Waits until everything sent is delivered, or nothing comes any more.
    async fn drain(&mut self) -> Result<(), CliError> {
        let each = (self.stage.load.messages * self.stage.load.recipients) as u64;
        self.due += self.clients.iter().map(|client| client.sent()).sum::<u64>() * each;
        let due = self.due;
        let wait = async {
            let (mut last, mut since) = (self.delivered(), Instant::now());
            while last < due && since.elapsed() < STANDSTILL {
                tokio::time::sleep(LOOK).await;
                let now = self.delivered();
                if now != last {
                    (last, since) = (now, Instant::now());
                }
            }
            Ok(())
        };
        self.unless_failed(wait).await
    }

    fn sample(&self) -> Sample {
        let tally = &self.stage.tally;
        Sample {
            at: Instant::now(),
            usage: Usage::read(&self.pids, self.dirs.iter().map(PathBuf::as_path)),
            accepted: tally.accepted.load(Ordering::Relaxed),
            ordered: tally.ordered.load(Ordering::Relaxed),
            delivered: tally.delivered.load(Ordering::Relaxed),
            bytes: tally.bytes.load(Ordering::Relaxed),
        }
    }

    fn between(&self, load: &'static str, offered: Option<f64>, first: Sample, last: Sample) -> Figures {
        let seconds = (last.at - first.at).as_secs_f64();
        let rate = |from: u64, to: u64| (to - from) as f64 / seconds;
        let deliveries = rate(first.delivered, last.delivered);
        let messages = ((last.delivered - first.delivered) as f64 / self.copies()).max(1.0);
        let (a, b) = (first.usage, last.usage);
        let per_message_us = |from: f64, to: f64| (to - from) * 1e6 / messages;
        let per_message = |from: u64, to: u64| to.saturating_sub(from) as f64 / messages;
        let ours = (b.nodes_cpu - a.nodes_cpu) + (b.own_cpu - a.own_cpu);
        Figures {
            load,
            offered,
            accepted: rate(first.accepted, last.accepted),
            ordered: rate(first.ordered, last.ordered),
            delivered: deliveries / self.copies(),
            deliveries,
            latency: Latency::default(),
            sent: 0,
            missing: 0,
            duplicate: 0,
            wrong: 0,
            busy: 0,
            signed_live: 0,
            node_cpu_us: per_message_us(a.nodes_cpu, b.nodes_cpu),
            core_cpu_us: per_message_us(a.core_cpu, b.core_cpu),
            client_cpu_us: per_message_us(a.own_cpu, b.own_cpu),
            core_busy: (b.core_cpu - a.core_cpu) / seconds,
            other_cpus: ((b.busy_cpu - a.busy_cpu - ours) / seconds).max(0.0),
            disk_bytes: per_message(a.occupied, b.occupied),
            written_bytes: per_message(a.written, b.written),
            wire_bytes: per_message(a.loopback, b.loopback),
            client_bytes: per_message(first.bytes, last.bytes),
            resident_bytes: b.resident,
        }
    }

    /// Compares what was received with what was sent, and takes the latencies of what was to be sent while it was
    /// measured.
    fn check(&self, measured: [u64; 2], figures: &mut Figures) {
        let results: Vec<Results> = self.clients.iter().map(|client| client.results()).collect();
        let each = self.stage.load.messages as u64;
        let compared = compare(&results, each, measured);
        figures.signed_live = results.iter().map(|results| results.live).sum();
        figures.sent = results.iter().map(|results| results.sent.len() as u64).sum::<u64>() * each;
        figures.missing = (figures.sent * self.stage.load.recipients as u64).saturating_sub(compared.once);
        figures.duplicate = compared.duplicate;
        figures.latency = Latency::of(compared.latencies_us);
    }
}

/// What a comparison finds.
#[derive(Debug, Default)]
struct Compared {
    /// Deliveries of this phase's messages, each recipient once.
    once: u64,
    /// Deliveries beyond the first, or of what an earlier phase has delivered.
    duplicate: u64,
    /// Of messages that were to be sent while it was measured.
    latencies_us: Vec<u64>,
}

/// Finds for everything received its bundle, each of `each` messages, among those that its sender sent.
fn compare(results: &[Results], each: u64, measured: [u64; 2]) -> Compared {
    let mut compared = Compared::default();
    for Results { got, .. } in results {
        let mut seen = BTreeSet::new();
        for Got { sender, number, at_us } in got {
            let sent = &results[*sender as usize].sent;
            let after = sent.partition_point(|(first, _)| first <= number);
            let bundle = after.checked_sub(1).map(|place| sent[place]).filter(|(first, _)| number - first < each);
            match bundle {
                Some((_, intended)) if seen.insert((*sender, *number)) => {
                    compared.once += 1;
                    if (measured[0]..measured[1]).contains(&intended) {
                        compared.latencies_us.push(at_us.saturating_sub(intended));
                    }
                }
                _ => compared.duplicate += 1,
            }
        }
    }
    compared
}

impl Latency {
    fn of(mut all_us: Vec<u64>) -> Latency {
        all_us.sort_unstable();
        let at = |part: f64| {
            let place = ((all_us.len() as f64 * part).ceil() as usize).clamp(1, all_us.len().max(1)) - 1;
            all_us.get(place).map_or(0.0, |us| *us as f64 / 1_000.0)
        };
        Latency { samples: all_us.len() as u64, p50_ms: at(0.5), p99_ms: at(0.99), p999_ms: at(0.999), max_ms: at(1.0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn got(sender: u32, number: u64, at_us: u64) -> Got {
        Got { sender, number, at_us }
    }

    #[test]
    fn what_is_double_missing_or_of_another_phase_is_seen() {
        // The first client sends two bundles of two messages to the second, numbers 5 to 8.
        let sender = Results { sent: vec![(5, 100), (7, 200)], live: 0, got: Vec::new() };
        let all = [got(0, 5, 150), got(0, 6, 160), got(0, 7, 260), got(0, 8, 270)];
        let with = |received: &[Got]| {
            let receiver = Results { sent: Vec::new(), live: 0, got: received.to_vec() };
            compare(&[sender.clone(), receiver], 2, [150, 250])
        };
        let whole = with(&all);
        assert_eq!((whole.once, whole.duplicate, whole.latencies_us), (4, 0, vec![60, 70]));
        assert_eq!(with(&all[1..]).once, 3);
        let again = with(&[all[0], all[0], all[1], all[2], all[3]]);
        assert_eq!((again.once, again.duplicate), (4, 1));
        let strange = with(&[got(0, 4, 1), got(0, 9, 1), all[0]]);
        assert_eq!((strange.once, strange.duplicate), (1, 2));
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let latency = Latency::of((1..=1_000).rev().map(|ms| ms * 1_000).collect());
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.p999_ms, latency.max_ms), (500.0, 990.0, 999.0, 1_000.0));
        let one = Latency::of(vec![7_000]);
        assert_eq!((one.samples, one.p50_ms, one.max_ms), (1, 7.0, 7.0));
        assert_eq!(Latency::of(Vec::new()).samples, 0);
    }
}
