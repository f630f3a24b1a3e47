//! `gotrail inspect`: what is known of an executable without running it: its build, where its layout is from,
//! where probes would go and what they cost, and who tunes the runtime by hand.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use gotrail::binary::{Argument, CallSite, GoBinary, Plan, Site, Unavailable};
use gotrail::target::Target;
use gotrail::text::printable;
use serde_json::{Value, json};
use tracer_ebpf::{TIER_T1, TIER_T2, TIER_T3};

use super::args::{Format, InspectArgs};
use super::failure::{BACKEND, Failure};
use super::human::table;

/// Build settings that say something about how the program can be watched.
const SETTINGS: [&str; 8] =
    ["-buildmode", "-ldflags", "-trimpath", "-race", "-pgo", "CGO_ENABLED", "vcs.revision", "vcs.modified"];

pub(crate) fn run(args: &InspectArgs) -> Result<ExitCode, Failure> {
    let binary = GoBinary::parse(read(&args.target)?)?;
    let plan = binary.plan(TIER_T1 | TIER_T2 | TIER_T3);
    let hazards = binary.hazards();
    match args.format {
        Format::Human => human(&binary, &plan, &hazards),
        Format::Json => outln!("{}", to_json(&args.target, &binary, &plan, &hazards)),
    }
    Ok(ExitCode::SUCCESS)
}

/// The bytes of a process's executable, or of a file. A number is a pid unless a file has that name.
fn read(target: &str) -> Result<Arc<[u8]>, Failure> {
    let path = Path::new(target);
    if let Ok(pid) = target.parse::<u32>()
        && !path.exists()
    {
        return Ok(Target::open(pid)?.read_executable()?);
    }
    std::fs::read(path).map(Arc::from).map_err(|error| {
        Failure::new(
            BACKEND,
            format!("tried to read {}: {error}; give a pid, or the path of an executable", path.display()),
        )
    })
}

fn human(binary: &GoBinary, plan: &Plan, hazards: &[CallSite]) {
    let build = binary.build();
    let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { printable(text) };
    let symbols = if binary.image().has_symbols() { "with a symbol table" } else { "stripped" };
    let pie = if binary.image().position_independent() { ", position-independent" } else { "" };
    outln!("go version   {}", build.version);
    outln!("main package {}", or_dash(&build.path));
    outln!("module       {} {}", or_dash(&build.module), printable(&build.module_version));
    outln!("build        {}{pie}, {symbols}", binary.architecture().goarch());
    outln!("build id     {}", build.go_build_id.as_deref().map_or_else(|| "-".to_owned(), printable));
    for name in SETTINGS {
        if let Some(value) = build.settings.get(name) {
            outln!("  {name:<14} {}", printable(value));
        }
    }
    outln!("layout       from {}", binary.layout_source());
    outln!(
        "globals      from {}",
        if binary.globals().from_code { "machine code" } else { "the symbol table" }
    );

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
                printable(&site.function),
            ]
        })
        .collect();
    out!("{}", table(&["TIER", "PROBE", "COST", "ADDRESS", "FUNCTION"], &rows));
    for missing in &plan.unavailable {
        outln!("without {}: {}{}", missing.probe.name(), printable(&missing.why), consequence(missing));
    }

    for substitute in &plan.substitutes {
        outln!(
            "{} by {}: {} was inlined into {}",
            substitute.probe.name(),
            substitute.instead,
            printable(&substitute.function),
            printable(&substitute.into)
        );
    }

    outln!("\nwho tunes the runtime by hand");
    if hazards.is_empty() {
        outln!("nobody: no direct call was found in the code");
        return;
    }
    let rows: Vec<Vec<String>> = hazards
        .iter()
        .map(|call| {
            let place = format!("{}:{}", printable(&call.caller.file), call.caller.line);
            let library = if call.in_standard_library { "standard library" } else { "" };
            vec![call_text(call), printable(&call.caller.function), place, library.to_owned()]
        })
        .collect();
    out!("{}", table(&["CALL", "IN", "AT", ""], &rows));
}

fn tier(site: &Site) -> &'static str {
    match site.probe.tier() {
        TIER_T1 => "T1",
        TIER_T2 => "T2",
        _ => "T3",
    }
}

fn consequence(missing: &Unavailable) -> &'static str {
    if missing.lost { ": such events are not seen" } else { ": the program can't do this" }
}

fn call_text(call: &CallSite) -> String {
    match call.argument {
        Argument::None => format!("{}()", call.hazard.name()),
        Argument::Constant(value) => format!("{}({value})", call.hazard.name()),
        Argument::Computed => format!("{}(…)", call.hazard.name()),
    }
}

fn to_json(target: &str, binary: &GoBinary, plan: &Plan, hazards: &[CallSite]) -> Value {
    let build = binary.build();
    let hazards: Vec<Value> = hazards
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
            })
        })
        .collect();
    let sites: Vec<Value> = plan
        .sites
        .iter()
        .map(|site| {
            json!({
                "tier": tier(site),
                "probe": site.probe.name(),
                "function": site.function,
                "address": site.address,
                "file_offset": site.file_offset,
                "cost": site.cost.name(),
            })
        })
        .collect();
    let unavailable: Vec<Value> = plan
        .unavailable
        .iter()
        .map(|u| json!({ "probe": u.probe.name(), "why": u.why, "lost": u.lost }))
        .collect();
    json!({
        "schema": "gotrail.inspect/1",
        "target": target,
        "go_version": build.version.to_string(),
        "goarch": binary.architecture().goarch(),
        "main_package": build.path,
        "module": build.module,
        "module_version": build.module_version,
        "settings": build.settings,
        "go_build_id": build.go_build_id,
        "gnu_build_id": binary.image().gnu_build_id(),
        "position_independent": binary.image().position_independent(),
        "stripped": !binary.image().has_symbols(),
        "layout_source": binary.layout_source().to_string(),
        "globals_source": if binary.globals().from_code { "code" } else { "symbols" },
        "sites": sites,
        "unavailable": unavailable,
        "hazards": hazards,
    })
}
