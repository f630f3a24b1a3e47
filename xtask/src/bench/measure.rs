//! Running a command to its end, and what the kernel says that it took.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::command::line;
use crate::interrupt;

/// What a run took.
pub(super) struct Run {
    pub(super) wall: Duration,
    /// Processor time of its own, in its code and in the kernel.
    pub(super) cpu: Duration,
    /// Its resident memory at most, in bytes.
    pub(super) peak: u64,
    /// What it said on standard error.
    pub(super) words: String,
}

/// Runs a command, what it says going nowhere, and kills it when its time is up; `None` then.
///
/// Its words go through a file in `folder`: a pipe would have to be emptied meanwhile.
pub(super) fn run(
    command: &mut Command,
    input: &str,
    folder: &Path,
    patience: Duration,
) -> Result<Option<Run>> {
    let name = line(command);
    let told = || format!("can't run `{name}`");
    let log = folder.join("words");
    let words = File::create(&log).with_context(|| format!("can't write {}", log.display()))?;
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(words);
    let begun = Instant::now();
    let mut child = command.spawn().with_context(told)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read it, or has gone, has no need of it.
        drop(stdin.write_all(input.as_bytes()));
    }
    let pid = child.id();
    let (over, ended) = mpsc::channel::<()>();
    let watch = thread::spawn(move || {
        let late = ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
        if late {
            interrupt::send(pid, libc::SIGKILL);
        }
        late
    });
    // It is not reaped before the watch has ended, so that no other process can have its id by then.
    let waited = await_end(pid);
    let wall = begun.elapsed();
    drop(over);
    let late = watch.join().unwrap_or(false);
    waited.with_context(told)?;
    let usage = reap(pid).with_context(told)?;
    if late {
        return Ok(None);
    }
    let words = std::fs::read(&log).with_context(|| format!("can't read {}", log.display()))?;
    let words = String::from_utf8_lossy(&words).into_owned();
    if !usage.ended_well {
        bail!("`{name}` did not end well: {}", words.trim());
    }
    Ok(Some(Run { wall, cpu: usage.cpu, peak: usage.peak, words }))
}

/// Waits for the end of a child and leaves it as it is.
pub(super) fn await_end(pid: u32) -> std::io::Result<()> {
    loop {
        // SAFETY: a siginfo_t of zeros is a valid one, and waitid(2) writes to nothing else.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &raw mut info, libc::WEXITED | libc::WNOWAIT)
        };
        let error = std::io::Error::last_os_error();
        if result == 0 {
            return Ok(());
        }
        if error.kind() != std::io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// What a child took that has ended.
pub(super) struct Usage {
    pub(super) ended_well: bool,
    pub(super) cpu: Duration,
    pub(super) peak: u64,
}

/// Waits for the end of a child; its id may be another's from then on.
pub(super) fn reap(pid: u32) -> std::io::Result<Usage> {
    let mut status = 0;
    let pid = libc::pid_t::try_from(pid).map_err(std::io::Error::other)?;
    // SAFETY: an rusage of zeros is a valid one; wait4(2) writes to it and to the status, both of which are ours.
    let (result, usage) = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::wait4(pid, &raw mut status, 0, &raw mut usage), usage)
    };
    if result != pid {
        return Err(std::io::Error::last_os_error());
    }
    let time = |time: libc::timeval| {
        Duration::from_micros(time.tv_sec.unsigned_abs() * 1_000_000 + time.tv_usec.unsigned_abs())
    };
    Ok(Usage {
        ended_well: libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
        // In KiB on Linux.
        peak: usage.ru_maxrss.unsigned_abs() * 1024,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    fn sh(script: &str, patience: Duration) -> Result<Option<Run>> {
        let scratch = Scratch::new("measure").unwrap();
        run(Command::new("sh").args(["-c", script]), "hello\n", scratch.path(), patience)
    }

    #[test]
    fn words_and_use_are_those_of_the_command() {
        let run = sh("read line; echo \"$line\" >&2; sleep 0.05", Duration::from_secs(60)).unwrap().unwrap();
        assert_eq!(run.words, "hello\n");
        assert!(run.wall >= Duration::from_millis(50) && run.peak > 100_000, "{:?} {}", run.wall, run.peak);
    }

    #[test]
    fn one_that_takes_too_long_is_killed_and_a_failure_is_told() {
        assert!(sh("exec sleep 600", Duration::from_millis(50)).unwrap().is_none());
        let error = sh("echo no luck >&2; exit 3", Duration::from_secs(60)).err().unwrap();
        assert!(format!("{error:#}").contains("no luck"), "{error:#}");
    }
}
