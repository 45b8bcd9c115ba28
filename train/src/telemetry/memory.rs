//! Memory of this process, where the system tells.

/// Resident memory in bytes now and at its highest; 0 where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub resident: u64,
    /// The most so far.
    pub peak: u64,
}

/// What `/proc` says.
pub fn memory() -> Memory {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |field: &str| {
        let kib =
            status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix("kB")?.trim().parse().ok());
        kib.unwrap_or(0u64) * 1024
    };
    Memory { resident: bytes("VmRSS:"), peak: bytes("VmHWM:") }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays() {
        let before = memory();
        assert!(before.resident > 0 && before.peak >= before.resident);
        drop(std::hint::black_box(vec![1u8; 64 << 20]));
        let after = memory();
        assert!(after.peak >= before.peak && after.peak > 32 << 20);
    }
}
