//! What a process runs in, which an exec replaces.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

/// The address space that a process had when it was opened. Clones are the same.
///
/// `/proc/PID/mem` stays that of the address space it was opened on, and reads as empty once nobody runs in that any more
/// (fs/proc/base.c, `mem_rw`). None of its memory is held by this.
#[derive(Clone, Debug)]
pub(super) struct AddressSpace(Arc<File>);

impl AddressSpace {
    /// `None` if it is gone, or we may not.
    pub(super) fn of(pid: u32) -> Option<Self> {
        Some(Self(Arc::new(File::open(format!("/proc/{pid}/mem")).ok()?)))
    }

    /// Whether nobody runs in it any more: the process has ended, or executes another program.
    pub(super) fn is_left(&self) -> bool {
        // Nothing is ever mapped there; while somebody runs in it that is an error, and not its end.
        matches!(self.0.read_at(&mut [0], 0), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn ident_1_an_exec_leaves_it_also_without_randomised_addresses() {
        // `setarch -R`, where the stack does not move.
        let script = "read a; exec sh -c 'echo there; read b'";
        let mut child = Command::new("setarch")
            .args(["-R", "sh", "-c", &format!("echo here; {script}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "here");
        let before = super::super::Target::open(child.id()).unwrap().hold();
        assert!(before.look().unwrap().same_program);
        assert!(!AddressSpace::of(child.id()).unwrap().is_left());
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "there");
        let after = super::super::Target::open(child.id()).unwrap();
        assert!(!before.look().unwrap().same_program);
        assert!(after.hold().look().unwrap().same_program);
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        child.wait().unwrap();
        assert!(before.look().is_none());
    }
}
