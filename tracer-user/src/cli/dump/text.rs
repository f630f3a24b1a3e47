//! The text of a Go traceback, for people and for tools that read one.

use gotrail::binary::Frame;
use gotrail::memory::{Ancestor, Goroutine, Pc, Status, Symbolizer, monotonic_ns};
use gotrail::text::printable;

use super::Dump;

/// The text of `debug=2`, as far as it can be known from outside: arguments of calls can't.
pub(super) fn traceback(dump: &Dump<'_>, symbolizer: &mut Symbolizer) -> String {
    let mut out = String::new();
    for g in &dump.shown {
        out.push_str(&header(dump, g));
        stack(dump, g, symbolizer, &mut out);
        if let Some(created) = created_by(dump, g, true, symbolizer) {
            out.push_str(&created);
        }
        for ancestor in dump.details.ancestors.get(&g.goid).into_iter().flatten() {
            originating(dump, ancestor, symbolizer, &mut out);
        }
        out.push('\n');
    }
    // One blank line between goroutines, none at the end.
    out.truncate(out.strip_suffix('\n').map_or(out.len(), str::len));
    out
}

/// The frames of a stack.
pub(super) fn stack(dump: &Dump<'_>, g: &Goroutine, symbolizer: &mut Symbolizer, out: &mut String) {
    if g.stack.pcs.is_empty() {
        // Also where it changed while it was read, so that it ran: tools know this line and no other.
        out.push_str("\tgoroutine running on other thread; stack unavailable\n");
    }
    let before = out.len();
    for all in [false, true] {
        for pc in &g.stack.pcs {
            for frame in symbolizer.frames(dump.runtime.binary(), *pc).iter().filter(|f| all || is_shown(f)) {
                out.push_str(&frame_text(frame));
            }
        }
        // One with the runtime's frames alone shows these: a goroutine of its own, or one yet to begin.
        if out.len() != before {
            break;
        }
    }
    if g.stack.truncated {
        out.push_str("...additional frames elided...\n");
    }
}

/// Where a goroutine was created, with or without who created it.
pub(super) fn created_by(
    dump: &Dump<'_>,
    g: &Goroutine,
    with_parent: bool,
    symbolizer: &mut Symbolizer,
) -> Option<String> {
    if g.goid == 1 || g.gopc == 0 {
        return None;
    }
    let creation = Pc { address: g.gopc, exact: false };
    let frame = symbolizer.innermost_physical(dump.runtime.binary(), creation).filter(is_shown)?;
    let parent = match g.parent_goid {
        goid if goid != 0 && with_parent => format!(" in goroutine {goid}"),
        _ => String::new(),
    };
    Some(format!("created by {}", place_text(&frame, &parent)))
}

/// A function and its place: `main.main in goroutine 1`, and the line of the file below it.
fn place_text(frame: &Frame, behind: &str) -> String {
    let offset = if frame.offset == 0 { String::new() } else { format!(" +{:#x}", frame.offset) };
    let (function, file) = (printable(&shortened(&frame.function)), printable(&frame.file));
    format!("{function}{behind}\n\t{file}:{}{offset}\n", frame.line)
}

/// An ancestor as the runtime prints it (`printAncestorTraceback`, runtime/traceback.go): frames by the name that was
/// inlined, with the offset of the function itself.
fn originating(dump: &Dump<'_>, ancestor: &Ancestor, symbolizer: &mut Symbolizer, out: &mut String) {
    let binary = dump.runtime.binary();
    out.push_str(&format!("[originating from goroutine {}]:\n", ancestor.goid));
    for pc in &ancestor.pcs {
        let frames = symbolizer.frames(binary, *pc);
        if let (Some(inner), Some(whole)) = (frames.first(), frames.last())
            && is_shown(whole)
        {
            out.push_str(&frame_text(&Frame {
                offset: whole.offset,
                inlined: whole.offset == 0,
                ..inner.clone()
            }));
        }
    }
    if ancestor.truncated {
        out.push_str("...additional frames elided...\n");
    }
    let creation = Pc { address: ancestor.gopc, exact: false };
    if let Some(frame) = symbolizer.innermost_physical(binary, creation)
        && ancestor.goid != 1
        && ancestor.gopc != 0
        && is_shown(&frame)
    {
        out.push_str(&format!("created by {}", place_text(&frame, "")));
    }
}

fn header(dump: &Dump<'_>, g: &Goroutine) -> String {
    let status = printable(dump.state(g));
    let mut text = format!("goroutine {} [{status}", g.goid);
    if g.status == Status::Leaked {
        text.push_str(" (leaked)");
    }
    if g.scan {
        text.push_str(" (scan)");
    }
    let bubble = dump.details.bubbles.get(&g.goid);
    if bubble.is_some() && g.status == Status::Waiting && is_idle_in_bubble(&status) {
        text.push_str(" (durable)");
    }
    let minutes = if g.wait_since_ns == 0 {
        0
    } else {
        monotonic_ns().saturating_sub(g.wait_since_ns) / 60_000_000_000
    };
    if minutes >= 1 {
        text.push_str(&format!(", {minutes} minutes"));
    }
    if g.locked {
        text.push_str(", locked to thread");
    }
    if let Some(bubble) = bubble {
        text.push_str(&format!(", synctest bubble {bubble}"));
    }
    text.push_str("]:\n");
    text
}

/// Waits that only another goroutine of the bubble, or its false clock, can end, and that do not say so by their own name
/// (`isIdleInSynctest`, runtime/runtime2.go, Go 1.25 on).
fn is_idle_in_bubble(reason: &str) -> bool {
    matches!(
        reason,
        "chan receive (nil chan)"
            | "chan send (nil chan)"
            | "select (no cases)"
            | "sleep"
            | "sync.Cond.Wait"
            | "coroutine"
            | "synctest.Run"
            | "synctest.Wait"
    )
}

fn frame_text(frame: &Frame) -> String {
    let name = if frame.function == "runtime.gopanic" { "panic" } else { &frame.function };
    let offset = if frame.inlined { String::new() } else { format!(" +{:#x}", frame.offset) };
    let (name, file) = (printable(&shortened(name)), printable(&frame.file));
    format!("{name}(...)\n\t{file}:{}{offset}\n", frame.line)
}

/// Type arguments as the runtime prints them (`funcNameForPrint`, runtime/symtab.go).
fn shortened(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => format!("{}[...]{}", &name[..open], &name[close + 1..]),
        _ => name.to_owned(),
    }
}

/// Which frames a traceback shows (`showfuncinfo`, runtime/traceback.go).
pub(super) fn is_shown(frame: &Frame) -> bool {
    let name = frame.function.as_str();
    if frame.wrapper {
        return false;
    }
    if matches!(name, "runtime.runFinalizers" | "runtime.runCleanups") {
        return true;
    }
    name.contains('.') && (!name.starts_with("runtime.") || is_exported_runtime(name))
}

fn is_exported_runtime(name: &str) -> bool {
    let Some(name) = name.strip_prefix("runtime.") else { return false };
    let (receiver, method) = name.rsplit_once('.').unwrap_or(("", name));
    let receiver = receiver.strip_prefix("(*").and_then(|r| r.strip_suffix(')')).unwrap_or(receiver);
    let upper = |s: &str| s.starts_with(|c: char| c.is_ascii_uppercase());
    upper(method) && (receiver.is_empty() || upper(receiver))
}

#[cfg(test)]
mod tests {
    use super::{is_exported_runtime, shortened};

    #[test]
    fn exported_runtime_functions_are_shown() {
        assert!(is_exported_runtime("runtime.GC"));
        assert!(is_exported_runtime("runtime.(*Frames).Next"));
        assert!(!is_exported_runtime("runtime.gopark"));
        assert!(!is_exported_runtime("runtime.(*mcache).Refill"));
    }

    #[test]
    fn type_arguments_are_shortened() {
        assert_eq!(shortened("main.Map[go.shape.int,go.shape.string].Get"), "main.Map[...].Get");
        assert_eq!(shortened("main.main"), "main.main");
    }
}
