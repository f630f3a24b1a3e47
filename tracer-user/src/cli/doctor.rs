//! `gotrail doctor`: what this host, and a process, let gotrail do, and why not.

use std::fs;
use std::process::ExitCode;

use gotrail::agent::understand;
use gotrail::binary::{Program, toolchain_hazards};
use gotrail::memory::Runtime;
use gotrail::probe::{Kernel, Links, calibrate, may_be_real_time};
use gotrail::target::{Target, debug_file};
use gotrail::text::printable;
use serde_json::{Value, json};

use super::ability::{self, Ability};
use super::args::{DoctorArgs, Format};
use super::cost;
use super::failure::{Failure, NOT_PERMITTED};

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
const CAPABILITIES: [(u32, &str, &str); 5] = [
    (19, "CAP_SYS_PTRACE", "ps, dump, profile, attach: to read the memory of other users' processes"),
    (39, "CAP_BPF", "attach, profile: to load eBPF programs"),
    (
        38,
        "CAP_PERFMON",
        "attach: to place uprobes and to read the process from them; profile: to sample the CPUs",
    ),
    (28, "CAP_LEASE", "attach --exe: to guard executables that are not gotrail's own user's"),
    (21, "CAP_SYS_ADMIN", "attach: to place uprobes one by one, which kernels before 6.6 ask for"),
];

pub(crate) fn run(args: &DoctorArgs) -> Result<ExitCode, Failure> {
    let kernel = Kernel::probe();
    let mut host = host(&kernel);
    let calibration = calibrate::result();
    host.push(match &calibration {
        Ok(measured) => Check::new("cost of a probe", true, cost::calibrated(measured)),
        Err(why) => Check::new(
            "cost of a probe",
            false,
            format!("not measured, so rather too much is assumed: {why}"),
        ),
    });
    let (process, code) = match args.pid.map(|pid| (pid, process(pid, &kernel))) {
        None => (None, ExitCode::SUCCESS),
        Some((_, Ok(process))) => (Some(process), ExitCode::SUCCESS),
        // What the host allows says why.
        Some((pid, Err(failure))) => {
            (Some(Process::out_of_reach(pid, &failure)), ExitCode::from(failure.code))
        }
    };
    match args.format {
        Format::Human => {
            outln!("this host, kernel {}", kernel.release);
            print_checks(&host);
            if let Some(process) = &process {
                outln!("\n{}", process.title);
                print_checks(&process.facts);
                if !process.abilities.is_empty() {
                    outln!("\nwhat gotrail can do with it here");
                    ability::print(&process.abilities);
                }
            }
        }
        Format::Json => outln!(
            "{}",
            json!({
                "schema": "gotrail.doctor/1",
                "kernel": kernel.release,
                "host": to_json(&host),
                "calibration": calibration.as_ref().ok().map(cost::calibration_json),
                "pid": args.pid,
                "process": process.as_ref().map(|process| to_json(&process.facts)),
                "abilities": process.as_ref().map(|process| ability::to_json(&process.abilities)),
            })
        ),
    }
    Ok(code)
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
                "the kernel was built without CONFIG_DEBUG_INFO_BTF; profile does without stacks of running goroutines"
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
        let detail = match (unneeded, held) {
            (false, _) => format!("needed by {purpose}"),
            (true, true) => "held; not needed on this kernel".to_owned(),
            (true, false) => "not held; not needed on this kernel".to_owned(),
        };
        checks.push(Check::new(name, held || unneeded, detail));
    }
    if kernel.links.is_some_and(|links| links != Links::Single) {
        checks.push(real_time());
    }
    checks
}

/// What takes the probes of windows off; kernels before 6.6 have no windows.
fn real_time() -> Check {
    let allowed = may_be_real_time();
    let detail = if allowed {
        "attach: probes that have to go are gone at once, on a busy machine too"
    } else {
        "attach: on a busy machine probes that have to go take some milliseconds more; CAP_SYS_NICE would help, outside of a \
         group of processes that has no real time"
    };
    Check::new("real time", allowed, detail)
}

fn effective_capabilities() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let hex = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(hex.trim(), 16).ok()
}

/// A process, and what gotrail can do with it.
struct Process {
    title: String,
    facts: Vec<Check>,
    abilities: Vec<Ability>,
}

impl Process {
    fn out_of_reach(pid: u32, failure: &Failure) -> Self {
        let mut why = failure.message.clone();
        if failure.code == NOT_PERMITTED {
            why.push_str("; would help: root, or CAP_SYS_PTRACE (with CAP_BPF and CAP_PERFMON for probes)");
        }
        Self {
            title: format!("process {pid}"),
            facts: vec![Check::new("within reach", false, why)],
            abilities: Vec::new(),
        }
    }
}

fn process(pid: u32, kernel: &Kernel) -> Result<Process, Failure> {
    let target = Target::open(pid)?;
    let title = format!("process {pid} ({})", printable(&target.comm));
    let program = match Program::parse(target.read_executable()?) {
        Ok(program) => program,
        // A library of the process may say more.
        Err(error) => {
            let error = understand(&target).err().map_or_else(|| error.to_string(), |e| e.to_string());
            let facts = vec![Check::new("Go program", false, error)];
            return Ok(Process { title, facts, abilities: Vec::new() });
        }
    };
    let build = program.build();
    let image = program.image();
    let symbols = if image.has_symbols() { "with a symbol table" } else { "stripped" };
    let mut facts = vec![Check::new(
        "Go program",
        true,
        format!(
            "{}, {}, {symbols}, {}",
            build.version,
            printable(&build.path),
            image.architecture().goarch()
        ),
    )];
    for hazard in toolchain_hazards(&build.version) {
        facts.push(Check::new("toolchain", false, format!("{}: {}", hazard.what, hazard.advice)));
    }
    let architecture = image.architecture();
    let abilities = match program.understand(|id| debug_file(Some(pid), id)) {
        Ok(binary) => {
            let memory = match Runtime::open(&target, &binary) {
                Ok(_) => Ok(()),
                Err(error) => {
                    let Failure { code, message } = error.into();
                    let remedy = if code == NOT_PERMITTED {
                        "root, or CAP_SYS_PTRACE".to_owned()
                    } else {
                        format!("a gotrail that knows this build of {}", binary.build().version)
                    };
                    Err((message, remedy))
                }
            };
            for missing in binary.plan(u32::MAX).unavailable {
                let consequence = if missing.lost { "" } else { ": nothing is lost" };
                facts.push(Check::new(
                    "without",
                    !missing.lost,
                    format!("{}: {}{consequence}", missing.probe.name(), printable(&missing.why)),
                ));
            }
            ability::on_host(ability::of_binary(&binary), architecture, kernel, Some(&memory))
        }
        Err(refused) => {
            ability::on_host(ability::of_program(&refused.0, &refused.1), architecture, kernel, None)
        }
    };
    Ok(Process { title, facts, abilities })
}
