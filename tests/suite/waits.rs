//! What `gotrail dump` says that goroutines wait on, and their labels, against the program's own truth.

use std::collections::{BTreeMap, BTreeSet};
use std::thread::sleep;
use std::time::{Duration, Instant};

use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, MODES, VERSIONS, builds, each};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::needs;
use gotrail_tests::process::Process;
use serde_json::{Value, json};

/// As many cases of a select are kept (`MAX_CASES`).
const KEPT_CASES: usize = 1024;

struct Parked {
    process: Process,
    truth: Value,
}

fn start(build: &Build) -> Parked {
    let mut process = build.start_ready(&[]).unwrap();
    process.tell("truth").unwrap();
    let truth = process
        .await_output("the truth", |line| serde_json::from_str::<Value>(line).ok().filter(Value::is_object))
        .unwrap();
    Parked { process, truth }
}

impl Parked {
    fn dump(&self, arguments: &[&str]) -> Value {
        let pid = self.process.pid().to_string();
        let all: Vec<&str> = ["dump", &pid, "--format", "json"].iter().chain(arguments).copied().collect();
        run(&all).unwrap().well().unwrap().json().unwrap()
    }

    fn waiters(&self) -> &[Value] {
        array(&self.truth, "/waiters").unwrap()
    }

    /// The ids of those with this name.
    fn named(&self, name: &str) -> BTreeSet<u64> {
        self.waiters().iter().filter(|w| w["name"] == name).map(|w| number(w, "/goid").unwrap()).collect()
    }

    fn quit(mut self) {
        self.process.tell("quit").unwrap();
        assert!(self.process.wait().unwrap().success(), "{}", self.process.words());
    }
}

fn all_builds() -> Vec<Build> {
    builds("waits", &VERSIONS, &MODES).unwrap()
}

fn by_id(dump: &Value) -> BTreeMap<u64, &Value> {
    array(dump, "/goroutines").unwrap().iter().map(|g| (number(g, "/goid").unwrap(), g)).collect()
}

#[test]
fn root_truth_1_what_is_waited_on_is_what_the_program_says() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let parked = start(build);
        let dump = parked.dump(&[]);
        let ours = by_id(&dump);
        let channels: BTreeMap<&str, &Value> = array(&parked.truth, "/channels")
            .unwrap()
            .iter()
            .map(|channel| (text(channel, "/address").unwrap(), channel))
            .collect();
        for theirs in parked.waiters() {
            let ours = ours[&number(theirs, "/goid").unwrap()];
            check_wait(theirs, ours, &channels);
        }
        parked.quit();
    });
}

fn check_wait(theirs: &Value, ours: &Value, channels: &BTreeMap<&str, &Value>) {
    let wait = &ours["wait"];
    if let Some(reason) = theirs["reason"].as_str() {
        assert_eq!(text(ours, "/wait_reason").unwrap(), reason, "{theirs}");
    }
    for kind in ["semaphore", "cond"] {
        if let Some(address) = theirs[kind].as_str() {
            assert_eq!((&wait["kind"], text(wait, "/address").unwrap()), (&json!(kind), address), "{theirs}");
            assert!(text(wait, "/lock/type").unwrap().starts_with("sync."), "{theirs}: {wait}");
        }
    }
    if let Some(cases) = theirs["cases"].as_array() {
        check_cases(cases, wait, channels);
    }
    match text(theirs, "/name").unwrap() {
        "nil receive" | "nil send" | "no cases" | "nil cases" => assert_eq!(wait["kind"], "forever"),
        "sleep" => {
            let hours = number(wait, "/remaining_ns").unwrap() as f64 / 3.6e12;
            assert!((23.9..=24.0).contains(&hours), "{wait}");
        }
        _ => {}
    }
}

fn check_cases(theirs: &[Value], wait: &Value, channels: &BTreeMap<&str, &Value>) {
    let ours = array(wait, "/cases").unwrap();
    let pairs = |cases: &[Value]| -> Vec<(String, String)> {
        let pair = |case: &Value| {
            (text(case, "/channel").unwrap().to_owned(), text(case, "/direction").unwrap().to_owned())
        };
        let mut pairs: Vec<_> = cases.iter().map(pair).collect();
        pairs.sort();
        pairs
    };
    let (ours_sorted, theirs_sorted) = (pairs(ours), pairs(theirs));
    if theirs.len() <= KEPT_CASES {
        assert_eq!(ours_sorted, theirs_sorted);
    } else {
        assert_eq!(ours.len(), KEPT_CASES);
        assert_eq!(number(wait, "/cases_left_out").unwrap() as usize, theirs.len() - KEPT_CASES);
        assert!(ours_sorted.iter().all(|pair| theirs_sorted.binary_search(pair).is_ok()));
    }
    for case in ours {
        let Some(channel) = channels.get(text(case, "/channel").unwrap()) else { continue };
        let element = channel["element"].as_str().filter(|name| !name.is_empty());
        assert_eq!(case["element_type"].as_str(), element, "{channel}");
        assert_eq!(case["capacity"], channel["capacity"], "{channel}");
        assert_eq!(case["length"], channel["length"], "{channel}");
        assert_eq!(case["closed"], false, "{channel}");
    }
}

#[test]
fn root_truth_1_labels_are_what_the_program_set() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let parked = start(build);
        let dump = parked.dump(&[]);
        let ours = by_id(&dump);
        for theirs in parked.waiters() {
            let labels = theirs.get("labels").cloned().unwrap_or_else(|| json!({}));
            assert_eq!(ours[&number(theirs, "/goid").unwrap()]["labels"], labels, "{theirs}");
        }
        parked.quit();
    });
}

#[test]
fn root_sec_1_labels_stay_in_the_process_when_told_so_and_never_command_a_terminal() {
    needs!(Need::Fixtures, Need::Root);
    let parked = start(&all_builds()[0]);
    let pid = parked.process.pid().to_string();
    for form in ["human", "json", "pprof", "folded"] {
        for view in [&[][..], &["--group"], &["--waits"]] {
            if matches!(form, "pprof" | "folded") && !view.is_empty() {
                continue;
            }
            let open = [&["dump", &pid, "--format", form][..], view].concat();
            let closed = [&open[..], &["--no-labels"]].concat();
            let (open, closed) = (run(&open).unwrap().well().unwrap(), run(&closed).unwrap().well().unwrap());
            assert!(!closed.output.contains("acme"), "{form} {view:?}");
            let hidden = closed.output.matches("日本").count();
            assert_eq!(hidden, 0, "{form} {view:?}");
            // The labels have a colour command and a direction override in them.
            assert!(!open.output.contains(['\u{202e}', '\u{9b}']), "{form} {view:?}");
            if form != "pprof" {
                assert!(!open.output.contains('\u{1b}'), "{form} {view:?}");
            }
        }
    }
    let dump = parked.dump(&["--no-labels"]);
    assert!(by_id(&dump).values().all(|g| g["labels"].is_null()));
    parked.quit();
}

#[test]
fn root_truth_1_things_waited_on_have_all_their_waiters() {
    needs!(Need::Fixtures, Need::Root);
    each(&all_builds(), 2, |build| {
        let parked = start(build);
        let dump = parked.dump(&["--waits"]);
        let goids = |value: &Value| -> BTreeSet<u64> {
            value.as_array().unwrap().iter().map(|goid| goid.as_u64().unwrap()).collect()
        };
        // By address: what the waiters say, and what the list of things says.
        let mut theirs: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for waiter in parked.waiters().iter().filter(|w| w["name"] != "many") {
            let cases = waiter["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
            let addresses = cases.iter().map(|case| &case["channel"]);
            for address in addresses.chain([&waiter["semaphore"], &waiter["cond"]]).filter_map(Value::as_str)
            {
                theirs.entry(address.to_owned()).or_default().insert(number(waiter, "/goid").unwrap());
            }
        }
        let many = parked.named("many");
        let ours: BTreeMap<String, BTreeSet<u64>> = array(&dump, "/targets")
            .unwrap()
            .iter()
            .map(|thing| (text(thing, "/address").unwrap().to_owned(), goids(&thing["goroutines"])))
            .filter(|(_, waiters)| *waiters != many)
            .collect();
        assert_eq!(ours, theirs);

        let thing_of = |name: &str| {
            let waiters = parked.named(name);
            let found = array(&dump, "/targets").unwrap().iter().find(|t| goids(&t["goroutines"]) == waiters);
            found.unwrap_or_else(|| panic!("nothing that {name} waits on in {dump}"))
        };
        let mutex = thing_of("mutex");
        assert_eq!((&mutex["lock"]["type"], &mutex["lock"]["locked"]), (&json!("sync.Mutex"), &json!(true)));
        assert_eq!(thing_of("wait group")["lock"]["counter"], 1);
        assert_eq!(thing_of("rlock")["lock"]["writer"], true);
        assert_eq!(thing_of("wlock")["lock"]["readers_before_writer"], 1);
        assert_eq!(thing_of("cond")["lock"]["type"], "sync.Cond");
        // Who holds it has its address on the stack, and no waiter is named.
        let on_stacks = goids(&thing_of("other mutex")["on_stacks_of"]);
        assert!(on_stacks.is_superset(&parked.named("holder")), "{on_stacks:?}");
        assert!(on_stacks.is_disjoint(&parked.named("other mutex")), "{on_stacks:?}");

        let forever: BTreeSet<u64> = ["nil receive", "nil send", "no cases", "nil cases"]
            .iter()
            .flat_map(|name| parked.named(name))
            .collect();
        assert_eq!(goids(&dump["waiting_for_ever"]), forever);

        let pid = parked.process.pid().to_string();
        let said = run(&["dump", &pid, "--waits"]).unwrap().well().unwrap().output;
        for words in [
            "4 goroutines wait for ever",
            "6 goroutines wait on sync.Mutex",
            "4 goroutines wait on channel",
            "(chan *main.order, 3 of 3 buffered): 4 send",
            "on the stack of: goroutine",
        ] {
            assert!(said.contains(words), "no {words:?} in {said}");
        }
        parked.quit();
    });
}

#[test]
fn root_truth_1_no_goroutine_is_said_to_be_parked_for_longer_than_it_is() {
    needs!(Need::Fixtures, Need::Root);
    each(&builds("waits", &VERSIONS, &["stripped"]).unwrap(), 4, |build| {
        let mut process = build.start_ready(&[]).unwrap();
        let pid = process.pid().to_string();
        let collect = |process: &mut Process| {
            process.tell("collect").unwrap();
            process.await_output("`collected`", |line| (line == "collected").then_some(())).unwrap();
        };
        let look = |goid: u64| {
            let dump = run(&["dump", &pid, "--format", "json"]).unwrap().well().unwrap().json().unwrap();
            let goroutine = by_id(&dump)[&goid];
            let ns = |name: &str| goroutine[name].as_u64().map(Duration::from_nanos);
            (ns("wait_for_ns"), ns("wait_for_at_least_ns"))
        };
        collect(&mut process);
        sleep(Duration::from_secs(3));
        let parking = Instant::now();
        process.tell("park").unwrap();
        let goid = process
            .await_output("`parked`", |line| line.strip_prefix("parked ").and_then(|id| id.parse().ok()))
            .unwrap();
        // It is off its first channel operation, and parks at once.
        sleep(Duration::from_millis(300));
        assert_eq!(look(goid), (None, None), "no cycle has seen it");
        collect(&mut process);
        let (go, least) = look(goid);
        // By Go's own clock it is older than it is: since the cycle before it was parked.
        assert!(go.unwrap() >= Duration::from_secs(3), "{go:?}");
        assert!(least.unwrap() <= parking.elapsed(), "{least:?}");
        sleep(Duration::from_secs(1));
        collect(&mut process);
        let (_, least) = look(goid);
        let least = least.unwrap();
        assert!(least <= parking.elapsed(), "{least:?}");
        // It was parked for certain when the first of the two cycles saw it.
        assert!(least >= Duration::from_secs(1), "{least:?}");

        // Filters go by Go's own clock, as its tracebacks do.
        let left = |filter: &str| {
            let answer =
                run(&["dump", &pid, "--format", "json", "--filter", filter]).unwrap().well().unwrap();
            by_id(&answer.json().unwrap()).contains_key(&goid)
        };
        assert!(left("age>=3s") && left("age<1h") && !left("age>=1h") && !left("age<1s"));
        process.tell("quit").unwrap();
        assert!(process.wait().unwrap().success(), "{}", process.words());
    });
}
