//! How much memory the machine, or the container, has. Linux only.

use std::fs;
use std::path::Path;

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All there is.
    pub total: usize,
    /// What can be had without pushing others out.
    pub available: usize,
}

impl Memory {
    /// That of this process: the machine's, within the limit of its control group. None where the system does not tell.
    pub fn of_this_process() -> Option<Self> {
        let machine = Self::of_machine(&fs::read_to_string("/proc/meminfo").ok()?)?;
        let group = |memory: &str, limit: &str, usage: &str| {
            let dir = Path::new("/sys/fs/cgroup").join(memory);
            let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
            Self::of_group(&read(limit)?, &read(usage)?, &read("memory.stat")?)
        };
        let group = group("", "memory.max", "memory.current")
            .or_else(|| group("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"));
        Some(group.map_or(machine, |group| machine.within(group)))
    }

    /// `/proc/meminfo`, in kilobytes.
    fn of_machine(meminfo: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.split_whitespace().next()?.parse::<usize>().ok()?.checked_mul(1024)
        };
        Some(Self { total: field("MemTotal")?, available: field("MemAvailable")? })
    }

    /// The files of a control group; none without a limit. Cached files that are not in use can be dropped.
    fn of_group(limit: &str, usage: &str, stat: &str) -> Option<Self> {
        let total: usize = limit.trim().parse().ok()?;
        let usage: usize = usage.trim().parse().ok()?;
        let field = |name: &str| stat.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<usize>().ok());
        let droppable = field("total_inactive_file ").or_else(|| field("inactive_file ")).unwrap_or(0);
        Some(Self { total, available: total.saturating_sub(usage.saturating_sub(droppable)) })
    }

    fn within(self, other: Self) -> Self {
        Self { total: self.total.min(other.total), available: self.available.min(other.available) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_container_counts() {
        let machine =
            Memory::of_machine("MemTotal:       16000 kB\nMemFree: 1 kB\nMemAvailable:   12000 kB\n").unwrap();
        assert_eq!(machine, Memory { total: 16000 * 1024, available: 12000 * 1024 });
        let group = Memory::of_group("8000000\n", "5000000\n", "anon 3\ninactive_file 2000000\n").unwrap();
        assert_eq!(group, Memory { total: 8_000_000, available: 5_000_000 });
        assert_eq!(machine.within(group), group);
        let old = Memory::of_group("8000000", "5000000", "inactive_file 1\ntotal_inactive_file 4000000").unwrap();
        assert_eq!(old.available, 7_000_000);
        assert_eq!(Memory::of_group("max\n", "5", ""), None);
        // The old files have a number that stands for no limit.
        let unlimited = Memory::of_group("9223372036854771712", "5000", "").unwrap();
        assert_eq!(machine.within(unlimited), machine);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_some() {
        let Memory { total, available } = Memory::of_this_process().unwrap();
        assert!(available > 1 << 20 && total >= available, "{total} {available}");
    }
}
