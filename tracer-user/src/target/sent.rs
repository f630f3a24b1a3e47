//! Signals that a process was sent, and by whom.

use tracer_ebpf::ANSWERED_WITHIN;

use super::exit::{Exit, signal_name};

/// How long the runtime may take to print all goroutines, ns.
const ABORTED_WITHIN: u64 = 5_000_000_000;

/// Who sent a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Another process.
    Process {
        /// Its id, in the initial PID namespace.
        pid: u32,
        /// The name of the thread that did.
        name: String,
    },
    /// The process itself: `kill`, `raise`, `abort`, or a write to what nobody reads.
    Itself,
    /// The processor, by way of the kernel: an instruction of the process could not be executed.
    Fault,
    /// The kernel: a limit, a terminal, a timer, seccomp.
    Kernel {
        /// It chose the process to be killed for want of memory.
        out_of_memory: bool,
    },
}

impl std::fmt::Display for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid, name } => write!(f, "sent by process {pid} ({name})"),
            Self::Itself => f.write_str("sent by itself"),
            Self::Fault => f.write_str("for a fault of its own"),
            Self::Kernel { out_of_memory: true } => f.write_str("sent by the kernel: out of memory"),
            Self::Kernel { .. } => f.write_str("sent by the kernel"),
        }
    }
}

/// A signal that was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number.
    pub signal: i32,
    /// When, `CLOCK_MONOTONIC` ns.
    pub at_ns: u64,
    /// By whom.
    pub by: Sender,
}

impl Sent {
    /// The signal among these that an end at `now_ns` is the answer to: the one that killed, or before an exit code the last
    /// by which somebody else asked for an end.
    #[must_use]
    pub fn behind(exit: Exit, now_ns: u64, sent: &[Self]) -> Option<&Self> {
        match exit {
            Exit::Signal(signal) => sent.iter().rfind(|one| one.signal == signal),
            Exit::Code(_) => {
                let asked = |one: &&Self| one.asks() && now_ns.saturating_sub(one.at_ns) < ANSWERED_WITHIN;
                // `abort` of C code, which the runtime handles: it prints what it was, and exits.
                let aborted = |one: &&Self| {
                    exit == Exit::Code(2)
                        && one.signal == libc::SIGABRT
                        && one.by == Sender::Itself
                        && now_ns.saturating_sub(one.at_ns) < ABORTED_WITHIN
                };
                sent.iter().rfind(|one| asked(one) || aborted(one))
            }
            Exit::Exec | Exit::Unknown => None,
        }
    }

    /// Whether somebody else wanted the process to end. That of a hung-up terminal is the kernel's; sent by a process it asks
    /// to read the configuration anew. What is a fault where it comes from the processor ends a Go program too.
    const fn asks(&self) -> bool {
        match self.by {
            Sender::Process { .. } => matches!(
                self.signal,
                libc::SIGTERM
                    | libc::SIGINT
                    | libc::SIGQUIT
                    | libc::SIGABRT
                    | libc::SIGSEGV
                    | libc::SIGBUS
                    | libc::SIGFPE
                    | libc::SIGILL
            ),
            Sender::Kernel { .. } => matches!(self.signal, libc::SIGINT | libc::SIGQUIT | libc::SIGHUP),
            Sender::Itself | Sender::Fault => false,
        }
    }

    /// What it adds to how the process ended at `end_ns`.
    #[must_use]
    pub fn describe(&self, exit: Exit, end_ns: u64) -> String {
        let mut text = match exit {
            Exit::Signal(_) => self.by.to_string(),
            _ => format!("after {}, {}", signal_name(self.signal), self.by),
        };
        let before = end_ns.saturating_sub(self.at_ns) as f64 / 1e9;
        if before >= 1.0 {
            text.push_str(&format!(" {before:.1} s before"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(signal: i32, at_ns: u64, by: Sender) -> Sent {
        Sent { signal, at_ns, by }
    }

    #[test]
    fn the_signal_behind_an_end() {
        let shell = Sender::Process { pid: 7, name: "sh".to_owned() };
        let signals = [
            sent(libc::SIGTERM, 10, shell.clone()),
            sent(libc::SIGABRT, 20, Sender::Itself),
            sent(libc::SIGHUP, 30, Sender::Itself),
            sent(libc::SIGUSR1, 31, shell.clone()),
            sent(libc::SIGHUP, 32, shell),
        ];
        let behind = |exit, now| Sent::behind(exit, now, &signals).map(|one| one.signal);
        assert_eq!(behind(Exit::Signal(libc::SIGABRT), 40), Some(libc::SIGABRT));
        assert_eq!(behind(Exit::Signal(libc::SIGKILL), 40), None);
        assert_eq!(behind(Exit::Code(0), 40), Some(libc::SIGTERM));
        assert_eq!(behind(Exit::Code(0), ANSWERED_WITHIN + 11), None);
        assert_eq!(behind(Exit::Unknown, 40), None);
        assert_eq!(behind(Exit::Code(2), 40), Some(libc::SIGABRT));
        assert_eq!(behind(Exit::Code(2), ABORTED_WITHIN + 40), Some(libc::SIGTERM));
        let interrupted = [sent(libc::SIGINT, 10, Sender::Kernel { out_of_memory: false })];
        assert_eq!(Sent::behind(Exit::Code(1), 40, &interrupted), interrupted.first());
        assert_eq!(signals[0].describe(Exit::Code(1), 40), "after SIGTERM, sent by process 7 (sh)");
        let later = signals[0].describe(Exit::Code(1), 2_500_000_010);
        assert_eq!(later, "after SIGTERM, sent by process 7 (sh) 2.5 s before");
        assert_eq!(signals[1].describe(Exit::Signal(libc::SIGABRT), 40), "sent by itself");
    }
}
