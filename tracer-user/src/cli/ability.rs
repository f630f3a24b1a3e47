//! What gotrail can do with a program or a process: for each tier and command yes or no, why, and what would make it
//! yes.

use gotrail::binary::{Architecture, BinaryError, Cost, GoBinary, Plan, Program};
use gotrail::probe::Kernel;
use gotrail::text::printable;
use serde_json::{Value, json};
use tracer_ebpf::{TIER_T1, TIER_T2, TIER_T3};

/// One thing that gotrail does, and whether it can do it here.
pub(crate) struct Ability {
    pub(crate) name: &'static str,
    pub(crate) ok: bool,
    pub(crate) why: String,
    /// What would make it possible, where something would.
    pub(crate) remedy: Option<String>,
}

impl Ability {
    fn yes(name: &'static str, why: impl Into<String>) -> Self {
        Self { name, ok: true, why: why.into(), remedy: None }
    }

    fn no(name: &'static str, why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, ok: false, why: why.into(), remedy: Some(remedy.into()) }
    }
}

/// The tiers, what is needed of the program for each, and what each gives.
const PROBE_TIERS: [(u32, &str, &str); 3] = [
    (TIER_T1, "T1 rare probes", "GC, stop-the-world, crashes, tuning calls"),
    (TIER_T2, "T2 lifetimes", "goroutine creation and exit"),
    (TIER_T3, "T3 switches", "park, ready and run of goroutines"),
];

/// What the program alone allows, whatever the host.
pub(crate) fn of_binary(binary: &GoBinary) -> Vec<Ability> {
    let globals = if binary.globals().from_code { "machine code" } else { "the symbol table" };
    let mut abilities = vec![Ability::yes(
        "T0 memory",
        format!(
            "goroutines, stacks and figures: layout from {}, globals from {globals}",
            binary.layout_source()
        ),
    )];
    for (tier, name, what) in PROBE_TIERS {
        abilities.push(of_plan(name, what, &binary.plan(tier)));
    }
    for ability in &mut abilities {
        if binary.build().mode() == Some("c-shared") {
            ability.ok = false;
            ability.why = "a library in a program of another language is not watched".to_owned();
            ability.remedy = Some("a program of Go around it".to_owned());
        } else if ability.ok && ability.name.starts_with("T3") {
            ability.why = format!("{}; on for the time that `attach --switches` says", ability.why);
        }
    }
    abilities
}

fn of_plan(name: &'static str, what: &str, plan: &Plan) -> Ability {
    let cheap = plan.sites.iter().filter(|site| site.cost == Cost::Emulated).count();
    let dear = plan.sites.len() - cheap;
    let lost: Vec<&str> = plan.unavailable.iter().filter(|u| u.lost).map(|u| u.why.as_str()).collect();
    let mut why = format!("{what}: {cheap} emulated and {dear} single-stepped sites");
    if plan.sites.is_empty() {
        return Ability::no(
            name,
            format!("{what}: {}", printable(&lost.join("; "))),
            "a build of the program without -pgo and -gcflags, or by a Go version that gotrail knows",
        );
    }
    if !lost.is_empty() {
        why = format!("{why}; not seen: {}", printable(&lost.join("; ")));
    }
    Ability::yes(name, why)
}

/// What is left of a program whose runtime is not understood.
pub(crate) fn of_program(program: &Program, error: &BinaryError) -> Vec<Ability> {
    let mut abilities = vec![Ability::no("T0 memory", error.to_string(), remedy(error, program))];
    for (_, name, what) in PROBE_TIERS {
        let why = format!("{what}: needs the layout of the runtime, as T0 does");
        abilities.push(Ability { name, ok: false, why, remedy: None });
    }
    abilities
}

fn remedy(error: &BinaryError, program: &Program) -> String {
    let version = &program.build().version;
    match error {
        BinaryError::Layout(_) => format!(
            "a build with DWARF (without -ldflags=-w), its debug file below /usr/lib/debug/.build-id, or a gotrail that knows {version}"
        ),
        BinaryError::Global { .. } => "a build with its symbol table (without -ldflags=-s)".to_owned(),
        _ => "a build as the Go linker makes it".to_owned(),
    }
}

/// What this host allows, given what the program does. `memory` is the self-check's result on the live process:
/// why it failed, and what would help.
pub(crate) fn on_host(
    of_binary: Vec<Ability>,
    architecture: Architecture,
    kernel: &Kernel,
    memory: Option<&Result<(), (String, String)>>,
) -> Vec<Ability> {
    let mut abilities: Vec<Ability> = of_binary
        .into_iter()
        .map(|ability| {
            let is_memory = ability.name.starts_with("T0");
            match (memory, kernel.links) {
                _ if !ability.ok => ability,
                _ if !runs_here(architecture) => Ability::no(
                    ability.name,
                    format!("the program is for {}, this gotrail runs on {}", architecture.goarch(), HERE),
                    "gotrail on a machine of that architecture",
                ),
                (Some(Err((why, remedy))), _) if is_memory => {
                    Ability::no(ability.name, why.clone(), remedy.clone())
                }
                (Some(Err(_)), _) => {
                    Ability { name: ability.name, ok: false, why: NEEDS_MEMORY.to_owned(), remedy: None }
                }
                (_, None) if !is_memory => Ability::no(
                    ability.name,
                    format!("{}; but the kernel does not let us place probes", ability.why),
                    "root, or CAP_BPF and CAP_PERFMON (and CAP_SYS_ADMIN before Linux 6.6)",
                ),
                _ => ability,
            }
        })
        .collect();
    let find = |abilities: &[Ability], tier: &str| -> Result<(), String> {
        match abilities.iter().find(|a| a.name.starts_with(tier)) {
            Some(ability) if ability.ok => Ok(()),
            Some(ability) if tier == "T0" || ability.why == NEEDS_MEMORY => Err(NEEDS_MEMORY.to_owned()),
            Some(ability) => Err(format!("needs {tier}: {}", ability.why)),
            None => Err(format!("{tier} is not known")),
        }
    };
    let (memory, rare, lifetimes) = (find(&abilities, "T0"), find(&abilities, "T1"), find(&abilities, "T2"));
    abilities.push(Ability::yes("inspect", "reads the executable only"));
    for (name, what) in [
        ("ps", "goroutines, GOMAXPROCS and live heap in the list; without, the Go version only"),
        ("dump", "every goroutine with its stack, without stopping the process"),
        ("stats", "the runtime's own figures, without stopping the process"),
    ] {
        abilities.push(match &memory {
            Ok(()) => Ability::yes(name, what),
            Err(why) => Ability { name, ok: false, why: why.clone(), remedy: None },
        });
    }
    abilities.push(match (&memory, kernel.links.is_some() && kernel.btf) {
        (Ok(()), true) => Ability::yes("profile", "where the time of all goroutines goes, with stacks on the CPUs"),
        (Ok(()), false) => Ability::yes(
            "profile",
            "where the time of all goroutines goes; running ones without a stack: that takes root, or CAP_BPF and CAP_PERFMON, and a kernel with BTF",
        ),
        (Err(why), _) => Ability { name: "profile", ok: false, why: why.clone(), remedy: None },
    });
    abilities.push(match (&memory, &rare, &lifetimes) {
        (Ok(()), Ok(()), Ok(())) => Ability::yes("attach", "watches with T0, T1 and T2"),
        (Ok(()), Ok(()), Err(why)) => Ability::yes("attach", format!("watches with T0 and T1; {why}")),
        (Err(why), ..) | (_, Err(why), _) => {
            Ability { name: "attach", ok: false, why: why.clone(), remedy: None }
        }
    });
    abilities
}

/// Why what hangs on T0 can't be had: the reason itself stands there once.
const NEEDS_MEMORY: &str = "needs T0";

/// Go's name of the architecture that this gotrail runs on.
const HERE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };

fn runs_here(architecture: Architecture) -> bool {
    architecture.goarch() == HERE
}

/// For people.
pub(crate) fn print(abilities: &[Ability]) {
    for ability in abilities {
        outln!(
            "  {:<4}{:<16}{}",
            if ability.ok { "yes" } else { "no" },
            ability.name,
            printable(&ability.why)
        );
        if let Some(remedy) = &ability.remedy {
            outln!("                    would help: {}", printable(remedy));
        }
    }
}

/// For programs: `{name, ok, why, would_help}`.
pub(crate) fn to_json(abilities: &[Ability]) -> Value {
    abilities
        .iter()
        .map(|a| json!({ "name": a.name, "ok": a.ok, "why": a.why, "would_help": a.remedy }))
        .collect()
}
