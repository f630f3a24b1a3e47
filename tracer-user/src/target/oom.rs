//! Whether the kernel has killed somebody in a process's cgroup for want of memory.

use std::fs;
use std::path::{Path, PathBuf};

/// The count of such kills in a cgroup, since a process is watched.
#[derive(Debug, Default)]
pub struct OomKills {
    file: Option<PathBuf>,
    before: u64,
}

impl OomKills {
    /// Of the cgroup that the process is in now; where none is found, nothing will be known.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let file = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok().and_then(|text| file(&text));
        let before = file.as_deref().and_then(read);
        Self { file: file.filter(|_| before.is_some()), before: before.unwrap_or(0) }
    }

    /// Whether there was one since; `None` if that is not known, as the cgroup has gone for example.
    #[must_use]
    pub fn happened(&self) -> Option<bool> {
        Some(read(self.file.as_deref()?)? > self.before)
    }
}

/// The file that counts them, by `/proc/PID/cgroup` (cgroups(7)): `memory.events` of version 2, `memory.oom_control` of
/// version 1.
fn file(cgroups: &str) -> Option<PathBuf> {
    let (mut first, mut second) = (None, None);
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        let path = path.trim_start_matches('/');
        if controllers.is_empty() {
            second = Some(Path::new("/sys/fs/cgroup").join(path).join("memory.events"));
        } else if controllers.split(',').any(|c| c == "memory") {
            first = Some(Path::new("/sys/fs/cgroup/memory").join(path).join("memory.oom_control"));
        }
    }
    [first, second].into_iter().flatten().find(|file| file.exists())
}

fn read(file: &Path) -> Option<u64> {
    count(&fs::read_to_string(file).ok()?)
}

fn count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_counted_in_both_versions() {
        assert_eq!(count("low 0\noom 4\noom_kill 3\noom_group_kill 0\n"), Some(3));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 7\n"), Some(7));
        assert_eq!(count("oom 4\n"), None);
    }

    #[test]
    fn a_process_in_no_cgroup_is_not_known() {
        assert_eq!(file("0::/no/such/place\n"), None);
        assert_eq!(OomKills::default().happened(), None);
    }
}
