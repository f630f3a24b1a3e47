//! What the kernel says in text. It writes these files itself, but names in them are the target's.

use procfs::FromRead as _;

use crate::target;

/// Reads the first line as the number of an inode and the rest as any of the files below /proc and /sys that are
/// read.
pub fn proc_text(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (first, rest) = text.split_once('\n').unwrap_or(("", &text));
    target::text_holds(rest, first.trim().parse().unwrap_or(77));
    // The kernel's own form around a name of the target's choice; without it there is no such file.
    let stat = format!("7 ({rest}) S{}", " 1".repeat(50));
    if let Ok(stat) = procfs::process::Stat::from_read(stat.as_bytes()) {
        assert_eq!(stat.comm, rest);
    }
    let _ = procfs::process::Status::from_read(format!("Name:\t{rest}\nPid:\t7\n").as_bytes());
}
