//! Why probes can't be placed.

use aya::programs::ProgramError;

/// Why probes can't be placed or read.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// This gotrail was built without its eBPF programs.
    #[error(
        "this gotrail was built without its eBPF programs, so it can't attach; build it with `cargo xtask build`"
    )]
    NoObject,
    /// The kernel refuses.
    #[error(
        "tried to {what}: not permitted; run gotrail as root, or with CAP_BPF, CAP_PERFMON and CAP_SYS_PTRACE (and CAP_SYS_ADMIN on kernels before 6.6)"
    )]
    NotPermitted {
        /// What was tried.
        what: &'static str,
    },
    /// The kernel lacks something.
    #[error("tried to {what} on kernel {kernel}: {why}; `gotrail doctor` tells what this kernel can do")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// The kernel's release.
        kernel: String,
        /// What it said.
        why: String,
    },
    /// Somebody kills what we start.
    #[error(
        "tried to {what}: too many of them were killed or stopped by somebody in the last ten minutes; it is tried again later"
    )]
    Killed {
        /// What was tried.
        what: &'static str,
    },
    /// A thread does not start.
    #[error("tried to start {what}: {error}; is a limit on threads or memory reached?")]
    Thread {
        /// Whose.
        what: &'static str,
        /// Why not.
        error: std::io::Error,
    },
    /// No probe of the plan has a site.
    #[error("none of the functions to be probed was found in the binary: {0}")]
    NoSites(String),
    /// The target is not what the plan was made for.
    #[error("process {pid} is no longer the one that was planned for: {why}; nothing was attached")]
    Changed {
        /// The process.
        pid: u32,
        /// What changed.
        why: String,
    },
    /// As many processes are watched as was asked for at most.
    #[error(
        "as many processes of the executable are watched already as --most allows; a larger --most takes more"
    )]
    Full,
    /// The bytes at a site are not those of the file.
    #[error(
        "the code of {function} in the memory of process {pid} differs from its file at {address:#x}: another tracer or debugger is at work, or the file was rewritten; nothing was attached"
    )]
    Bytes {
        /// The process.
        pid: u32,
        /// The function of the site.
        function: String,
        /// The address in memory.
        address: u64,
    },
}

impl ProbeError {
    /// Sorts an error of the BPF library.
    pub(super) fn from_aya(
        what: &'static str,
        kernel: &str,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let mut messages = Vec::new();
        let mut next = Some(error);
        // The verifier refuses with the same number as who lacks a capability, but not without a word.
        let mut verified = false;
        while let Some(error) = next {
            if let Some(ProgramError::LoadError { verifier_log, .. }) = error.downcast_ref() {
                verified |= !verifier_log.to_string().trim().is_empty();
            }
            if let Some(io) = error.downcast_ref::<std::io::Error>()
                && matches!(io.kind(), std::io::ErrorKind::PermissionDenied)
                && !verified
            {
                return Self::NotPermitted { what };
            }
            let message = brief(&error.to_string());
            if !messages.contains(&message) {
                messages.push(message);
            }
            next = error.source();
        }
        Self::Kernel { what, kernel: kernel.to_owned(), why: messages.join(": ") }
    }
}

/// The verifier's log is thousands of lines; its end says what is wrong.
fn brief(message: &str) -> String {
    const LINES: usize = 4;
    let lines: Vec<&str> = message.lines().filter(|line| !line.trim().is_empty()).collect();
    if lines.len() <= 2 * LINES {
        return lines.join(" | ");
    }
    let head = lines.first().copied().unwrap_or_default();
    let head: String = head.chars().take(200).collect();
    format!("{head} … {}", lines[lines.len() - LINES..].join(" | "))
}
