//! Metrics of the process, under the names that Prometheus' own clients use. Linux only, from `/proc`.

use std::fs;

/// A number of the process.
pub(crate) struct Sample {
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: f64,
}

/// Clock ticks per second in `/proc`, the same on every Linux machine whatever the kernel counts with.
const TICKS: f64 = 100.0;

/// The numbers that can be had.
pub(crate) fn samples() -> Vec<Sample> {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program comes before, in brackets, and can hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    // Field 3 of proc(5) is the first here.
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<f64>().ok());
    let cpu = field(14).zip(field(15)).map(|(user, system)| (user + system) / TICKS);
    let started = field(22).zip(boot_time()).map(|(ticks, boot)| boot + ticks / TICKS);
    let open = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as f64);
    let sample = |name, kind, help, value: Option<f64>| value.map(|value| Sample { name, kind, help, value });
    [
        sample("process_cpu_seconds_total", "counter", "Processor time spent, user and system, in seconds.", cpu),
        sample("process_resident_memory_bytes", "gauge", "Resident memory in bytes.", kilobytes("VmRSS:")),
        sample("process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", kilobytes("VmSize:")),
        sample("process_start_time_seconds", "gauge", "Start of the process in seconds since 1970.", started),
        sample("process_open_fds", "gauge", "Open file descriptors.", open),
        sample("process_max_fds", "gauge", "File descriptors that may be open.", max_open()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A line of `/proc/self/status`, in bytes.
fn kilobytes(name: &str) -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok().map(|kilobytes: f64| kilobytes * 1024.0)
}

fn boot_time() -> Option<f64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

fn max_open() -> Option<f64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_itself() {
        let samples = samples();
        let value = |name: &str| samples.iter().find(|sample| sample.name == name).unwrap().value;
        assert!(value("process_resident_memory_bytes") > 1e5);
        assert!(value("process_virtual_memory_bytes") >= value("process_resident_memory_bytes"));
        assert!(value("process_open_fds") >= 3.0 && value("process_max_fds") >= value("process_open_fds"));
        let now = crate::served::unix_seconds() as f64;
        let started = value("process_start_time_seconds");
        assert!(started <= now + 1.0 && started > now - 86_400.0, "{started} {now}");
        assert!(value("process_cpu_seconds_total") >= 0.0);
    }
}
