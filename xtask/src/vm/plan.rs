//! What is done in a machine: which programs, and which steps with each. The init, `tests/vm/init`, follows
//! it.

use serde_json::{Value, json};

use super::programs::Program;

/// A fixture as it is wanted in a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) fixture: &'static str,
    /// The Go version.
    pub(super) version: &'static str,
    /// Without symbol table and DWARF.
    pub(super) stripped: bool,
}

impl Wanted {
    /// A name for its file.
    pub(super) fn file(&self) -> String {
        format!("{}-{}-{}", self.fixture, self.version, self.mode())
    }

    /// The name of its mode, as the lists of the tests have it.
    pub(super) const fn mode(&self) -> &'static str {
        if self.stripped { "stripped" } else { "default" }
    }

    /// The linker's flags that make it so.
    pub(super) const fn flags(&self) -> &'static [&'static str] {
        if self.stripped { &["-trimpath", "-ldflags=-s -w"] } else { &["-trimpath"] }
    }
}

/// A fixture, the versions that it is tried with, its arguments, and what is done with it.
struct Check {
    /// The first word of the names of what is done.
    name: &'static str,
    fixture: &'static str,
    versions: &'static [&'static str],
    stripped: &'static [bool],
    arguments: &'static [&'static str],
    /// Where the fixture has kinds, those that are tried, each by itself; it is the last word of the check's name.
    kinds: &'static [&'static str],
    steps: fn() -> Vec<Value>,
}

impl Check {
    /// What is done with one program.
    fn of(&self, program: &Program) -> Vec<Value> {
        let name = format!("{} {} {}", self.name, program.wanted.version, program.wanted.mode());
        let path = format!("/{}", program.guest_path());
        let check = |name: String, arguments: &[&str]| json!({ "name": name, "program": path, "arguments": arguments, "steps": (self.steps)() });
        if self.kinds.is_empty() {
            return vec![check(name, self.arguments)];
        }
        self.kinds
            .iter()
            .map(|kind| check(format!("{name} {kind}"), &[self.arguments, &["-kind", kind]].concat()))
            .collect()
    }
}

/// The Go versions. Fewer than on the host: an emulated machine is slow, and what differs between versions
/// does not differ between kernels.
const VERSIONS: &[&str] = &["1.23.9", "1.27.3"];
const BOTH: &[bool] = &[false, true];

/// Small: an emulated machine is slow, and a count is as right with five hundred as with five thousand.
const CHECKS: [Check; 9] = [
    Check {
        name: "population",
        fixture: "population",
        versions: VERSIONS,
        stripped: BOTH,
        arguments: &["-n", "2"],
        kinds: &[],
        steps: looks,
    },
    Check {
        name: "spawn",
        fixture: "spawn",
        versions: VERSIONS,
        stripped: BOTH,
        arguments: &["-count", "500", "-rate", "500", "-iter", "50"],
        kinds: &[],
        steps: counted,
    },
    Check {
        name: "gcstw",
        fixture: "gcstw",
        versions: VERSIONS,
        stripped: BOTH,
        arguments: &["-interval", "25ms", "-ballast", "1048576", "-garbage", "1048576"],
        kinds: &[],
        steps: counted,
    },
    // By one set of probes for all processes of its executable.
    Check {
        name: "fleet",
        fixture: "gcstw",
        versions: VERSIONS,
        stripped: BOTH,
        arguments: &["-interval", "25ms", "-ballast", "1048576", "-garbage", "1048576"],
        kinds: &[],
        steps: counted_with_all,
    },
    // The one program that Go 1.20 builds too: before 1.21 stacks, creators and reasons are found in other ways.
    Check {
        name: "matrix",
        fixture: "matrix",
        versions: &["1.20.14", "1.23.12", "1.27.3"],
        stripped: BOTH,
        arguments: &["-count", "300"],
        kinds: &[],
        steps: at_rest_and_at_work,
    },
    // The timers of the CPUs: registers of user space, stacks, and which goroutine it is.
    Check {
        name: "wall",
        fixture: "wall",
        versions: &["1.27.3"],
        stripped: BOTH,
        arguments: &[],
        kinds: &[],
        steps: profiled,
    },
    // Before Go 1.21 the sites are other instructions. What parks is left to no chance, if there is one P.
    Check {
        name: "switches",
        fixture: "switches",
        versions: &["1.20.14", "1.27.3"],
        stripped: BOTH,
        arguments: &["-rounds", "50", "-iter", "10"],
        kinds: &[],
        steps: switched,
    },
    // Registers of user space at the kernel's own tracepoints, which each architecture has its own of.
    Check {
        name: "syscalls",
        fixture: "syscalls",
        versions: &["1.27.3"],
        stripped: &[true],
        arguments: &["-rounds", "50"],
        kinds: &[],
        steps: calling,
    },
    // Texts, stacks and creators are read in the probe itself, by registers that each architecture has its own of.
    Check {
        name: "crash",
        fixture: "crash",
        versions: &["1.27.3"],
        stripped: &[true],
        arguments: &[],
        kinds: &[
            "string",
            "wrapped",
            "int",
            "index",
            "nilptr",
            "repanic",
            "nested",
            "unsafe-segv",
            "unlock",
            "deadlock",
            "stackoverflow",
        ],
        steps: dies,
    },
];

/// The programs of all checks.
pub(super) fn programs() -> Vec<Wanted> {
    let of = |check: &Check| {
        let fixture = check.fixture;
        let (versions, stripped) = (check.versions, check.stripped);
        versions.iter().flat_map(move |version| {
            stripped.iter().map(move |stripped| Wanted { fixture, version, stripped: *stripped })
        })
    };
    let mut programs: Vec<Wanted> = Vec::new();
    for wanted in CHECKS.iter().flat_map(of) {
        if !programs.contains(&wanted) {
            programs.push(wanted);
        }
    }
    programs
}

/// The plan as the init reads it.
pub(super) fn plan(programs: &[Program]) -> Value {
    let host = json!({
        "name": "host",
        "steps": [gotrail("doctor", &["doctor", "--format", "json"])],
    });
    let programs = programs.iter().flat_map(|program| {
        CHECKS
            .iter()
            .filter(|check| check.fixture == program.wanted.fixture)
            .flat_map(|check| check.of(program))
    });
    let checks: Vec<Value> = std::iter::once(host).chain(programs).collect();
    json!({ "checks": checks })
}

/// Everything that needs no probe, beside the program's own dump.
fn looks() -> Vec<Value> {
    vec![
        gotrail("ps", &["ps", "--format", "json"]),
        gotrail("inspect", &["inspect", "PID", "--format", "json"]),
        tell("dump"),
        wait("END"),
        tell("truth"),
        wait("["),
        gotrail("dump", &["dump", "PID", "--format", "json"]),
        gotrail("dump-text", &["dump", "PID"]),
        tell("quit"),
    ]
}

/// Its time is measured.
fn profiled() -> Vec<Value> {
    vec![gotrail("profile", &["profile", "PID", "--for", "8s", "--format", "json"]), tell("quit")]
}

/// The program dies while gotrail is attached, which ends it too.
fn dies() -> Vec<Value> {
    vec![
        json!({ "do": "attach", "arguments": ["attach", "PID", "--format", "json"] }),
        tell(""),
        json!({ "do": "finish" }),
    ]
}

/// The program works while gotrail is attached, and tells its own figures behind that.
fn counted() -> Vec<Value> {
    vec![
        json!({
            "do": "attach",
            "arguments": ["attach", "PID", "--format", "json", "--budget", "100"],
        }),
        tell(""),
        wait("{"),
        json!({ "do": "stop" }),
        tell(""),
    ]
}

/// Likewise, as one of all processes of its executable. That it is watched is said behind the time.
fn counted_with_all() -> Vec<Value> {
    vec![
        json!({
            "do": "attach",
            "arguments": ["attach", "--exe", "PID", "--format", "json", "--budget", "100"],
            "line": "[",
        }),
        tell(""),
        wait("{"),
        json!({ "do": "stop" }),
        tell(""),
    ]
}

/// Likewise, with every switch observed.
fn switched() -> Vec<Value> {
    vec![
        json!({
            "do": "attach",
            "arguments": ["attach", "PID", "--format", "json", "--budget", "100", "--switches", "600s"],
        }),
        tell(""),
        wait("{"),
        json!({ "do": "stop" }),
        tell(""),
    ]
}

/// Likewise, with every system call observed.
fn calling() -> Vec<Value> {
    vec![
        json!({ "do": "attach", "arguments": ["attach", "PID", "--format", "json", "--syscalls", "600s"] }),
        tell(""),
        wait("{"),
        json!({ "do": "stop" }),
        tell(""),
    ]
}

/// Looked at while it rests, then watched at work.
fn at_rest_and_at_work() -> Vec<Value> {
    let mut steps =
        vec![gotrail("dump", &["dump", "PID", "--format", "json"]), gotrail("dump-text", &["dump", "PID"])];
    steps.append(&mut counted());
    steps
}

fn gotrail(name: &str, arguments: &[&str]) -> Value {
    json!({ "do": "gotrail", "name": name, "arguments": arguments })
}

fn tell(line: &str) -> Value {
    json!({ "do": "tell", "line": line })
}

fn wait(line: &str) -> Value {
    json!({ "do": "await", "line": line })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_program_has_its_check_and_a_name_of_its_own() {
        let programs: Vec<Program> =
            programs().into_iter().map(|wanted| Program { wanted, path: PathBuf::new() }).collect();
        let plan = plan(&programs);
        let checks = plan["checks"].as_array().unwrap();
        assert!(checks.len() > programs.len());
        for (at, check) in checks.iter().enumerate() {
            assert!(!check["steps"].as_array().unwrap().is_empty(), "{check}");
            assert!(!checks[at + 1..].iter().any(|other| other["name"] == check["name"]), "{check}");
        }
    }
}
