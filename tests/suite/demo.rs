//! The sick shop and its healthy twin, under the same load.

use std::sync::Mutex;
use std::thread::available_parallelism;
use std::time::Duration;

use gotrail_tests::attach::{Attach, Report, titles};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, OLDEST_AND_NEWEST, builds, each};
use gotrail_tests::markers::Markers;
use gotrail_tests::needs;
use gotrail_tests::shop::{Load, Outcome, Shop};
use serde_json::json;

/// How long a shop is watched; the sick one panics after 40 s.
const WATCHED: &str = "60s";
/// How long that may take in all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Watches a shop under load.
fn watch(build: &Build, faults: bool) -> (Shop, Report, Outcome) {
    let mut shop = Shop::start(build, &[if faults { "-faults=true" } else { "-faults=false" }]).unwrap();
    let attach = Attach::start(shop.process.pid(), &["--for", WATCHED]).unwrap();
    let load = Load::start(shop.address, 58).unwrap();
    if faults {
        shop.process.wait().unwrap();
    }
    let report = attach.finish_within(PATIENCE).unwrap();
    let outcome = load.finish().unwrap();
    (shop, report, outcome)
}

/// What is expected of each finding: its id, its degree, and places in the roles that it must name them in.
type Expected = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const EXPECTED: [Expected; 6] = [
    ("goroutine-leak", "confirmed", &[("created", "leak-create"), ("blocked", "leak-wait")]),
    ("context-broken", "confirmed", &[("blocked", "backend-wait"), ("called", "backend-call")]),
    ("pool-exhausted", "confirmed", &[("blocked", "pool-wait")]),
    ("forced-gc", "confirmed", &[("called", "forced-gc"), ("called", "gc-percent")]),
    ("gomaxprocs", "confirmed", &[("called", "gomaxprocs")]),
    ("panic", "proved", &[("died", "panic-error"), ("created", "panic-create")]),
];

#[test]
fn root_truth_1_every_fault_of_the_shop_is_named_with_its_line() {
    needs!(Need::Fixtures, Need::Root);
    let markers = Markers::of("shop").unwrap();
    each(&builds("shop", &OLDEST_AND_NEWEST, &MODES).unwrap(), 4, |build| {
        let (shop, report, outcome) = watch(build, true);
        assert_eq!(report.exit().unwrap(), &json!({ "code": 2 }), "{}", shop.process.words());
        report.check_nothing_lost().unwrap();
        let mut missing = Vec::new();
        for (id, degree, sites) in EXPECTED {
            // On one CPU there is no fault in GOMAXPROCS=1.
            if id == "gomaxprocs" && available_parallelism().unwrap().get() == 1 {
                continue;
            }
            let finding = match report.finding(id) {
                Ok(finding) => finding,
                Err(error) => {
                    missing.push(format!("{error:#}"));
                    continue;
                }
            };
            if finding.degree().unwrap() != degree {
                missing.push(format!(
                    "{id} is {}, not {degree}: {}",
                    finding.degree().unwrap(),
                    finding.0["evidence"]
                ));
            }
            for (role, site) in sites {
                if let Err(error) = finding.must_name(role, markers.place(site).unwrap()) {
                    missing.push(format!("{error:#}"));
                }
            }
        }
        // Whose wait is named for all of those at the pool is left open: it is either of the two that take from it.
        if let Ok(pool) = report.finding("pool-exhausted") {
            let callers =
                ["pool-acquire-checkout", "pool-acquire-stock"].map(|site| markers.place(site).unwrap());
            if !callers.iter().any(|place| pool.names("called", place).unwrap()) {
                missing.push(format!("pool-exhausted names no caller: {}", pool.0["sites"]));
            }
        }
        assert!(missing.is_empty(), "{build}: {missing:#?}\n{}", outcome.line);
        // Nothing else is wrong with it.
        let findings = report.findings().unwrap();
        let known = |id: &str| EXPECTED.iter().any(|(expected, ..)| *expected == id);
        let other: Vec<_> =
            findings.iter().filter(|f| !f.0["id"].as_str().is_some_and(known)).cloned().collect();
        assert_eq!(titles(&other), Vec::<String>::new(), "{build}");
        // The text is what the process printed.
        let text = report.finding("panic").unwrap().crash_text().unwrap().to_owned();
        let own = shop.process.errors();
        assert!(
            own.contains(&text) && text.contains("ledger differs from the payment provider"),
            "{text:?}: {own}"
        );
    });
}

#[test]
fn root_truth_1_nothing_is_found_in_the_healthy_twin() {
    needs!(Need::Fixtures, Need::Root);
    let outcomes = Mutex::new(Vec::new());
    each(&builds("shop", &OLDEST_AND_NEWEST, &["stripped"]).unwrap(), 2, |build| {
        let (mut shop, report, outcome) = watch(build, false);
        let findings = report.findings().unwrap();
        assert_eq!(titles(&findings), Vec::<String>::new(), "{build}");
        assert_eq!(report.lines_of("finding").count(), 0, "one came and went: {}", report.answer.output);
        report.check_nothing_lost().unwrap();
        // Not harmed: alive, every request answered. Those that fail are the gateway's lost answers, every fifth.
        assert!(shop.process.is_running().unwrap(), "{}", shop.process.words());
        for harm in ["broken", "refused", "timeout", "skipped"] {
            assert_eq!(outcome.count(harm).unwrap(), 0, "{build}: {}", outcome.line);
        }
        assert!(outcome.count("ok").unwrap() > 500, "{build}: {}", outcome.line);
        outcomes.lock().unwrap().push(format!("{build}: {}", outcome.line));
    });
    println!("{}", outcomes.into_inner().unwrap().join("\n"));
}
