//! Other kernels and another architecture, by what emulated machines told: `cargo xtask vm`.
//!
//! What is compared is what the suites beside this one compare on the host, by the same functions. Times are
//! not: an emulated machine has times of its own.

use gotrail_tests::attach::Report;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::each;
use gotrail_tests::json::{array, text};
use gotrail_tests::machine::{Check, Machine};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::traceback::parse;
use serde_json::{Value, json};

use crate::matrix::process;
use crate::{counts, crash, dump, lifetimes, profile, switches, syscalls};

/// Declares the tests of a machine, which are skipped together where it was not run.
macro_rules! machine {
    ($module:ident, $name:literal, $links:literal) => {
        mod $module {
            use super::*;

            const NAME: &str = $name;

            #[test]
            fn vm_the_kernel_has_nothing_to_complain_of() {
                needs!(Need::Machine(NAME));
                complains_of_nothing(&Machine::find(NAME).unwrap(), $links);
            }

            #[test]
            fn vm_truth_1_dump_is_the_processes_own_dump() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("population").unwrap(), 1, dumps);
            }

            #[test]
            fn vm_ps_and_inspect_know_the_process() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("population").unwrap(), 1, looks);
            }

            #[test]
            fn vm_loss_1_goroutines_are_counted_exactly() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("spawn").unwrap(), 1, |check| {
                    attached(check, $links, lifetimes::check);
                });
            }

            #[test]
            fn vm_loss_1_gc_cycles_and_stops_are_counted_exactly() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("gcstw").unwrap(), 1, |check| {
                    attached(check, $links, counts::check);
                });
            }

            #[test]
            fn vm_loss_1_one_of_all_processes_of_an_executable_is_counted_exactly() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("fleet").unwrap(), 1, |check| {
                    let report = check.well().unwrap().report().unwrap();
                    counts::check(&check.own().unwrap(), &report.of(check.pid().unwrap()));
                });
            }

            #[test]
            fn vm_loss_1_switches_are_counted_exactly() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("switches").unwrap(), 1, |check| {
                    attached(check, $links, switches::check);
                });
            }

            #[test]
            fn vm_loss_1_system_calls_are_counted_exactly() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("syscalls").unwrap(), 1, |check| {
                    system_calls(check, $links);
                });
            }

            #[test]
            fn vm_loss_1_the_matrix_is_seen_as_it_sees_itself() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("matrix").unwrap(), 1, matrix);
            }

            #[test]
            fn vm_loss_1_a_profile_has_the_stacks_on_the_cpus() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("wall").unwrap(), 1, |check| {
                    let said = check.answer("profile").unwrap().well().unwrap().json().unwrap();
                    profile::check(&check.to_string(), &said);
                });
            }

            #[test]
            fn vm_truth_1_each_death_is_named_as_the_process_names_it() {
                needs!(Need::Machine(NAME));
                each(&Machine::find(NAME).unwrap().checks("crash").unwrap(), 1, deaths);
            }
        }
    };
}

machine!(amd64_6_1, "amd64-6.1", "one link per site");
machine!(amd64_6_12, "amd64-6.12", "uprobe_multi, scoped to the process");
machine!(arm64_6_12, "arm64-6.12", "uprobe_multi, scoped to the process");

fn complains_of_nothing(machine: &Machine, links: &str) {
    let booted = text(machine.record("boot").unwrap(), "/kernel").unwrap();
    assert_eq!(booted, machine.kernel, "another kernel than was to be booted");
    let lines = array(machine.record("kernel").unwrap(), "/lines").unwrap();
    assert!(lines.is_empty(), "{lines:#?}");
    let doctor = machine.answer("doctor").unwrap().well().unwrap().json().unwrap();
    let said = array(&doctor, "/host").unwrap().iter().find(|line| line["name"] == "probes");
    let detail = said.and_then(|line| line["detail"].as_str()).unwrap_or_default();
    assert!(detail.starts_with(links), "{doctor}");
}

fn dumps(check: &Check) {
    check.well().unwrap();
    let output = check.output().unwrap();
    let (_, rest) = output.split_once("BEGIN\n").unwrap();
    let own = parse(rest.split_once("END\n").unwrap().0).unwrap();
    let json = check.answer("dump").unwrap().well().unwrap().json().unwrap();
    assert_eq!(json["pid"].as_u64(), Some(check.pid().unwrap()), "{json}");
    assert_eq!(text(&json, "/go_version").unwrap(), format!("go{}", check.go));
    dump::check_json(&own, &check.own().unwrap(), &json, &Markers::of("population").unwrap());

    let ours = parse(&check.answer("dump-text").unwrap().well().unwrap().output).unwrap();
    let differences = dump::differences(&own, &ours);
    assert!(differences.is_empty(), "{differences:#?}");
}

fn looks(check: &Check) {
    let pid = check.pid().unwrap();
    let list = check.answer("ps").unwrap().well().unwrap().json().unwrap();
    let own = |process: &&Value| process["pid"].as_u64() == Some(pid);
    let process = array(&list, "/processes").unwrap().iter().find(own);
    let process = process.unwrap_or_else(|| panic!("no process {pid}: {list}"));
    assert_eq!(text(process, "/go_version").unwrap(), format!("go{}", check.go));
    let answer = check.answer("inspect").unwrap().well().unwrap().json().unwrap();
    assert_eq!(text(&answer, "/go_version").unwrap(), format!("go{}", check.go));
    assert_eq!(text(&answer, "/goarch").unwrap(), check.architecture, "{answer}");
    assert_eq!(answer["stripped"], check.mode == "stripped", "{answer}");
    let sites = array(&answer, "/sites").unwrap().len();
    assert!(sites > 12, "{sites} sites: {answer}");
}

fn attached(check: &Check, links: &str, compare: fn(&Value, &Report)) {
    let report = check.well().unwrap().report().unwrap();
    assert!(report.answer.errors.contains(links), "{}", report.answer.errors);
    compare(&check.own().unwrap(), &report);
}

fn matrix(check: &Check) {
    let report = check.well().unwrap().report().unwrap();
    let dump = check.answer("dump").unwrap().well().unwrap().json().unwrap();
    let traceback = parse(&check.answer("dump-text").unwrap().well().unwrap().output).unwrap();
    process::compare(&dump, &traceback, &check.own().unwrap(), &report);
}

fn system_calls(check: &Check, links: &str) {
    if links.starts_with("one link") {
        // What is had by lease is not to be had where links are slow to go; it is refused, and says so.
        let answer = check.answer("attach").unwrap();
        assert!(answer.errors.contains("it takes Linux 6.6"), "{answer:?}");
        return;
    }
    attached(check, links, syscalls::check);
}

fn deaths(check: &Check) {
    let report = check.well().unwrap().report().unwrap();
    report.check_nothing_lost().unwrap();
    let target = check.answer("target").unwrap();
    assert_eq!(target.code, Some(2), "the program itself: {target:?}");
    // Before Linux 6.15 the status is gone as soon as the father has asked for it, which the init does at once: then it is
    // known by the tracepoint alone.
    assert_eq!(report.exit().unwrap(), &json!({ "code": 2 }));
    crash::check(&check.kind, &target.errors, &report, &Markers::of("crash").unwrap());
}
