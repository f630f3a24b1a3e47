//! The text of a Go traceback, for people and for tools that read one.

use gotrail::binary::Frame;
use gotrail::memory::{Goroutine, Pc, Status, Symbolizer};
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
    let offset = if frame.offset == 0 { String::new() } else { format!(" +{:#x}", frame.offset) };
    let (function, file) = (printable(&shortened(&frame.function)), printable(&frame.file));
    Some(format!("created by {function}{parent}\n\t{file}:{}{offset}\n", frame.line))
}

fn header(dump: &Dump<'_>, g: &Goroutine) -> String {
    let status = printable(dump.state(g));
    let mut text = format!("goroutine {} [{status}", g.goid);
    if g.status == Status::Leaked {
        text.push_str(" (leaked)");
    }
    let minutes = if g.wait_since_ns == 0 {
        0
    } else {
        dump.runtime.now_ns().saturating_sub(g.wait_since_ns) / 60_000_000_000
    };
    if minutes >= 1 {
        text.push_str(&format!(", {minutes} minutes"));
    }
    if g.locked {
        text.push_str(", locked to thread");
    }
    text.push_str("]:\n");
    text
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
