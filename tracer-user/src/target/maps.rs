//! Where the executable is mapped.

use std::fs;

use super::identity::{Target, TargetError};

/// One mapping of the executable's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// Offset in the file of `start`.
    pub offset: u64,
    /// May be executed.
    pub executable: bool,
}

/// The mappings of the target's own executable, by device and inode, in address order.
///
/// # Errors
/// [`TargetError`] if `/proc/PID/maps` can't be read.
pub fn executable_mappings(target: &Target) -> Result<Vec<Mapping>, TargetError> {
    let pid = target.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(|source| match source.kind() {
        std::io::ErrorKind::PermissionDenied => TargetError::NotPermitted { pid, what: "the memory map" },
        std::io::ErrorKind::NotFound => TargetError::Gone { pid },
        _ if source.raw_os_error() == Some(libc::ESRCH) => TargetError::Gone { pid },
        _ => TargetError::Io { pid, what: "the memory map", source },
    })?;
    // A process on its way out has no memory any more.
    if text.is_empty() {
        return Err(TargetError::Gone { pid });
    }
    Ok(parse(&text, target.identity.exe_inode))
}

pub(super) fn parse(text: &str, inode: u64) -> Vec<Mapping> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (start, end) = words.next()?.split_once('-')?;
            let permissions = words.next()?;
            let offset = words.next()?;
            // The device is left out: overlay file systems show another one here than stat does.
            let mapped_inode: u64 = words.nth(1)?.parse().ok()?;
            (mapped_inode == inode).then_some(())?;
            let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
            Some(Mapping {
                start,
                // What is computed from a mapping relies on this.
                end: (start < end).then_some(end)?,
                offset: u64::from_str_radix(offset, 16).ok()?,
                executable: permissions.as_bytes().get(2) == Some(&b'x'),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_executables_own_mappings() {
        let text = "00400000-005a1000 r-xp 00000000 fe:00 77 /srv/shop (deleted)\n\
                    005a1000-006b0000 r--p 001a1000 fe:00 77 /srv/shop\n\
                    7f00000000-7f00001000 r-xp 00000000 fe:00 78 /lib/x.so\n\
                    c000000000-c000400000 rw-p 00000000 00:00 0 \n";
        let maps = parse(text, 77);
        assert_eq!(maps.len(), 2);
        assert_eq!(maps[0], Mapping { start: 0x40_0000, end: 0x5a_1000, offset: 0, executable: true });
        assert!(!maps[1].executable);
    }
}
