//! How many CPUs a process may use: its affinity and its cgroup's quota.

use std::fs;
use std::path::{Path, PathBuf};

/// CPUs that a process may use, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuLimit {
    /// CPUs in the affinity mask.
    pub affinity: u32,
    /// Quota of the cgroup in CPUs, if there is one.
    pub quota: Option<f64>,
}

impl CpuLimit {
    /// The number that Go 1.25 and later would take for GOMAXPROCS: the affinity, or the quota rounded up
    /// if that is less, but at least 2 for a quota (`runtime/cgroup_linux.go`, `defaultGOMAXPROCS`).
    #[must_use]
    pub fn usable(&self) -> u32 {
        match self.quota {
            // The cast is of a small positive number that was rounded up.
            Some(quota) if quota > 0.0 => self.affinity.min((quota.ceil() as u32).max(2)),
            _ => self.affinity,
        }
    }
}

/// Reads the CPU limit of a process; `None` if it is gone.
#[must_use]
pub fn cpu_limit(pid: u32) -> Option<CpuLimit> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let affinity = count_cpus(list.trim())?;
    Some(CpuLimit { affinity, quota: quota(pid) })
}

/// Counts the CPUs of a list such as `0-3,8`.
pub(super) fn count_cpus(list: &str) -> Option<u32> {
    list.split(',').try_fold(0_u32, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        sum.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

/// The tightest `cpu.max` from the process's cgroup up to the root (cgroup v2), or its v1 counterpart.
fn quota(pid: u32) -> Option<f64> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut tightest: Option<f64> = None;
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let root = if controllers.is_empty() {
            Path::new("/sys/fs/cgroup")
        } else if controllers.split(',').any(|c| c == "cpu") {
            Path::new("/sys/fs/cgroup/cpu")
        } else {
            continue;
        };
        let mut directory: PathBuf = root.join(path.trim_start_matches('/'));
        while directory.starts_with(root) {
            let here = read_v2(&directory).or_else(|| read_v1(&directory));
            tightest = match (tightest, here) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            if !directory.pop() {
                break;
            }
        }
    }
    tightest
}

fn read_v2(directory: &Path) -> Option<f64> {
    parse_cpu_max(&fs::read_to_string(directory.join("cpu.max")).ok()?)
}

pub(super) fn parse_cpu_max(text: &str) -> Option<f64> {
    let (quota, period) = text.trim().split_once(' ')?;
    Some(quota.parse::<f64>().ok()? / period.parse::<f64>().ok()?)
}

fn read_v1(directory: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(directory.join(name)).ok()?.trim().parse::<f64>().ok();
    let quota: f64 = read("cpu.cfs_quota_us")?;
    (quota > 0.0).then_some(quota / read("cpu.cfs_period_us")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_cpu_lists() {
        assert_eq!(count_cpus("0"), Some(1));
        assert_eq!(count_cpus("0-3,8,10-11"), Some(7));
        assert_eq!(count_cpus("3-1"), None);
        assert_eq!(count_cpus(""), None);
        assert_eq!(count_cpus("0-4294967295"), None);
        assert_eq!(count_cpus("0-4294967294,0"), None);
    }

    #[test]
    fn reads_cpu_max() {
        assert_eq!(parse_cpu_max("150000 100000\n"), Some(1.5));
        assert_eq!(parse_cpu_max("max 100000\n"), None);
    }

    #[test]
    fn a_quota_never_asks_for_less_than_two() {
        assert_eq!(CpuLimit { affinity: 8, quota: Some(0.5) }.usable(), 2);
        assert_eq!(CpuLimit { affinity: 8, quota: Some(2.5) }.usable(), 3);
        assert_eq!(CpuLimit { affinity: 1, quota: Some(4.0) }.usable(), 1);
        assert_eq!(CpuLimit { affinity: 4, quota: None }.usable(), 4);
    }
}
