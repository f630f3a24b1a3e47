//! Why the process died: an unrecovered panic, a fatal error, or the runtime giving up.

use super::finding::{Degree, Finding, Role};
use super::sites::{Context, blocked_frame, readable, short, site};
use super::text::{crash_text, panic_type};
use crate::binary::Frame;
use crate::model::{Crash, PanicStage};
use crate::target::signal_name;
use crate::text::duration;

pub(super) fn detect(context: &Context<'_>) -> Vec<Finding> {
    context.process.fatal.as_ref().map(|crash| finding(context, crash)).into_iter().collect()
}

fn finding(context: &Context<'_>, crash: &Crash) -> Finding {
    let record = &crash.record;
    let text = crash_text(context.binary, record).unwrap_or_else(|| "(text not captured)".to_owned());
    let frames = context.call_frames(&record.stack);
    let died = died_at(&frames).cloned();
    let created = context.creation(record.stack.gopc);
    let from_signal = record.signal != 0 && frames.iter().any(|f| f.function == "runtime.sigpanic");
    let is_panic = record.stage == PanicStage::Fatal;
    let (id, what) = match (is_panic, from_signal) {
        (true, _) => ("panic", "panic"),
        // The runtime calls a fault at an address that no nil pointer explains a fatal error (throw("fault")).
        (false, true) => ("memory-fault", "fatal error"),
        (false, false) => ("fatal-error", "fatal error"),
    };
    let goroutine = crash
        .goid
        .map_or_else(|| "no goroutine (a system stack)".to_owned(), |goid| format!("goroutine {goid}"));
    let mut evidence = vec![format!(
        "{what}: {text}, in {goroutine}, thread {}, {} ago",
        crash.thread,
        duration(context.now_ns.saturating_sub(crash.at_ns))
    )];
    if from_signal {
        evidence.push(format!(
            "it began with {} at pc {:#x}, reading or writing address {:#x}",
            signal_name(record.signal.cast_signed()),
            record.fault_pc,
            record.fault_address
        ));
    }
    if let Some(created) = &created {
        evidence.push(format!("the goroutine was created by {} at {}", created.function, short(created)));
    }
    if let Some(kind) = panic_type(context.process, context.binary, crash) {
        evidence.push(format!("the panic value was of type {kind}"));
    }
    if record.stack.truncated {
        evidence.push("the stack is deeper than was captured".to_owned());
    }
    let place = died.as_ref().map_or_else(String::new, |f| format!(" in {} at {}", f.function, short(f)));
    Finding {
        id,
        key: format!("{id}:{}", died.as_ref().map(short).unwrap_or_default()),
        title: format!("the process died: {what}: {}{place}", shortened(&text)),
        degree: Degree::Proved,
        evidence,
        goids: crash.goid.into_iter().collect(),
        count: 1,
        sites: [site(Role::Died, died.as_ref()), site(Role::Created, created.as_ref())]
            .into_iter()
            .flatten()
            .collect(),
        stack: readable(frames),
        trend: None,
        advice: match id {
            "panic" => {
                "mend the line above, or recover in the goroutine's outermost function if the panic is meant to be survived: no other goroutine can catch it"
            }
            "memory-fault" => {
                "look for unsafe.Pointer arithmetic, cgo, or memory that was unmapped: Go's own pointers do not do this"
            }
            _ => "a fatal error can't be recovered: mend the misuse that the text names",
        },
        disproof: "nothing: the runtime said so itself",
    }
}

/// The beginning of a text, for a title; the evidence has all of it.
fn shortened(text: &str) -> String {
    const MOST: usize = 160;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    let begin: String = text.chars().take(MOST).collect();
    format!("{begin}…")
}

/// The frame that the fault belongs to: the innermost of the program, above the runtime's crash machinery.
fn died_at(frames: &[Frame]) -> Option<&Frame> {
    blocked_frame(frames).or_else(|| frames.iter().find(|f| !f.function.starts_with("runtime.")))
}
