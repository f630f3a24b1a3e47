//! Where probes go: a pure plan from machine code (SAFE-2).
//!
//! A probe on an ordinary instruction is single-stepped by the kernel, ten times the cost of one on an
//! instruction that the kernel emulates. Nearly every Go function begins with a stack check, whose `push
//! %rbp` behind it (Go 1.21 and later) or `jbe` inside it (earlier) is emulated: the arguments are still in
//! their registers there. Every site is an instruction boundary found by decoding from the function's start.

use iced_x86::{
    Code, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
};
use tracer_ebpf::{Probe, TIER_T1, TIER_T2};

use super::image::{Architecture, Image};
use super::symbols::{Function, Symbols};
use super::version::GoVersion;

/// What one hit of a site costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// The kernel emulates the instruction.
    Emulated,
    /// The kernel single-steps it: about fourteen times as dear.
    Stepped,
}

impl Cost {
    /// The name used in outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emulated => "emulated",
            Self::Stepped => "single-stepped",
        }
    }
}

/// One place for a probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// What it observes.
    pub probe: Probe,
    /// The function that it is in.
    pub function: String,
    /// Linked address of the instruction.
    pub address: u64,
    /// Its offset in the file: what the kernel places it by.
    pub file_offset: u64,
    /// The instruction's bytes, to be compared with those in memory.
    pub bytes: Vec<u8>,
    /// What a hit costs.
    pub cost: Cost,
    /// For creation sites: the number of the register that holds the new `*g`.
    pub register: u8,
}

/// A probe that has no site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// What would have been observed.
    pub probe: Probe,
    /// Why not.
    pub why: String,
    /// Whether the events are lost; false where the program simply can't do this (the function is not linked).
    pub lost: bool,
}

/// All sites of some tiers of one binary.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Where probes go.
    pub sites: Vec<Site>,
    /// What can't be observed.
    pub unavailable: Vec<Unavailable>,
}

impl Plan {
    /// The sites of one tier.
    pub fn tier(&self, tier: u32) -> impl Iterator<Item = &Site> {
        self.sites.iter().filter(move |site| site.probe.tier() == tier)
    }
}

/// Functions whose entry is observed: probe, name, whether every program has it.
const ENTRIES: [(Probe, &str, bool); 16] = [
    (Probe::GcStart, "runtime.(*gcControllerState).startCycle", true),
    (Probe::GcMarkEnd, "runtime.(*gcControllerState).endCycle", true),
    (Probe::GcMarkTermination, "runtime.gcMarkTermination", true),
    (Probe::GcLive, "runtime.(*gcControllerState).resetLive", true),
    (Probe::GcSweep, "runtime.gcSweep", true),
    (Probe::StwStop, "runtime.stopTheWorldWithSema", true),
    (Probe::StwStart, "runtime.startTheWorldWithSema", true),
    (Probe::Gopanic, "runtime.gopanic", true),
    (Probe::Fatalpanic, "runtime.fatalpanic", true),
    (Probe::Throw, "runtime.throw", true),
    (Probe::Fatal, "runtime.fatal", true),
    (Probe::Sigpanic, "runtime.sigpanic", true),
    (Probe::Procresize, "runtime.procresize", true),
    (Probe::ForcedGc, "runtime.GC", false),
    (Probe::SetGcPercent, "runtime/debug.setGCPercent", false),
    (Probe::Recovery, "runtime.recovery", true),
];

/// Plans the sites of `tiers` (`TIER_` bits).
#[must_use]
pub(super) fn plan(image: &Image, symbols: &Symbols, version: &GoVersion, tiers: u32) -> Plan {
    let mut plan = Plan::default();
    if image.architecture() != Architecture::Amd64 {
        let why = format!("probe sites are planned on amd64 only, not on {}", image.architecture().goarch());
        plan.unavailable = Probe::ALL
            .iter()
            .filter(|probe| probe.tier() & tiers != 0)
            .map(|&probe| Unavailable { probe, why: why.clone(), lost: true })
            .collect();
        return plan;
    }
    if tiers & TIER_T1 != 0 {
        let functions = symbols.find(image, ENTRIES.map(|(_, name, _)| name));
        for ((probe, name, always), function) in ENTRIES.into_iter().zip(functions) {
            match function {
                Some(function) => plan.add(probe, name, entry_site(image, function)),
                None => plan.unavailable.push(Unavailable {
                    probe,
                    why: format!("{name} is not in the binary"),
                    lost: always,
                }),
            }
        }
    }
    if tiers & TIER_T2 != 0 {
        plan_creation(&mut plan, image, symbols);
        plan_exit(&mut plan, image, symbols, version);
    }
    plan.note_inlined(image, symbols);
    plan
}

impl Plan {
    fn add(&mut self, probe: Probe, function: &str, site: Result<Found, String>) {
        match site {
            Ok(found) => self.sites.push(Site {
                probe,
                function: function.to_owned(),
                address: found.address,
                file_offset: found.file_offset,
                bytes: found.bytes,
                cost: found.cost,
                register: found.register,
            }),
            Err(why) => {
                self.unavailable.push(Unavailable { probe, why: format!("{function}: {why}"), lost: true });
            }
        }
    }

    /// Says which of the observed functions the compiler (with a profile) inlined into others: what passes
    /// there is not seen.
    fn note_inlined(&mut self, image: &Image, symbols: &Symbols) {
        let mut inlined: Vec<(usize, String)> = Vec::new();
        symbols.for_each_name(image, |function, name, _| {
            if !name.starts_with("runtime.") {
                return;
            }
            for callee in symbols.inlined_into(image, function) {
                if let Some(at) = self.sites.iter().position(|site| {
                    site.function == callee && site.probe != Probe::GoCreate && site.function != name
                }) {
                    inlined.push((at, name.to_owned()));
                }
            }
        });
        for (at, into) in inlined {
            let Some(site) = self.sites.get(at) else { continue };
            // goexit0 is observed as well wherever gdestroy was inlined into it, see plan_exit.
            let covered = self.sites.iter().any(|other| other.probe == site.probe && other.function == into);
            if !covered {
                self.unavailable.push(Unavailable {
                    probe: site.probe,
                    why: format!("{} was inlined into {into}: what passes there is not seen", site.function),
                    lost: true,
                });
            }
        }
    }
}

struct Found {
    address: u64,
    file_offset: u64,
    bytes: Vec<u8>,
    cost: Cost,
    register: u8,
}

fn found(image: &Image, instruction: &Instruction, cost: Cost, register: u8) -> Result<Found, String> {
    let address = instruction.ip();
    let outside = || format!("the file does not hold the instruction at {address:#x}");
    Ok(Found {
        address,
        file_offset: image.file_offset(address).ok_or_else(outside)?,
        bytes: image.read(address, instruction.len()).ok_or_else(outside)?.to_vec(),
        cost,
        register,
    })
}

fn decoder<'a>(image: &'a Image, function: Function) -> Result<Decoder<'a>, String> {
    let len = usize::try_from(function.end - function.entry).unwrap_or(0).min(1 << 20);
    let code = image.read(function.entry, len).ok_or("its code is not in the file")?;
    Ok(Decoder::with_ip(64, code, function.entry, DecoderOptions::NONE))
}

/// The cheapest site at which a function's arguments are still in their registers.
fn entry_site(image: &Image, function: Function) -> Result<Found, String> {
    // The prologue (cmd/internal/obj/x86/obj6.go, `preprocess` and `stacksplit`): optional `lea -X(%rsp),%r12`
    // or `mov %rsp,%r12; sub; jb` for large frames, `cmp 0x10(%r14)`, `jbe`, then `push %rbp`.
    const PROLOGUE: usize = 7;
    let mut decoder = decoder(image, function)?;
    let mut check = None;
    let mut first = None;
    for _ in 0..PROLOGUE {
        if !decoder.can_decode() {
            break;
        }
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Err(format!("its code can't be decoded at {:#x}", instruction.ip()));
        }
        first.get_or_insert(instruction);
        match instruction.code() {
            Code::Push_r64 if instruction.op0_register() == Register::RBP => {
                return found(image, &instruction, Cost::Emulated, 0);
            }
            Code::Jbe_rel8_64 | Code::Jbe_rel32_64 => check = Some(instruction),
            Code::Jb_rel8_64 | Code::Jb_rel32_64 => {}
            _ => match instruction.mnemonic() {
                Mnemonic::Cmp => {}
                Mnemonic::Lea | Mnemonic::Mov | Mnemonic::Sub
                    if instruction.op0_register() == Register::R12 && check.is_none() => {}
                _ => break,
            },
        }
    }
    match (check, first) {
        (Some(jump), _) => found(image, &jump, Cost::Emulated, 0),
        (None, Some(first)) => found(image, &first, Cost::Stepped, 0),
        (None, None) => Err("it has no code".to_owned()),
    }
}

/// Creation: behind each call of `newproc1`, the first emulated instruction at which the new `*g` is still in
/// a register. All its fields are set by then, and nobody can run it yet (runtime/proc.go, `newproc`).
fn plan_creation(plan: &mut Plan, image: &Image, symbols: &Symbols) {
    let [Some(newproc1)] = symbols.find(image, ["runtime.newproc1"]) else {
        plan.unavailable.push(Unavailable {
            probe: Probe::GoCreate,
            why: "runtime.newproc1 is not in the binary".to_owned(),
            lost: true,
        });
        return;
    };
    let mut callers = Vec::new();
    symbols.for_each_name(image, |function, name, _| {
        // debugCallWrap1 creates the goroutine of a debugger's call only.
        if name.starts_with("runtime.") && !name.starts_with("runtime.debugCall") {
            callers.push((function, name));
        }
    });
    let mut any = false;
    for (function, name) in callers {
        let Ok(decoder) = decoder(image, function) else { continue };
        for site in after_calls(image, decoder, newproc1.entry) {
            any = true;
            plan.add(Probe::GoCreate, name, site);
        }
    }
    if !any {
        plan.unavailable.push(Unavailable {
            probe: Probe::GoCreate,
            why: "nothing in the runtime calls newproc1".to_owned(),
            lost: true,
        });
    }
}

/// How far behind a call a site is looked for.
const AFTER_CALL: usize = 24;

fn after_calls(image: &Image, mut decoder: Decoder<'_>, callee: u64) -> Vec<Result<Found, String>> {
    let mut sites = Vec::new();
    let mut factory = InstructionInfoFactory::new();
    let mut instruction = Instruction::default();
    while decoder.can_decode() {
        decoder.decode_out(&mut instruction);
        if instruction.is_invalid() {
            break;
        }
        if !(instruction.is_call_near() && instruction.near_branch_target() == callee) {
            continue;
        }
        // The result register of ABIInternal.
        let mut holders = vec![Register::RAX];
        let mut site = Err("no emulated instruction follows while the new g is in a register".to_owned());
        for _ in 0..AFTER_CALL {
            if !decoder.can_decode() {
                break;
            }
            decoder.decode_out(&mut instruction);
            if is_emulated(&instruction) {
                if let Some(holder) = holders.first() {
                    // A register's number is below 16.
                    site = found(image, &instruction, Cost::Emulated, holder.number() as u8);
                }
                break;
            }
            if instruction.is_jcc_short_or_near() || instruction.is_jmp_short_or_near() || holders.is_empty()
            {
                break;
            }
            follow(&mut factory, &instruction, &mut holders);
        }
        sites.push(site);
    }
    sites
}

/// Instructions that the kernel emulates for uprobes (arch/x86/kernel/uprobes.c, `branch_setup_xol_ops` and
/// `push_setup_xol_ops`): relative calls and jumps, conditional jumps, `nop`, one-register pushes.
fn is_emulated(instruction: &Instruction) -> bool {
    instruction.is_call_near()
        || instruction.is_jcc_short_or_near()
        || instruction.is_jmp_short_or_near()
        || matches!(instruction.code(), Code::Nopd | Code::Push_r64)
}

/// Keeps the list of registers that hold the value up to date over one instruction.
fn follow(factory: &mut InstructionInfoFactory, instruction: &Instruction, holders: &mut Vec<Register>) {
    let copies_to = (instruction.code() == Code::Mov_r64_rm64 || instruction.code() == Code::Mov_rm64_r64)
        && instruction.op0_kind() == OpKind::Register
        && instruction.op1_kind() == OpKind::Register
        && holders.contains(&instruction.op1_register());
    let info = factory.info(instruction);
    for used in info.used_registers() {
        let writes = !matches!(
            used.access(),
            OpAccess::None | OpAccess::Read | OpAccess::CondRead | OpAccess::NoMemAccess
        );
        if writes {
            holders.retain(|holder| *holder != used.register().full_register());
        }
    }
    if copies_to {
        holders.push(instruction.op0_register());
    }
}

/// Exit: `gdestroy` from Go 1.22, which ends coroutines too, else `goexit0`; both get the `*g` in the first
/// argument register. Where a profile had gdestroy inlined into goexit0, both are observed.
fn plan_exit(plan: &mut Plan, image: &Image, symbols: &Symbols, version: &GoVersion) {
    let [gdestroy, goexit0] = symbols.find(image, ["runtime.gdestroy", "runtime.goexit0"]);
    match (gdestroy, goexit0) {
        (Some(gdestroy), goexit0) => {
            plan.add(Probe::GoExit, "runtime.gdestroy", entry_site(image, gdestroy));
            if let Some(goexit0) = goexit0
                && symbols.inlined_into(image, goexit0).contains(&"runtime.gdestroy")
            {
                plan.add(Probe::GoExit, "runtime.goexit0", entry_site(image, goexit0));
            }
        }
        (None, Some(goexit0)) => plan.add(Probe::GoExit, "runtime.goexit0", entry_site(image, goexit0)),
        (None, None) => plan.unavailable.push(Unavailable {
            probe: Probe::GoExit,
            why: format!("neither runtime.gdestroy nor runtime.goexit0 is in this {version} binary"),
            lost: true,
        }),
    }
}
