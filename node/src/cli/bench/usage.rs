//! What the processes of a run use, as the kernel tells it (`/proc`, so on Linux only).

use std::fs;
use std::path::Path;

/// Clock ticks per second in `/proc/*/stat`; Linux shows 100 whatever the kernel's own clock is.
const TICKS: f64 = 100.0;
/// Bytes of one block as `stat` counts them.
#[cfg(unix)]
const BLOCK: u64 = 512;

/// A reading; what lies between two is what was used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// CPU seconds of all nodes.
    pub nodes_cpu: f64,
    /// CPU seconds of the nodes' core threads.
    pub core_cpu: f64,
    /// CPU seconds of this process: the load generator.
    pub own_cpu: f64,
    /// CPU seconds that the machine spent on anything, on all its cores.
    pub busy_cpu: f64,
    /// Bytes that the nodes had the kernel write to storage.
    pub written: u64,
    /// Bytes that the nodes' directories occupy.
    pub occupied: u64,
    /// Bytes that went over the loopback interface, of all processes.
    pub loopback: u64,
    /// Memory of the largest node, bytes.
    pub resident: u64,
}

impl Usage {
    /// Reads what the processes `pids`, whose directories are `dirs`, have used so far. What the system does not tell
    /// is zero.
    pub fn read<'a>(pids: &[u32], dirs: impl Iterator<Item = &'a Path>) -> Usage {
        let mut usage = Usage {
            own_cpu: cpu_of(Path::new("/proc/self/stat")),
            busy_cpu: busy(),
            occupied: dirs.map(occupied).sum(),
            loopback: loopback(),
            ..Usage::default()
        };
        for pid in pids {
            let process = Path::new("/proc").join(pid.to_string());
            usage.nodes_cpu += cpu_of(&process.join("stat"));
            usage.core_cpu += core_of(&process.join("task"));
            usage.written += field(&process.join("io"), "write_bytes:");
            usage.resident = usage.resident.max(field(&process.join("status"), "VmRSS:") * 1_024);
        }
        usage
    }
}

/// The first number on the line that begins with `name`.
fn field(path: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(name));
    rest.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// User and system time of a `stat` file (proc_pid_stat(5), fields 14 and 15), in seconds.
fn cpu_of(path: &Path) -> f64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The name stands in parentheses and may hold anything.
    let after = text.rsplit_once(')').map_or("", |(_, after)| after);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / TICKS
}

fn core_of(tasks: &Path) -> f64 {
    let Ok(tasks) = fs::read_dir(tasks) else { return 0.0 };
    let is_core = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "postroad-core")
    };
    tasks.flatten().filter(is_core).map(|task| cpu_of(&task.path().join("stat"))).sum()
}

/// The time that the machine was not idle: the first line of `/proc/stat`, without idle and iowait.
fn busy() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1);
    let fields: Vec<u64> = fields.filter_map(|field| field.parse().ok()).collect();
    // Guest time, after the eighth, is in user time already.
    let all: u64 = fields.iter().take(8).sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    (all - idle) as f64 / TICKS
}

/// Bytes sent over `lo`: the ninth number of its line in `/proc/net/dev`.
fn loopback() -> u64 {
    let text = fs::read_to_string("/proc/net/dev").unwrap_or_default();
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    rest.and_then(|rest| rest.split_whitespace().nth(8)?.parse().ok()).unwrap_or(0)
}

fn occupied(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => occupied(&entry.path()),
        #[cfg(unix)]
        Ok(meta) => std::os::unix::fs::MetadataExt::blocks(&meta) * BLOCK,
        #[cfg(not(unix))]
        Ok(meta) => meta.len(),
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}
