//! `gotrail dump`: every goroutine, as the text of a Go traceback or as JSON.

use std::process::ExitCode;

use gotrail::agent::understand;
use gotrail::binary::Frame;
use gotrail::memory::{Goroutine, Pc, Runtime, Snapshot, Status, Symbolizer, monotonic_ns};
use gotrail::target::Target;
use gotrail::text::duration;
use serde_json::json;

use super::args::{DumpArgs, Format};
use super::failure::Failure;
use super::json;

pub(crate) fn run(args: &DumpArgs) -> Result<ExitCode, Failure> {
    let target = Target::open(args.pid)?;
    let binary = understand(&target)?;
    let runtime = Runtime::open(&target, &binary)?;
    let snapshot = runtime.snapshot()?;
    let shown: Vec<&Goroutine> = snapshot.goroutines.iter().filter(|g| args.system || !g.system).collect();
    match args.format {
        Format::Human => text(&runtime, &shown),
        Format::Json => outln!("{}", to_json(&target, &runtime, &snapshot, &shown)),
    }
    eprintln!(
        "{} goroutines ({} of the runtime itself) read in {} without stopping the process; {} changed while they were read, {} unreadable",
        snapshot.goroutines.len(),
        snapshot.goroutines.iter().filter(|g| g.system).count(),
        duration(snapshot.took_ns),
        snapshot.torn,
        snapshot.unread
    );
    Ok(ExitCode::SUCCESS)
}

/// The text of `debug=2`, as far as it can be known from outside: arguments of calls can't.
fn text(runtime: &Runtime<'_>, goroutines: &[&Goroutine]) {
    let mut symbolizer = Symbolizer::default();
    let mut out = String::new();
    for g in goroutines {
        out.push_str(&header(runtime, g));
        if g.stack.pcs.is_empty() {
            out.push_str(if g.torn {
                "\tgoroutine changed while it was read; stack unavailable\n"
            } else {
                "\tgoroutine running on other thread; stack unavailable\n"
            });
        }
        for pc in &g.stack.pcs {
            for frame in symbolizer.frames(runtime.binary(), *pc).iter().filter(|f| is_shown(f)) {
                out.push_str(&frame_text(frame));
            }
        }
        if g.stack.truncated {
            out.push_str("...additional frames elided...\n");
        }
        let creation = Pc { address: g.gopc, exact: false };
        if g.goid != 1
            && g.gopc != 0
            && let Some(frame) = symbolizer.innermost_physical(runtime.binary(), creation).filter(is_shown)
        {
            let parent =
                if g.parent_goid == 0 { String::new() } else { format!(" in goroutine {}", g.parent_goid) };
            let offset = if frame.offset == 0 { String::new() } else { format!(" +{:#x}", frame.offset) };
            out.push_str(&format!(
                "created by {}{parent}\n\t{}:{}{offset}\n",
                shortened(&frame.function),
                frame.file,
                frame.line
            ));
        }
        out.push('\n');
    }
    // One blank line between goroutines, none at the end.
    out!("{}", out.strip_suffix('\n').unwrap_or(&out));
}

fn header(runtime: &Runtime<'_>, g: &Goroutine) -> String {
    let status = if g.status.is_parked() && g.wait_reason != 0 {
        runtime.wait_reason(g.wait_reason)
    } else {
        g.status.name()
    };
    let mut text = format!("goroutine {} [{status}", g.goid);
    if g.status == Status::Leaked {
        text.push_str(" (leaked)");
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
    text.push_str("]:\n");
    text
}

fn frame_text(frame: &Frame) -> String {
    let name = if frame.function == "runtime.gopanic" { "panic" } else { &frame.function };
    let offset = if frame.inlined { String::new() } else { format!(" +{:#x}", frame.offset) };
    format!("{}(...)\n\t{}:{}{offset}\n", shortened(name), frame.file, frame.line)
}

/// Type arguments as the runtime prints them (`funcNameForPrint`, runtime/symtab.go).
fn shortened(name: &str) -> String {
    match (name.find('['), name.rfind(']')) {
        (Some(open), Some(close)) if open < close => format!("{}[...]{}", &name[..open], &name[close + 1..]),
        _ => name.to_owned(),
    }
}

/// Which frames a traceback shows (`showfuncinfo`, runtime/traceback.go).
fn is_shown(frame: &Frame) -> bool {
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

fn to_json(
    target: &Target,
    runtime: &Runtime<'_>,
    snapshot: &Snapshot,
    shown: &[&Goroutine],
) -> serde_json::Value {
    let mut symbolizer = Symbolizer::default();
    let binary = runtime.binary();
    let goroutines: Vec<serde_json::Value> = shown
        .iter()
        .map(|g| {
            let stack: Vec<serde_json::Value> = g
                .stack
                .pcs
                .iter()
                .flat_map(|pc| symbolizer.frames(binary, *pc).iter().map(json::frame).collect::<Vec<_>>())
                .collect();
            let creation = Pc { address: g.gopc, exact: false };
            let created = (g.gopc != 0).then(|| symbolizer.innermost(binary, creation)).flatten();
            let since = (g.wait_since_ns != 0).then_some(g.wait_since_ns);
            json!({
                "goid": g.goid,
                "status": g.status.name(),
                "wait_reason": g.status.is_parked().then(|| runtime.wait_reason(g.wait_reason)),
                "wait_since_ns": since,
                "wait_for_ns": since.map(|at| snapshot.taken_ns.saturating_sub(at)),
                "start_function": binary.function_name(g.startpc),
                "created_by": created.map(|f| json!({
                    "function": f.function,
                    "file": f.file,
                    "line": f.line,
                    "goid": (g.parent_goid != 0).then_some(g.parent_goid),
                })),
                "stack": stack,
                "stack_truncated": g.stack.truncated,
                "thread_id": g.thread_id,
                "locked_to_thread": g.locked,
                "system": g.system,
                "torn": g.torn,
            })
        })
        .collect();
    json!({
        "schema": "gotrail.dump/1",
        "pid": target.pid(),
        "go_version": binary.version().to_string(),
        "layout_source": binary.layout_source().to_string(),
        "taken_at": json::wall(snapshot.taken_ns),
        "took_ns": snapshot.took_ns,
        "torn": snapshot.torn,
        "unread": snapshot.unread,
        "goroutines": goroutines,
    })
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
