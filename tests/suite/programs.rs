//! What the eBPF programs are to the kernel: the table of ARCHITECTURE.md.

use std::collections::BTreeMap;

use gotrail_tests::attach::Attach;
use gotrail_tests::bpf::{self, Program, Statistics};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::Build;
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use serde_json::Value;

/// Instructions that the verifier may look at for one program; its own limit is a million.
const MOST_VERIFIED: u32 = 300_000;

/// The programs of an attached gotrail after some work, and how long each took to load, ns.
fn measured(attach_arguments: &[&str]) -> Vec<(Program, u64)> {
    let build = Build::find("switches", "1.27.3", "default").unwrap();
    let mut target = build.start_ready(&["-rounds", "2000", "-grow", "200"]).unwrap();
    let options = [&["--budget", "100"], attach_arguments].concat();
    let mut attach = Attach::start(target.pid(), &options).unwrap();
    let attached = attach.await_line("the `attached` line", |line| line["type"] == "attached").unwrap();
    let loaded: BTreeMap<&str, u64> = array(&attached, "/programs")
        .unwrap()
        .iter()
        .map(|program| (text(program, "/name").unwrap(), number(program, "/loaded_in_ns").unwrap()))
        .collect();
    target.tell("").unwrap();
    target
        .await_output("its figures", |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
        .unwrap();
    let held = attach.programs().unwrap();
    let mut programs: Vec<Program> = held.iter().filter_map(|id| bpf::program(*id).unwrap()).collect();
    // The keeper's own does nothing, on a page that nobody has mapped.
    programs.retain(|program| program.name != "keeper_ready");
    let report = attach.stop().unwrap();
    report.check_balance().unwrap();
    target.tell("").unwrap();
    target.wait().unwrap();
    programs
        .into_iter()
        .map(|program| {
            let took = loaded.get(program.name.as_str()).copied();
            let took = took.unwrap_or_else(|| panic!("{} is held and was not loaded", program.name));
            (program, took)
        })
        .collect()
}

#[test]
fn root_cost_1_programs_are_small_for_the_verifier_and_told_in_a_table() {
    needs!(Need::Fixtures, Need::Root);
    let _statistics = Statistics::on().unwrap();
    println!(
        "| program | instructions | machine code, bytes | verified instructions | load, ms | ns a run |"
    );
    println!("|---|---|---|---|---|---|");
    for (as_what, arguments) in [
        ("records", &["--switches", "60s"][..]),
        ("sums", &["--switches", "60s", "--switches-as", "sums"][..]),
        ("system calls", &["--syscalls", "60s"][..]),
    ] {
        let programs = measured(arguments);
        let names: Vec<&str> = programs.iter().map(|(program, _)| program.name.as_str()).collect();
        let last = if as_what == "system calls" { "syscall_" } else { "t3_" };
        assert!(
            ["t1_", "t2_", last].iter().all(|tier| names.iter().any(|n| n.starts_with(tier))),
            "{names:?}"
        );
        for (program, load_ns) in programs {
            let is_switches = program.name.starts_with("t3_");
            let is_calls = program.name.starts_with("syscall_");
            assert!(program.verified > 0 && program.verified < MOST_VERIFIED, "{program:?}");
            // The others were told of with the first.
            if as_what != "records" && !is_switches && !is_calls {
                continue;
            }
            let name = if is_switches { format!("{} ({as_what})", program.name) } else { program.name };
            let run = program.run_time_ns.checked_div(program.runs);
            let run = run.map_or_else(|| "not run".to_owned(), |ns| ns.to_string());
            println!(
                "| `{name}` | {} | {} | {} | {:.1} | {run} |",
                program.instructions,
                program.machine_code,
                program.verified,
                load_ns as f64 / 1e6,
            );
        }
    }
}
