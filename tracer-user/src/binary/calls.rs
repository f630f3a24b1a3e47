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

impl CallSite {
    /// Whether it asks for a setting and changes nothing: `GOMAXPROCS(0)`, `SetMemoryLimit(-1)`.
    #[must_use]
    pub const fn reads_only(&self) -> bool {
        reads_only(self.hazard, self.argument)
    }
}

const fn reads_only(hazard: Hazard, argument: Argument) -> bool {
    match (hazard, argument) {
        (Hazard::Gomaxprocs, Argument::Constant(value)) => value < 1,
        (Hazard::SetMemoryLimit, Argument::Constant(value)) => value < 0,
        _ => false,
    }
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Calls {
    /// In address order.
    pub sites: Vec<CallSite>,
    /// Further calls, beyond what is kept of a kind.
    pub left_out: u64,
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

/// Calls that change something, those that only ask, and those that may be in what was inlined, that are looked at; a
/// program has a few. The many of one kind leave the others their room.
const MAX_CALLS: usize = 1024;

/// Finds all direct calls, in address order.
pub(super) fn scan(image: &Image, symbols: &Symbols, module: &str) -> Calls {
    let targets: Vec<(u64, Hazard)> = symbols
        .find(image, TARGETS.map(|(name, _)| name))
        .into_iter()
        .zip(TARGETS)
        .filter_map(|(function, (_, hazard))| Some((function?.entry, hazard)))
        .collect();
    let within = symbols.find(image, WITHIN).into_iter().flatten().map(|function| function.entry);
    let addresses: Vec<u64> = targets.iter().map(|(address, _)| *address).chain(within).collect();
    let mut found = Calls::default();
    let [mut asks, mut changes, mut inner] = [MAX_CALLS; 3];
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
            if inside {
                continue;
            }
            let left = match hazard {
                Some((_, hazard)) if reads_only(*hazard, argument(call, *hazard)) => &mut asks,
                Some(_) => &mut changes,
                None => &mut inner,
            };
            if *left == 0 {
                found.left_out += 1;
                continue;
            }
            let site = match hazard {
                Some((_, hazard)) => site(image, symbols, call, *hazard),
                None => inlined_site(image, symbols, call),
            };
            // The runtime's own calls are none, and take no room but that of what may be in inlined code.
            if site.is_some() || hazard.is_none() {
                *left -= 1;
            }
            found.sites.extend(site.map(|site| CallSite {
                in_standard_library: is_standard_library(&site.caller.function)
                    && !is_of_module(&site.caller.function, module),
                ..site
            }));
        }
    }
    found
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
    Some(CallSite {
        hazard: *hazard,
        argument,
        address: call.address,
        caller,
        in_standard_library: false,
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
    let argument = argument(call, hazard);
    Some(CallSite {
        hazard,
        argument,
        address: call.address,
        caller,
        in_standard_library: false,
        inlined: false,
    })
}

fn argument(call: Call, hazard: Hazard) -> Argument {
    match (hazard, call.argument) {
        (Hazard::Gc | Hazard::FreeOsMemory, _) => Argument::None,
        // An int32 in a register whose upper half is free.
        (Hazard::SetGcPercent, Some(value)) => Argument::Constant(i64::from(value as i32)),
        (_, Some(value)) => Argument::Constant(value),
        (_, None) => Argument::Computed,
    }
}

/// Whether a function is of the main module, whose path may begin like one of the standard library's.
fn is_of_module(function: &str, module: &str) -> bool {
    !module.is_empty() && function.strip_prefix(module).is_some_and(|rest| rest.starts_with(['.', '/']))
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
    use super::{Argument, Hazard, is_of_module, is_standard_library, reads_only};

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
        for (name, module, own) in [
            ("image/resizer/util.Trim", "image/resizer", true),
            ("image/resizer.Trim", "image/resizer", true),
            ("image/resizers.Trim", "image/resizer", false),
            ("image/draw.Draw", "image/resizer", false),
            ("image.Decode", "", false),
        ] {
            assert_eq!(is_of_module(name, module), own, "{name} {module}");
        }
    }

    #[test]
    fn asking_for_a_setting_changes_nothing() {
        for (hazard, argument, asks) in [
            (Hazard::Gomaxprocs, Argument::Constant(0), true),
            (Hazard::Gomaxprocs, Argument::Constant(1), false),
            (Hazard::Gomaxprocs, Argument::Computed, false),
            (Hazard::SetMemoryLimit, Argument::Constant(-1), true),
            (Hazard::SetMemoryLimit, Argument::Constant(0), false),
            (Hazard::SetGcPercent, Argument::Constant(-1), false),
        ] {
            assert_eq!(reads_only(hazard, argument), asks, "{hazard:?} {argument:?}");
        }
    }
}
