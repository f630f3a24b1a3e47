//! What a dump of a core file says beyond the goroutines: what the process died of, and what the file does not hold.

use gotrail::memory::{Crash, Symbolizer};
use gotrail::target::{CoreFile, signal_name};
use gotrail::text::{duration, printable};
use serde_json::{Value, json};

use super::super::human;
use super::{Dump, document};

/// The signal, as the runtime's own crash begins; and the stack of its thread where that ran no goroutine. Empty for
/// a live process, and where the core was written without a signal.
pub(super) fn preamble(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> String {
    let Some(crash) = &dump.crash else { return String::new() };
    let signal = crash.signal;
    let mut text = format!("{}\nPC={:#x} thread={}", signal_name(signal.number), crash.pc, crash.thread_id);
    if let Some(code) = signal.code {
        text.push_str(&format!(" sigcode={code}"));
    }
    if let Some(address) = signal.address {
        text.push_str(&format!(" addr={address:#x}"));
    }
    text.push('\n');
    // A process that crashes sends itself the signal that ends it.
    if let Some(sender) = signal.sender.filter(|sender| *sender != dump.subject.pid()) {
        text.push_str(&format!("sent by process {sender}\n"));
    }
    match crash.goid {
        Some(goid) if dump.shown.iter().all(|g| g.goid != goid) => {
            text.push_str(&format!("its thread ran goroutine {goid}, which is not shown here\n"));
        }
        Some(_) => {}
        None => text.push_str(&without_goroutine(dump, crash, symbolizer)),
    }
    text.push('\n');
    text
}

fn without_goroutine(dump: &Dump<'_>, crash: &Crash, symbolizer: &mut Symbolizer) -> String {
    if !crash.is_go_thread {
        return "its thread is none of the Go runtime's: it was made by C code\n".to_owned();
    }
    if crash.stack.pcs.is_empty() {
        return "its thread ran no goroutine: it was in C code, whose stack gotrail can't read\n".to_owned();
    }
    let frames: Vec<_> = crash
        .stack
        .pcs
        .iter()
        .flat_map(|pc| symbolizer.frames(dump.runtime.binary(), *pc).to_vec())
        .collect();
    format!("its thread ran no goroutine but the runtime itself:\n{}", human::stack(&frames, "    "))
}

/// What the reader must know of what is missing; lines for standard error.
pub(super) fn remarks(dump: &Dump<'_>, core: &CoreFile) -> String {
    let mut text = String::new();
    let now = dump.runtime.now_ns();
    match dump.runtime.wall(now) {
        _ if now == 0 => text.push_str("a core file has no clock, and the runtime had written down no time: no ages are known\n"),
        Some(at) => text.push_str(&format!(
            "a core file has no clock: ages count to {}, the latest time that the runtime had written down, and may be too short\n",
            humantime::format_rfc3339_seconds(at)
        )),
        None => text.push_str(&format!(
            "a core file has no clock: ages count to {} after the machine's start, the latest time that the runtime had written down, and may be too short\n",
            duration(now)
        )),
    }
    if let Some(cut) = core.cut() {
        text.push_str(&format!(
            "the core file is cut short: it has {} bytes of {}, and {} bytes of the process's memory are missing\n",
            cut.size, cut.expected, cut.missing
        ));
    }
    if core.notes_cut() {
        text.push_str("the core file's notes are damaged: threads, and with them the stacks of goroutines that ran, may be missing\n");
    }
    text
}

/// The same for programs.
pub(super) fn json(dump: &Dump<'_>, core: &CoreFile, symbolizer: &mut Symbolizer) -> Value {
    let crash = dump.crash.as_ref().map(|crash| {
        json!({
            "signal": signal_name(crash.signal.number),
            "code": crash.signal.code,
            "address": crash.signal.address.map(document::hex),
            "sender_pid": crash.signal.sender,
            "pc": document::hex(crash.pc),
            "thread_id": crash.thread_id,
            "go_thread": crash.is_go_thread,
            "goid": crash.goid,
            "stack": document::frames(dump, &crash.stack, symbolizer),
        })
    });
    json!({
        "path": core.path(),
        "executable": dump.subject.executable(),
        "command": core.process().map(|process| printable(&process.name)),
        "threads": core.threads().len(),
        "crash": crash,
        // `taken_at`, and what is counted to it, is the latest time in the runtime's memory.
        "time": if dump.runtime.now_ns() == 0 { "unknown" } else { "latest in memory" },
        "missing_bytes": core.cut().map_or(0, |cut| cut.missing),
        "damaged_notes": core.notes_cut(),
    })
}
