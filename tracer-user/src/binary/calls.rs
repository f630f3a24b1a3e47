//! Who calls the functions that tune the runtime by hand: found in the machine code, so in stripped
//! binaries and for calls made before attach too.

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};

use super::image::{Architecture, Image};
use super::symbols::{Frame, Function, Symbols};

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

/// Finds all direct calls, in address order.
pub(super) fn scan(image: &Image, symbols: &Symbols) -> Vec<CallSite> {
    if image.architecture() != Architecture::Amd64 {
        return Vec::new();
    }
    let targets: Vec<(u64, Hazard)> = symbols
        .find(image, TARGETS.map(|(name, _)| name))
        .into_iter()
        .zip(TARGETS)
        .filter_map(|(function, (_, hazard))| Some((function?.entry, hazard)))
        .collect();
    if targets.is_empty() {
        return Vec::new();
    }
    let mut sites = Vec::new();
    for function in symbols.functions() {
        let len = usize::try_from(function.end.saturating_sub(function.entry)).unwrap_or(0);
        let Some(code) = image.read(function.entry, len) else { continue };
        // Only functions whose bytes hold something that looks like such a call are decoded.
        if looks_like_call(code, function.entry, &targets) {
            decode(image, symbols, *function, code, &targets, &mut sites);
        }
    }
    sites
}

/// Whether `e8 rel32` to a target occurs at any byte, boundary or not.
fn looks_like_call(code: &[u8], base: u64, targets: &[(u64, Hazard)]) -> bool {
    code.windows(5).enumerate().any(|(at, window)| {
        let &[0xe8, a, b, c, d] = window else { return false };
        let next = base.wrapping_add(at as u64 + 5);
        let target = next.wrapping_add_signed(i64::from(i32::from_le_bytes([a, b, c, d])));
        targets.iter().any(|(address, _)| *address == target)
    })
}

fn decode(
    image: &Image,
    symbols: &Symbols,
    function: Function,
    code: &[u8],
    targets: &[(u64, Hazard)],
    sites: &mut Vec<CallSite>,
) {
    let jump_targets = jump_targets(code, function.entry);
    let mut decoder = Decoder::with_ip(64, code, function.entry, DecoderOptions::NONE);
    let mut factory = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    let mut first_argument = Argument::Computed;
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            // Padding and data behind the last instruction.
            first_argument = Argument::Computed;
            continue;
        }
        if jump_targets.contains(&instruction.ip()) {
            first_argument = Argument::Computed;
        }
        if instruction.is_call_near() {
            let target = instruction.near_branch_target();
            if let Some((_, hazard)) = targets.iter().find(|(address, _)| *address == target)
                && let Some(site) = site(image, symbols, &instruction, *hazard, first_argument)
            {
                sites.push(site);
            }
            first_argument = Argument::Computed;
        } else if let Some(constant) = constant_in_first_argument(&instruction) {
            first_argument = Argument::Constant(constant);
        } else if writes_first_argument(&mut factory, &instruction) {
            first_argument = Argument::Computed;
        }
    }
}

fn site(
    image: &Image,
    symbols: &Symbols,
    call: &Instruction,
    hazard: Hazard,
    first_argument: Argument,
) -> Option<CallSite> {
    let frames = symbols.frames(image, call.ip(), true);
    // A frame of runtime/debug around the call is the public function, inlined.
    let physical = &frames.last()?.function;
    if physical.starts_with("runtime/debug.") || physical.starts_with("runtime.") {
        return None;
    }
    let caller = frames.iter().find(|frame| !frame.function.starts_with("runtime/debug."))?.clone();
    let argument = match (hazard, first_argument) {
        (Hazard::Gc | Hazard::FreeOsMemory, _) => Argument::None,
        // An int32 in a register whose upper half is free.
        (Hazard::SetGcPercent, Argument::Constant(value)) => Argument::Constant(i64::from(value as i32)),
        (_, argument) => argument,
    };
    let in_standard_library = is_standard_library(&caller.function);
    Some(CallSite { hazard, argument, address: call.ip(), caller, in_standard_library })
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

fn jump_targets(code: &[u8], base: u64) -> Vec<u64> {
    let mut decoder = Decoder::with_ip(64, code, base, DecoderOptions::NONE);
    let mut instruction = Instruction::default();
    let mut targets = Vec::new();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near() {
            targets.push(instruction.near_branch_target());
        }
    }
    targets
}

fn constant_in_first_argument(instruction: &Instruction) -> Option<i64> {
    let into_rax = matches!(instruction.op0_register(), Register::EAX | Register::RAX);
    match instruction.code() {
        Code::Mov_r32_imm32 if into_rax => Some(i64::from(instruction.immediate32())),
        Code::Mov_rm64_imm32 | Code::Mov_r64_imm64
            if into_rax && instruction.op0_kind() == OpKind::Register =>
        {
            Some(instruction.immediate(1) as i64)
        }
        _ if instruction.mnemonic() == Mnemonic::Xor
            && into_rax
            && instruction.op1_kind() == OpKind::Register
            && instruction.op0_register() == instruction.op1_register() =>
        {
            Some(0)
        }
        _ => None,
    }
}

fn writes_first_argument(factory: &mut InstructionInfoFactory, instruction: &Instruction) -> bool {
    factory.info(instruction).used_registers().iter().any(|used| {
        used.register().full_register() == Register::RAX
            && matches!(
                used.access(),
                OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
            )
    })
}

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
