//! The text of a Go traceback, for people and for tools that read one.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use gotrail::binary::Frame;
use gotrail::memory::{Goroutine, Pc, Stack, Status, Symbolizer};
use gotrail::text::printable;

use super::Dump;

/// Bytes of text that are given away at a time.
const PIECE: usize = 64 << 10;
/// Bytes of stacks' texts that are remembered.
const MAX_REMEMBERED: usize = 64 << 20;
/// Places of creation, and addresses, whose texts are remembered; a program has far fewer.
const MAX_PLACES: usize = 1 << 17;

/// The text of `debug=2`, as far as it can be known from outside: arguments of calls can't. A million goroutines
/// have gigabytes of it, so it is given away piece by piece.
pub(super) fn traceback(dump: &Dump<'_>, symbolizer: &mut Symbolizer, mut give: impl FnMut(&str)) {
    let mut texts = Texts::new(dump, symbolizer);
    let mut out = String::with_capacity(PIECE * 2);
    for (index, g) in dump.shown.iter().enumerate() {
        // One blank line between goroutines, none at the end.
        if index != 0 {
            out.push('\n');
        }
        texts.header(g, &mut out);
        texts.stack(g, &mut out);
        texts.created_by(g, &mut out);
        texts.origins(g, &mut out);
        if out.len() >= PIECE {
            give(&out);
            out.clear();
        }
    }
    give(&out);
}

/// What goroutines have in common, each written once.
pub(super) struct Texts<'a> {
    dump: &'a Dump<'a>,
    symbolizer: &'a mut Symbolizer,
    now_ns: u64,
    states: HashMap<(Status, u8), String>,
    /// Of the frames of an address: those that a traceback shows, and all.
    frames: HashMap<Pc, (String, String)>,
    /// By the address of a stack that several goroutines share, which stays where it is as long as the snapshot.
    stacks: HashMap<*const Stack, String>,
    /// Bytes in `stacks`.
    remembered: usize,
    creators: HashMap<u64, Option<Creator>>,
}

/// A `go` statement.
struct Creator {
    function: String,
    /// File, line and offset.
    place: String,
}

impl<'a> Texts<'a> {
    pub(super) fn new(dump: &'a Dump<'a>, symbolizer: &'a mut Symbolizer) -> Self {
        Self {
            dump,
            symbolizer,
            now_ns: dump.runtime.now_ns(),
            states: HashMap::new(),
            frames: HashMap::new(),
            stacks: HashMap::new(),
            remembered: 0,
            creators: HashMap::new(),
        }
    }

    /// The frames of a goroutine's stack; nothing where stacks were not asked for.
    pub(super) fn stack(&mut self, g: &Goroutine, out: &mut String) {
        if !self.dump.stacks {
            return;
        }
        if Arc::strong_count(&g.stack) == 1 {
            self.write_stack(&g.stack, out);
            return;
        }
        let key = Arc::as_ptr(&g.stack);
        if let Some(text) = self.stacks.get(&key) {
            out.push_str(text);
            return;
        }
        let mut text = String::new();
        self.write_stack(&g.stack, &mut text);
        out.push_str(&text);
        if self.remembered + text.len() > MAX_REMEMBERED {
            self.stacks.clear();
            self.remembered = 0;
        }
        self.remembered += text.len();
        self.stacks.insert(key, text);
    }

    fn write_stack(&mut self, stack: &Stack, out: &mut String) {
        if stack.pcs.is_empty() {
            // Also where it changed while it was read, so that it ran: tools know this line and no other.
            out.push_str("\tgoroutine running on other thread; stack unavailable\n");
        }
        let before = out.len();
        for all in [false, true] {
            for pc in &stack.pcs {
                let (shown, whole) = self.frames(*pc);
                out.push_str(if all { whole } else { shown });
            }
            // One with the runtime's frames alone shows these: a goroutine of its own, or one yet to begin.
            if out.len() != before {
                break;
            }
        }
        if stack.truncated {
            out.push_str("...additional frames elided...\n");
        }
    }

    fn frames(&mut self, pc: Pc) -> &(String, String) {
        if self.frames.len() >= MAX_PLACES {
            self.frames.clear();
        }
        let (dump, symbolizer) = (self.dump, &mut *self.symbolizer);
        self.frames.entry(pc).or_insert_with(|| {
            let (mut shown, mut all) = (String::new(), String::new());
            for frame in symbolizer.frames(dump.runtime.binary(), pc).iter() {
                let text = frame_text(frame);
                all.push_str(&text);
                if is_shown(frame) {
                    shown.push_str(&text);
                }
            }
            (shown, all)
        })
    }

    /// Where a goroutine was created, and by whom.
    fn created_by(&mut self, g: &Goroutine, out: &mut String) {
        if let Some(Creator { function, place }) = self.creator(g) {
            // Writing to a String can't fail.
            let _ = match g.parent_goid {
                0 => write!(out, "created by {function}\n\t{place}\n"),
                goid => write!(out, "created by {function} in goroutine {goid}\n\t{place}\n"),
            };
        }
    }

    /// Where a goroutine was created.
    pub(super) fn created_at(&mut self, g: &Goroutine) -> Option<String> {
        self.creator(g).map(|Creator { function, place }| format!("created by {function}\n\t{place}\n"))
    }

    fn creator(&mut self, g: &Goroutine) -> Option<&Creator> {
        if g.goid == 1 || g.gopc == 0 {
            return None;
        }
        if self.creators.len() >= MAX_PLACES {
            self.creators.clear();
        }
        let (dump, symbolizer) = (self.dump, &mut *self.symbolizer);
        let creator = self.creators.entry(g.gopc).or_insert_with(|| {
            let creation = Pc { address: g.gopc, exact: false };
            let frame = symbolizer.innermost_physical(dump.runtime.binary(), creation).filter(is_shown)?;
            let (function, place) = place(&frame);
            Some(Creator { function, place })
        });
        creator.as_ref()
    }

    fn header(&mut self, g: &Goroutine, out: &mut String) {
        let key = (g.status, if g.status.is_parked() { g.wait_reason } else { 0 });
        let dump = self.dump;
        let state = self.states.entry(key).or_insert_with(|| dump.head(g));
        // Writing to a String can't fail.
        let _ = write!(out, "goroutine {} [{state}", g.goid);
        if g.scan {
            out.push_str(" (scan)");
        }
        let bubble = dump.details.bubbles.get(&g.goid);
        if bubble.is_some() && g.status == Status::Waiting && is_idle_in_bubble(state) {
            out.push_str(" (durable)");
        }
        let minutes = match g.wait_since_ns {
            0 => 0,
            since => self.now_ns.saturating_sub(since) / 60_000_000_000,
        };
        if minutes >= 1 {
            let _ = write!(out, ", {minutes} minutes");
        }
        if g.locked {
            out.push_str(", locked to thread");
        }
        if let Some(bubble) = bubble {
            let _ = write!(out, ", synctest bubble {bubble}");
        }
        out.push_str("]:\n");
    }

    /// What is kept of a goroutine's ancestors, as the runtime prints it (`printAncestorTraceback`,
    /// runtime/traceback.go): frames by the name that was inlined, with the offset of the function itself.
    fn origins(&mut self, g: &Goroutine, out: &mut String) {
        let binary = self.dump.runtime.binary();
        for ancestor in self.dump.details.ancestors.get(&g.goid).into_iter().flatten() {
            // Writing to a String can't fail.
            let _ = writeln!(out, "[originating from goroutine {}]:", ancestor.goid);
            for pc in &ancestor.pcs {
                let frames = self.symbolizer.frames(binary, *pc);
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
            if let Some(frame) = self.symbolizer.innermost_physical(binary, creation)
                && ancestor.goid != 1
                && ancestor.gopc != 0
                && is_shown(&frame)
            {
                let (function, place) = place(&frame);
                let _ = write!(out, "created by {function}\n\t{place}\n");
            }
        }
    }
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

/// A function by its name, and its file, line and offset.
fn place(frame: &Frame) -> (String, String) {
    let offset = if frame.offset == 0 { String::new() } else { format!(" +{:#x}", frame.offset) };
    let (function, file) = (printable(&shortened(&frame.function)), printable(&frame.file));
    (function, format!("{file}:{}{offset}", frame.line))
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
    // The border between what panicked and what was deferred; it is never the innermost of a goroutine that is parked.
    if matches!(name, "runtime.runFinalizers" | "runtime.runCleanups" | "runtime.gopanic") {
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
