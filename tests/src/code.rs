//! The machine code of a running process, compared with the file that it came from.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context, Result, ensure};

/// A stretch of memory that is mapped from the executable and may be executed.
struct Stretch {
    begin: u64,
    length: usize,
    offset: u64,
}

/// A byte of a process's code that is not what its file has there: where a probe sits, or where one left something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    address: u64,
    original: u8,
}

/// All changes of a process's code.
///
/// # Errors
/// The process is gone, or its code can't be read.
pub fn changes(pid: u32) -> Result<Vec<Change>> {
    let told = || format!("can't compare the code of process {pid} with its file");
    let exe = format!("/proc/{pid}/exe");
    let path = fs::read_link(&exe).with_context(told)?.to_string_lossy().into_owned();
    let file = File::open(&exe).with_context(told)?;
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(told)?;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).with_context(told)?;
    let stretches: Vec<Stretch> = maps.lines().filter_map(|line| stretch(line, &path)).collect();
    ensure!(!stretches.is_empty(), "process {pid} has no code from {path}:\n{maps}");
    let mut changes = Vec::new();
    for Stretch { begin, length, offset } in stretches {
        let (mut there, mut here) = (vec![0; length], vec![0; length]);
        memory.read_exact_at(&mut there, begin).with_context(told)?;
        // The last page is longer than what the file has for it; the kernel fills up with zeros.
        let mut filled = 0;
        while filled < length {
            match file.read_at(&mut here[filled..], offset + filled as u64).with_context(told)? {
                0 => break,
                read => filled += read,
            }
        }
        let bytes = (begin..).zip(there.into_iter().zip(here)).take(filled);
        changes.extend(
            bytes
                .filter(|(_, (there, here))| there != here)
                .map(|(address, (_, original))| Change { address, original }),
        );
    }
    Ok(changes)
}

/// Whether all these changes have been undone: quick, unlike another look at all the code.
///
/// # Errors
/// The process is gone.
pub fn is_undone(pid: u32, changes: &[Change]) -> Result<bool> {
    let told = || format!("can't read the code of process {pid}");
    let memory = File::open(format!("/proc/{pid}/mem")).with_context(told)?;
    for Change { address, original } in changes {
        let mut byte = [0];
        memory.read_exact_at(&mut byte, *address).with_context(told)?;
        if byte[0] != *original {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A line of `/proc/PID/maps`, if it is code of this file.
fn stretch(line: &str, path: &str) -> Option<Stretch> {
    let mut fields = line.split_ascii_whitespace();
    let (range, permissions, offset) = (fields.next()?, fields.next()?, fields.next()?);
    let executable = permissions.as_bytes().get(2) == Some(&b'x');
    if !executable || !line.ends_with(path) {
        return None;
    }
    let (begin, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    let (begin, end) = (hex(begin)?, hex(end)?);
    Some(Stretch { begin, length: usize::try_from(end - begin).ok()?, offset: hex(offset)? })
}
