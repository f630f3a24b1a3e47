//! `gotrail inspect`: what is known of an executable without running it: its build, where its layout is from,
//! what each tier can do with it, where probes would go and what they cost, what is known against its toolchain,
//! and who tunes the runtime by hand.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use gotrail::binary::{
    Argument, BinaryError, CallSite, Calls, GoBinary, Hazard, Plan, Program, Site, ToolchainHazard,
    Unavailable, toolchain_hazards,
};
use gotrail::target::{Target, debug_file, read_file};
use gotrail::text::printable;
use serde_json::{Value, json};
use tracer_ebpf::{TIER_T1, TIER_T2, TIER_T3};

use super::ability::{self, Ability};
use super::args::{Format, InspectArgs};
use super::failure::{BACKEND, Failure, UNSUPPORTED};
use super::human::table;

/// Build settings that say something about how the program can be watched.
const SETTINGS: [&str; 9] = [
    "-buildmode",
    "-ldflags",
    "-trimpath",
    "-race",
    "-pgo",
    "GOEXPERIMENT",
    "CGO_ENABLED",
    "vcs.revision",
    "vcs.modified",
];

/// What was found out.
struct Report {
    program: Program,
    /// The rest, or why there is none.
    binary: Result<GoBinary, BinaryError>,
    plan: Plan,
    abilities: Vec<Ability>,
    toolchain: Vec<ToolchainHazard>,
    calls: Calls,
}

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let (bytes, pid) = read(&args.target)?;
    let program = Program::parse(bytes)
        .map_err(|error| Failure::new(UNSUPPORTED, format!("{}: {error}", printable(&args.target))))?;
    let report = report(program, pid);
    match args.format {
        Format::Human => human(&report),
        Format::Json => outln!("{}", to_json(&args.target, &report)),
    }
    Ok(ExitCode::SUCCESS)
}

fn report(program: Program, pid: Option<u32>) -> Report {
    let toolchain = toolchain_hazards(&program.build().version);
    let calls = program.hazards();
    match program.understand(|id| debug_file(pid, id)) {
        Ok(binary) => Report {
            program: binary.program().clone(),
            plan: binary.plan(TIER_T1 | TIER_T2 | TIER_T3),
            abilities: ability::of_binary(&binary),
            binary: Ok(binary),
            toolchain,
            calls,
        },
        Err(refused) => {
            let (program, error) = *refused;
            Report {
                abilities: ability::of_program(&program, &error),
                program,
                binary: Err(error),
                plan: Plan::default(),
                toolchain,
                calls,
            }
        }
    }
}

/// The bytes of a process's executable, or of a file. A number is a pid unless a file has that name.
fn read(target: &str) -> Result<(Arc<[u8]>, Option<u32>), Failure> {
    let path = Path::new(target);
    if let Ok(pid) = target.parse::<u32>()
        && !path.exists()
    {
        return Ok((Target::open(pid)?.read_executable()?, Some(pid)));
    }
    let bytes = read_file(path).map_err(|error| {
        Failure::new(
            BACKEND,
            format!("tried to read {}: {error}; give a pid, or the path of an executable", path.display()),
        )
    })?;
    Ok((bytes, None))
}

/// How the program is linked, in words.
fn linkage(program: &Program) -> String {
    let image = program.image();
    let mode = match (program.build().mode(), image.position_independent(), image.has_interpreter()) {
        (Some("c-shared"), ..) => "a C library (c-shared): can be inspected, but not watched",
        (_, true, true) => "position-independent, dynamically linked",
        (_, true, false) => "position-independent, static",
        (_, false, true) => "dynamically linked",
        (_, false, false) => "static",
    };
    let symbols = if image.has_symbols() { "with a symbol table" } else { "stripped" };
    format!("{}, {mode}, {symbols}", image.architecture().goarch())
}

fn human(report: &Report) {
    let (program, build) = (&report.program, report.program.build());
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    outln!("go version   {}", build.version);
    outln!("main package {}", or_dash(&build.path));
    outln!("module       {} {}", or_dash(&build.module), printable(&build.module_version));
    outln!("build        {}", linkage(program));
    outln!("build id     {}", build.go_build_id.as_deref().map_or_else(|| "-".to_owned(), printable));
    for name in SETTINGS {
        if let Some(value) = build.settings.get(name) {
            outln!("  {name:<14} {}", printable(value));
        }
    }
    for hazard in &report.toolchain {
        outln!("toolchain    {}: {} ({}; {})", hazard.id, hazard.what, hazard.advice, hazard.source);
    }

    outln!("\nwhat gotrail can do with it");
    ability::print(&report.abilities);
    if report.binary.is_ok() {
        sites(&report.plan);
    }
    calls(&report.calls);
}

fn sites(plan: &Plan) {
    outln!("\nprobe sites");
    let rows: Vec<Vec<String>> = plan
        .sites
        .iter()
        .map(|site| {
            vec![
                tier(site).to_owned(),
                site.probe.name().to_owned(),
                site.cost.name().to_owned(),
                format!("{:#x}", site.address),
                format!("{}+{}", printable(&site.function), site.address - site.entry),
            ]
        })
        .collect();
    out!("{}", table(&["TIER", "PROBE", "COST", "ADDRESS", "FUNCTION"], &rows));
    for missing in &plan.unavailable {
        outln!("without {}: {}{}", missing.probe.name(), printable(&missing.why), consequence(missing));
    }
    for substitute in &plan.substitutes {
        outln!(
            "{} is observed at {}: {} was inlined into {}",
            substitute.probe.name(),
            substitute.instead,
            printable(&substitute.function),
            printable(&substitute.into)
        );
    }
}

/// What matters most first: what the program itself changes, what the standard library does, and what only asks as one.
fn calls(calls: &Calls) {
    outln!("\nwho tunes the runtime by hand");
    if calls.sites.is_empty() {
        outln!(
            "nobody: no direct call was found in the code (one through a function value, like `go runtime.GC()`, is not)"
        );
        return;
    }
    let (asking, mut changing): (Vec<&CallSite>, Vec<&CallSite>) =
        calls.sites.iter().partition(|call| call.reads_only());
    changing.sort_by_key(|call| (call.in_standard_library, call.hazard == Hazard::Gc));
    let rows: Vec<Vec<String>> = changing
        .iter()
        .map(|call| {
            let place = format!("{}:{}", printable(&call.caller.file), call.caller.line);
            let mut note = if call.in_standard_library { "standard library" } else { "" }.to_owned();
            if call.inlined {
                note.push_str(" (inlined: attach does not see it called)");
            }
            vec![call_text(call), printable(&call.caller.function), place, note]
        })
        .collect();
    if !rows.is_empty() {
        out!("{}", table(&["CALL", "IN", "AT", ""], &rows));
    }
    if let Some(example) = asking.first() {
        outln!(
            "and {} calls that only ask for a setting, like {} in {} (--format json has them)",
            asking.len(),
            call_text(example),
            printable(&example.caller.function)
        );
    }
    if calls.left_out != 0 {
        outln!("{} further calls were left out: too many of one kind", calls.left_out);
    }
    outln!("direct calls only: one through a function value, like `go runtime.GC()`, is not found");
}

fn tier(site: &Site) -> &'static str {
    match site.probe.tier() {
        TIER_T1 => "T1",
        TIER_T2 => "T2",
        _ => "T3",
    }
}

fn consequence(missing: &Unavailable) -> &'static str {
    if missing.lost { ": such events are not seen" } else { ": nothing is lost" }
}

fn call_text(call: &CallSite) -> String {
    match call.argument {
        Argument::None => format!("{}()", call.hazard.name()),
        Argument::Constant(value) => format!("{}({value})", call.hazard.name()),
        Argument::Computed => format!("{}(…)", call.hazard.name()),
    }
}

fn to_json(target: &str, report: &Report) -> Value {
    let (program, build, plan) = (&report.program, report.program.build(), &report.plan);
    let binary = report.binary.as_ref().ok();
    let hazards: Vec<Value> = report
        .calls
        .sites
        .iter()
        .map(|call| {
            json!({
                "call": call.hazard.name(),
                "argument": match call.argument {
                    Argument::Constant(value) => Some(value),
                    Argument::None | Argument::Computed => None,
                },
                "argument_computed": call.argument == Argument::Computed,
                "function": call.caller.function,
                "file": call.caller.file,
                "line": call.caller.line,
                "standard_library": call.in_standard_library,
                "inlined": call.inlined,
                "reads_only": call.reads_only(),
            })
        })
        .collect();
    let returns = |site: &Site| {
        let binary = binary?;
        Some(binary.returns(binary.symbols().at(site.entry)?))
    };
    let sites: Vec<Value> = plan
        .sites
        .iter()
        .map(|site| {
            json!({
                "tier": tier(site),
                "probe": site.probe.name(),
                "function": site.function,
                "function_address": site.entry,
                "address": site.address,
                "file_offset": site.file_offset,
                "cost": site.cost.name(),
                "returns": returns(site),
            })
        })
        .collect();
    let unavailable: Vec<Value> = plan
        .unavailable
        .iter()
        .map(|u| json!({ "probe": u.probe.name(), "why": u.why, "lost": u.lost }))
        .collect();
    let substitutes: Vec<Value> = plan
        .substitutes
        .iter()
        .map(|s| {
            json!({
                "probe": s.probe.name(),
                "function": s.function,
                "inlined_into": s.into,
                "instead": s.instead,
            })
        })
        .collect();
    let toolchain: Vec<Value> = report
        .toolchain
        .iter()
        .map(|h| json!({ "id": h.id, "what": h.what, "advice": h.advice, "source": h.source }))
        .collect();
    let globals = binary.map(|binary| {
        let named = binary.globals().named();
        named.into_iter().map(|(name, at)| (name.to_owned(), at.into())).collect::<serde_json::Map<_, _>>()
    });
    json!({
        "schema": "gotrail.inspect/1",
        "target": target,
        "go_version": build.version.to_string(),
        "goarch": program.image().architecture().goarch(),
        "main_package": build.path,
        "module": build.module,
        "module_version": build.module_version,
        "settings": build.settings,
        "go_build_id": build.go_build_id,
        "gnu_build_id": program.image().gnu_build_id(),
        "position_independent": program.image().position_independent(),
        "dynamically_linked": program.image().has_interpreter(),
        "stripped": !program.image().has_symbols(),
        "layout_source": binary.map(|b| b.layout_source().to_string()),
        "globals_source": binary.map(|b| if b.globals().from_code { "code" } else { "symbols" }),
        "globals": globals,
        "refused": report.binary.as_ref().err().map(ToString::to_string),
        "abilities": ability::to_json(&report.abilities),
        "sites": sites,
        "unavailable": unavailable,
        "substitutes": substitutes,
        "toolchain": toolchain,
        "hazards": hazards,
        "hazards_left_out": report.calls.left_out,
    })
}
