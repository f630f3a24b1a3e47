//! Ctrl-C and SIGTERM, taken note of instead of dying at once.
//!
//! Verbs that start servers must outlive the signal for as long as it takes to stop them. Children get Ctrl-C
//! from the terminal themselves, being in our process group; a handler, unlike an ignored signal, is not
//! passed on to them.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From here on signals are noted. A second one has no other effect than the first.
pub(crate) fn watch() -> Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler has the signature that signal(2) asks for and does nothing but store to an
        // atomic, which is allowed in a signal handler.
        let before =
            unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error()).context("can't install a signal handler");
        }
    }
    Ok(())
}

/// Whether one came.
pub(crate) fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Sends a signal to one process that we started and have not yet waited for.
pub(crate) fn send(process: u32, signal: libc::c_int) {
    let Ok(process) = libc::pid_t::try_from(process) else { return };
    // SAFETY: kill(2) touches no memory of ours. That the process is gone already is no error here.
    unsafe { libc::kill(process, signal) };
}
