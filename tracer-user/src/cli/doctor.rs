//! `gotrail doctor`: what this host, and a process, let gotrail do, and why not.

use std::fs;
use std::process::ExitCode;

use gotrail::binary::{Cost, GoBinary, Plan};
use gotrail::memory::Runtime;
use gotrail::probe::{Kernel, Links};
use gotrail::target::Target;
use gotrail::text::printable;
use serde_json::{Value, json};

use super::args::{DoctorArgs, Format};
use super::failure::Failure;

/// One question and its answer.
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

impl Check {
    fn new(name: &'static str, ok: bool, detail: impl Into<String>) -> Self {
        Self { name, ok, detail: detail.into() }
    }
}

/// Number (`include/uapi/linux/capability.h`), name, and what it is needed for.
const CAPABILITIES: [(u32, &str, &str); 4] = [
    (19, "CAP_SYS_PTRACE", "ps, dump, attach: to read the memory of other users' processes"),
    (39, "CAP_BPF", "attach: to load eBPF programs"),
    (38, "CAP_PERFMON", "attach: to place uprobes and to read the process from them"),
    (21, "CAP_SYS_ADMIN", "attach: to place uprobes one by one, which kernels before 6.6 ask for"),
];

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let kernel = Kernel::probe();
    let host = host(&kernel);
    let process = args.pid.map(|pid| process(pid, &kernel)).transpose()?;
    match args.format {
        Format::Human => {
            outln!("this host, kernel {}", kernel.release);
            print_checks(&host);
            if let Some((title, checks)) = &process {
                outln!("\n{title}");
                print_checks(checks);
            }
        }
        Format::Json => outln!(
            "{}",
            json!({
                "schema": "gotrail.doctor/1",
                "kernel": kernel.release,
                "host": to_json(&host),
                "pid": args.pid,
                "process": process.as_ref().map(|(_, checks)| to_json(checks)),
            })
        ),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_checks(checks: &[Check]) {
    for check in checks {
        outln!("  {:<4}{:<22}{}", if check.ok { "yes" } else { "no" }, check.name, check.detail);
    }
}

fn to_json(checks: &[Check]) -> Value {
    checks.iter().map(|c| json!({ "name": c.name, "ok": c.ok, "detail": c.detail })).collect()
}

fn host(kernel: &Kernel) -> Vec<Check> {
    let mut checks = vec![
        Check::new(
            "BTF",
            kernel.btf,
            if kernel.btf {
                "/sys/kernel/btf/vmlinux"
            } else {
                "the kernel was built without CONFIG_DEBUG_INFO_BTF; gotrail does not need it yet"
            },
        ),
        match (kernel.links, &kernel.links_error) {
            (Some(Links::Single), _) => Check::new(
                "probes",
                true,
                "one link per site (kernel before 6.6): taking them off takes about 0.1 s for each of some 18 sites",
            ),
            (Some(links), _) => Check::new("probes", true, links.describe()),
            (None, why) => Check::new(
                "probes",
                false,
                format!(
                    "the kernel refused to say: {}; run as root",
                    why.as_deref().unwrap_or("no reason given")
                ),
            ),
        },
    ];
    let effective = effective_capabilities();
    for (bit, name, purpose) in CAPABILITIES {
        let held = effective.is_some_and(|mask| mask >> bit & 1 == 1);
        let unneeded = name == "CAP_SYS_ADMIN" && kernel.links.is_some_and(|links| links != Links::Single);
        let detail =
            if unneeded { "not needed on this kernel".to_owned() } else { format!("needed by {purpose}") };
        checks.push(Check::new(name, held || unneeded, detail));
    }
    checks
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

fn process(pid: u32, kernel: &Kernel) -> Result<(String, Vec<Check>), Failure> {
    let target = Target::open(pid)?;
    let title = format!("process {pid} ({})", printable(&target.comm));
    let mut checks = Vec::new();
    let binary = match GoBinary::parse(target.read_executable()?) {
        Ok(binary) => binary,
        Err(error) => {
            checks.push(Check::new("understood", false, error.to_string()));
            return Ok((title, checks));
        }
    };
    let build = binary.build();
    let symbols = if binary.image().has_symbols() { "with a symbol table" } else { "stripped" };
    checks.push(Check::new(
        "Go program",
        true,
        format!(
            "{}, {}, {symbols}, {}",
            build.version,
            printable(&build.path),
            binary.architecture().goarch()
        ),
    ));
    checks.push(Check::new("layout", true, format!("from {}", binary.layout_source())));
    let from = if binary.globals().from_code { "machine code" } else { "the symbol table" };
    checks.push(Check::new("globals", true, format!("from {from}")));
    match Runtime::open(&target, &binary) {
        Ok(_) => checks.push(Check::new(
            "T0 memory",
            true,
            "goroutines, stacks and figures: no cost to the process",
        )),
        Err(error) => checks.push(Check::new("T0 memory", false, error.to_string())),
    }
    let probes = kernel.links.is_some();
    for (tier, name, what) in [
        (tracer_ebpf::TIER_T1, "T1 rare probes", "GC, stop-the-world, crashes, tuning calls"),
        (tracer_ebpf::TIER_T2, "T2 lifetimes", "goroutine creation and exit"),
    ] {
        checks.extend(tier_checks(name, what, probes, &binary.plan(tier)));
    }
    Ok((title, checks))
}

fn tier_checks(name: &'static str, what: &str, probes: bool, plan: &Plan) -> Vec<Check> {
    let cheap = plan.sites.iter().filter(|s| s.cost == Cost::Emulated).count();
    let dear = plan.sites.len() - cheap;
    let why = if probes { "" } else { "; the kernel does not let us place them, see above" };
    let mut checks = vec![Check::new(
        name,
        probes && !plan.sites.is_empty(),
        format!("{what}: {cheap} emulated and {dear} single-stepped sites{why}"),
    )];
    for missing in &plan.unavailable {
        let consequence = if missing.lost { "" } else { ": the program can't do this, nothing is lost" };
        checks.push(Check::new(
            "  without",
            !missing.lost,
            format!("{}: {}{consequence}", missing.probe.name(), printable(&missing.why)),
        ));
    }
    checks
}
