//! The memory of a process: self-check, figures, goroutines, stacks.
#![no_main]

use gotrail_fuzz::PROCESSES;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let Some((which, input)) = input.split_first() else { return };
    let processes = &*PROCESSES;
    if let Some(process) = processes.get(usize::from(*which) % processes.len().max(1)) {
        gotrail::fuzzing::memory(process, input);
    }
});
