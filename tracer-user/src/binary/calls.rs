//! Who calls the functions that tune the runtime by hand: found in the machine code, so in stripped
//! binaries and for calls made before attach too.

use super::code::{Call, Code};
use super::image::Image;
use super::symbols::{Frame, Symbols};

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hazard {
    /// `runtime.GC`.
    Gc,
    /// `runtime/debug.SetGCPercent`.
    SetGcPercent,
    /// `runtime.GOMAXPROCS`.
    Gomaxprocs,
    /// `runtime/debug.FreeOSMemory`: a forced collection, and all free memory given back.
    FreeOsMemory,
    /// `runtime/debug.SetMemoryLimit`.
    SetMemoryLimit,
    /// `runtime/debug.SetMaxThreads`.
    SetMaxThreads,
}

impl Hazard {
    /// The Go name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gc => "runtime.GC",
            Self::SetGcPercent => "debug.SetGCPercent",
            Self::Gomaxprocs => "runtime.GOMAXPROCS",
            Self::FreeOsMemory => "debug.FreeOSMemory",
            Self::SetMemoryLimit => "debug.SetMemoryLimit",
            Self::SetMaxThreads => "debug.SetMaxThreads",
        }
    }
}

/// The argument of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument {
    /// The function takes none.
    None,
    /// A constant in the code.
    Constant(i64),
    /// Computed at run time.
    Computed,
}

/// One call.
#[derive(Clone, Debug)]
pub struct CallSite {
    /// What is called.
    pub hazard: Hazard,
    /// With what.
    pub argument: Argument,
    /// Linked address of the call instruction.
    pub address: u64,
    /// The frame in the source that calls: the innermost that is not part of the runtime itself.
    pub caller: Frame,
    /// Whether the caller belongs to Go's standard library.
    pub in_standard_library: bool,
    /// The compiler inlined what is called into the caller: a probe on the function does not see this call.
    pub inlined: bool,
}

/// Targets: the function called, and how it is reported. Those of
/// runtime/debug are small enough to be inlined, so their callees are looked for as well.
const TARGETS: [(&str, Hazard); 10] = [
    ("runtime.GC", Hazard::Gc),
    ("runtime.GOMAXPROCS", Hazard::Gomaxprocs),
    ("runtime/debug.SetGCPercent", Hazard::SetGcPercent),
    ("runtime/debug.setGCPercent", Hazard::SetGcPercent),
    ("runtime/debug.FreeOSMemory", Hazard::FreeOsMemory),
    ("runtime/debug.freeOSMemory", Hazard::FreeOsMemory),
    ("runtime/debug.SetMemoryLimit", Hazard::SetMemoryLimit),
    ("runtime/debug.setMemoryLimit", Hazard::SetMemoryLimit),
    ("runtime/debug.SetMaxThreads", Hazard::SetMaxThreads),
    ("runtime/debug.setMaxThreads", Hazard::SetMaxThreads),
];

/// What the bodies of the targets call: where the compiler (by a profile) inlined one of them into its caller, only
/// this call is left of it, in the inlined frame of the target.
const WITHIN: [&str; 3] = ["runtime.gcStart", "runtime.stopTheWorldGC", "runtime.stopTheWorld"];

/// Calls that are looked at; a program has a few.
const MAX_CALLS: usize = 1024;

/// Finds all direct calls, in address order.
pub(super) fn scan(image: &Image, symbols: &Symbols) -> Vec<CallSite> {
    let targets: Vec<(u64, Hazard)> = symbols
        .find(image, TARGETS.map(|(name, _)| name))
        .into_iter()
        .zip(TARGETS)
        .filter_map(|(function, (_, hazard))| Some((function?.entry, hazard)))
        .collect();
    let within = symbols.find(image, WITHIN).into_iter().flatten().map(|function| function.entry);
    let addresses: Vec<u64> = targets.iter().map(|(address, _)| *address).chain(within).collect();
    let mut sites = Vec::new();
    let mut left = MAX_CALLS;
    for function in symbols.functions() {
        let Some(code) = Code::of(image, *function) else { continue };
        // Only functions whose bytes hold something that looks like such a call are decoded.
        if !code.may_call(&addresses) {
            continue;
        }
        for call in code.calls(&addresses) {
            let hazard = targets.iter().find(|(address, _)| *address == call.target);
            // A jump within the function itself is none.
            let inside = (function.entry..function.end).contains(&call.target);
            if inside || left == 0 {
                continue;
            }
            left -= 1;
            sites.extend(match hazard {
                Some((_, hazard)) => site(image, symbols, call, *hazard),
                None => inlined_site(image, symbols, call),
            });
        }
    }
    sites
}

/// The caller of a target that was inlined into it; `None` if the call is in no such frame.
fn inlined_site(image: &Image, symbols: &Symbols, call: Call) -> Option<CallSite> {
    let frames = symbols.frames(image, call.address, true);
    if frames.last()?.function.starts_with("runtime.") {
        return None;
    }
    let target = |frame: &Frame| TARGETS.iter().find(|(name, _)| frame.inlined && frame.function == *name);
    let at = frames.iter().rposition(|frame| target(frame).is_some())?;
    let (_, hazard) = target(frames.get(at)?)?;
    let caller = frames.get(at + 1)?.clone();
    let argument = match hazard {
        Hazard::Gc | Hazard::FreeOsMemory => Argument::None,
        _ => Argument::Computed,
    };
    let in_standard_library = is_standard_library(&caller.function);
    Some(CallSite {
        hazard: *hazard,
        argument,
        address: call.address,
        caller,
        in_standard_library,
        inlined: true,
    })
}

fn site(image: &Image, symbols: &Symbols, call: Call, hazard: Hazard) -> Option<CallSite> {
    let frames = symbols.frames(image, call.address, true);
    // A frame of runtime/debug around the call is the public function, inlined.
    let physical = &frames.last()?.function;
    if physical.starts_with("runtime/debug.") || physical.starts_with("runtime.") {
        return None;
    }
    let caller = frames.iter().find(|frame| !frame.function.starts_with("runtime/debug."))?.clone();
    let argument = match (hazard, call.argument) {
        (Hazard::Gc | Hazard::FreeOsMemory, _) => Argument::None,
        // An int32 in a register whose upper half is free.
        (Hazard::SetGcPercent, Some(value)) => Argument::Constant(i64::from(value as i32)),
        (_, Some(value)) => Argument::Constant(value),
        (_, None) => Argument::Computed,
    };
    let in_standard_library = is_standard_library(&caller.function);
    Some(CallSite { hazard, argument, address: call.address, caller, in_standard_library, inlined: false })
}

/// Whether a function belongs to the standard library: its import path has no dot in the first element and
/// it is not the main package.
pub(crate) fn is_standard_library(function: &str) -> bool {
    let path_end = function.rfind('/').map_or(0, |slash| slash + 1);
    let package_end = function[path_end..].find('.').map_or(function.len(), |dot| path_end + dot);
    let package = &function[..package_end];
    let first = package.split('/').next().unwrap_or(package);
    package != "main" && !first.contains('.') && !first.contains("%2e") && STANDARD_ROOTS.contains(&first)
}

/// First elements of the import paths of the standard library (go list std, Go 1.27): a module may have a
/// path without a dot too.
const STANDARD_ROOTS: [&str; 47] = [
    "archive",
    "bufio",
    "bytes",
    "cmp",
    "compress",
    "container",
    "context",
    "crypto",
    "database",
    "debug",
    "embed",
    "encoding",
    "errors",
    "expvar",
    "flag",
    "fmt",
    "go",
    "hash",
    "html",
    "image",
    "index",
    "internal",
    "io",
    "iter",
    "log",
    "maps",
    "math",
    "mime",
    "net",
    "os",
    "path",
    "plugin",
    "reflect",
    "regexp",
    "runtime",
    "slices",
    "sort",
    "strconv",
    "strings",
    "structs",
    "sync",
    "syscall",
    "testing",
    "text",
    "time",
    "unicode",
    "unsafe",
];

#[cfg(test)]
mod tests {
    use super::is_standard_library;

    #[test]
    fn tells_the_standard_library_from_modules() {
        for name in
            ["net/http.(*conn).serve", "runtime/pprof.writeHeap", "testing.(*B).runN", "sync.(*Mutex).Lock"]
        {
            assert!(is_standard_library(name), "{name}");
        }
        for name in [
            "main.main",
            "github.com/x/y.F",
            "example%2ecom/a.G",
            "shop/internal/db.(*Pool).Get",
            "go.uber.org/fx.New",
        ] {
            assert!(!is_standard_library(name), "{name}");
        }
    }
}
