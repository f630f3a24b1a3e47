//! What memory of a process is in RAM, as the kernel counts it.
//!
//! From `/proc/PID/status`: `smaps_rollup` would be exact to the page, but walks the page tables under a lock that
//! the process's own page faults wait for. The kernel's counters lag by some pages for each CPU.

use std::fs;

/// Bytes in RAM, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessMemory {
    /// All of them.
    pub rss: u64,
    /// Memory that no file stands behind: Go's, and `malloc`'s.
    pub anon: u64,
    /// Pages of mapped files, the executable among them.
    pub file: u64,
    /// Shared memory.
    pub shmem: u64,
    /// Swapped out; not in RAM.
    pub swap: u64,
}

/// Reads them; `None` if the process is gone.
#[must_use]
pub fn process_memory(pid: u32) -> Option<ProcessMemory> {
    parse(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

/// Reads the lines `VmRSS:      1234 kB` and the like; a process that is on its way out has none.
pub(super) fn parse(status: &str) -> Option<ProcessMemory> {
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    Some(ProcessMemory {
        rss: bytes("VmRSS")?,
        anon: bytes("RssAnon")?,
        file: bytes("RssFile")?,
        shmem: bytes("RssShmem")?,
        swap: bytes("VmSwap").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_kernels_lines() {
        let text = "Name:\tVmRSS: 1 kB\nVmRSS:\t      40 kB\nRssAnon:\t 10 kB\nRssFile:\t 20 kB\nRssShmem:\t 10 kB\n";
        let memory = parse(text).unwrap();
        assert_eq!((memory.rss, memory.anon, memory.swap), (40 << 10, 10 << 10, 0));
        assert_eq!(parse("Name:\tx\nState:\tZ (zombie)\n"), None);
        assert_eq!(parse(&text.replace("40 kB", "18446744073709551615 kB")), None);
    }

    #[test]
    fn this_process_has_memory() {
        let memory = process_memory(std::process::id()).unwrap();
        assert!(memory.anon > 0 && memory.rss >= memory.anon);
    }
}
