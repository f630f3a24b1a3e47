//! Ctrl-C, and what else asks for an end: the first takes the probes off at once and lets the command end in order, the second
//! ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gotrail::probe::Detacher;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// Watches for SIGINT, SIGTERM, SIGQUIT and, unless whoever started it had that ignored (`nohup`), SIGHUP on a thread of its
/// own, so that the probes go even while the command is busy.
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
    let mut quit = signal(SignalKind::quit()).map_err(|e| failed("catch SIGQUIT", e))?;
    let mut hangup = match ignores_hangup() {
        true => None,
        false => Some(signal(SignalKind::hangup()).map_err(|e| failed("catch SIGHUP", e))?),
    };
    drop(guard);
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                loop {
                    tokio::select! {
                        _ = interrupt.recv() => {}
                        _ = terminate.recv() => {}
                        _ = quit.recv() => {}
                        () = next(&mut hangup) => {}
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

/// The next one; never, if it is not to be caught.
async fn next(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether SIGHUP is ignored: the first bit of the mask (Documentation/filesystems/proc.rst, `SigIgn`).
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 != 0)
}
