//! Ctrl-C: the first takes the probes off at once and lets the command end in order, the second ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gotrail::probe::Detacher;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::{Failure, UNSUPPORTED};

/// Exit code after a second Ctrl-C: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Whether the user wants an end, and whose probes go then.
#[derive(Debug)]
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    current: Arc<Mutex<Detacher>>,
}

impl Signals {
    /// Whether a signal has come.
    pub(crate) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The same, for the library.
    pub(crate) fn flag(&self) -> &AtomicBool {
        &self.stop
    }

    /// From now on these probes go with the first signal; at once if it has come already.
    pub(crate) fn follow(&self, detacher: Detacher) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if self.stopped() {
            detacher.close();
        }
        *current = detacher;
    }
}

/// Watches for SIGINT and SIGTERM on a thread of its own, so that the probes go even while the command is
/// busy.
pub(crate) fn watch(detacher: Detacher) -> Result<Signals, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let current = Arc::new(Mutex::new(detacher));
    let followed = Arc::clone(&current);
    let failed =
        |what: &str, why: std::io::Error| Failure::new(UNSUPPORTED, format!("tried to {what}: {why}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|e| failed("prepare for signals", e))?;
    // Registered before the thread starts: a signal that comes right after attach is not missed.
    let guard = runtime.enter();
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed("catch SIGINT", e))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| failed("catch SIGTERM", e))?;
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                    }
                    if flag.swap(true, Ordering::AcqRel) {
                        std::process::exit(INTERRUPTED);
                    }
                    let detacher = followed.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    // On another thread, so that a second signal is heard while the kernel takes its time.
                    std::thread::spawn(move || detacher.close());
                }
            });
        })
        .map_err(|e| failed("start the signal thread", e))?;
    Ok(Signals { stop, current })
}
