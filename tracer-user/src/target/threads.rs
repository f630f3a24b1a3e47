//! Thread ids in the two PID namespaces: the process's own and ours.

use std::collections::HashMap;
use std::fs;

/// Threads that are looked at.
const MOST: usize = 1 << 16;

/// Thread ids as our PID namespace numbers them, by those of the process's own. Empty if the process is gone.
#[must_use]
pub fn thread_ids(pid: u32) -> HashMap<u32, u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else { return HashMap::new() };
    entries
        .take(MOST)
        .filter_map(|entry| {
            let outer: u32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(format!("/proc/{pid}/task/{outer}/status")).ok()?;
            Some((inner(&status)?, outer))
        })
        .collect()
}

/// The innermost of the ids in `NSpid` (Linux 4.1).
fn inner(status: &str) -> Option<u32> {
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().next_back()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_threads_have_one_id_each_here() {
        let ids = thread_ids(std::process::id());
        assert!(ids.values().any(|outer| *outer == std::process::id()));
        assert_eq!(inner("Name:\tx\nNSpid:\t4711\t17\t3\n"), Some(3));
        assert_eq!(inner("Name:\tx\n"), None);
    }
}
