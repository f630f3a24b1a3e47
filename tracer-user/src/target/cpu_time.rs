//! The CPU time that a process has used.

use std::mem::MaybeUninit;

/// User and system time of all threads of a process so far, in nanoseconds; `None` once it is gone.
///
/// By its CPU clock: `/proc/PID/stat` counts in steps of 10 ms.
#[must_use]
pub fn cpu_time_ns(pid: u32) -> Option<u64> {
    let pid = libc::pid_t::try_from(pid).ok()?;
    let mut clock = 0;
    // SAFETY: the call writes one clock id to a live variable.
    if unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } != 0 {
        return None;
    }
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes one timespec to live memory, or fails and writes nothing.
    if unsafe { libc::clock_gettime(clock, time.as_mut_ptr()) } != 0 {
        return None;
    }
    // SAFETY: the call succeeded, so the timespec is written.
    let time = unsafe { time.assume_init() };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    seconds.checked_mul(1_000_000_000)?.checked_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_time_passes_and_that_of_nobody_is_none() {
        let before = cpu_time_ns(std::process::id()).unwrap();
        let mut sum = 0_u64;
        while cpu_time_ns(std::process::id()).unwrap() < before + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert_eq!(cpu_time_ns(4_100_000), None);
    }
}
