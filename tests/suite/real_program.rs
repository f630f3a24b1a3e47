//! A program that no one here wrote: etcd under load.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use gotrail_tests::attach::{Attach, run, titles};
use gotrail_tests::backend::Etcd;
use gotrail_tests::env::{Need, stack_parser};
use gotrail_tests::http::Client;
use gotrail_tests::json::{array, number};
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;
use serde_json::{Value, json};

use crate::forms;

/// Connections that put and get.
const CLIENTS: usize = 8;
/// The line for a goroutine that runs (`tracebackothers`, runtime/traceback.go).
const RUNS: &str = "goroutine running on other thread; stack unavailable";
/// How long it is watched.
const WATCHED: &str = "60s";
/// How long that may take in all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Base64 (RFC 4648), as etcd's JSON gateway wants keys and values.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word = chunk.iter().fold(0_usize, |word, byte| word << 8 | usize::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..4 {
            let digit = char::from(DIGITS[word >> (18 - 6 * place) & 63]);
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// Puts a value under a key and gets it back.
fn put_and_get(client: &mut Client, key: &str, value: &str) -> Result<()> {
    let put = client.request(
        "POST",
        "/v3/kv/put",
        &json!({ "key": base64(key.as_bytes()), "value": base64(value.as_bytes()) }).to_string(),
    )?;
    ensure!(put.status == 200, "put: {} {}", put.status, put.body);
    let get =
        client.request("POST", "/v3/kv/range", &json!({ "key": base64(key.as_bytes()) }).to_string())?;
    ensure!(get.status == 200, "range: {} {}", get.status, get.body);
    let got: Value = serde_json::from_str(&get.body)?;
    ensure!(got["kvs"][0]["value"] == base64(value.as_bytes()), "{key} is not {value}: {}", get.body);
    Ok(())
}

/// Does something while clients put and get, and tells how many requests were answered.
fn under_load<T>(etcd: &Etcd, done: impl FnOnce() -> T) -> (T, u64) {
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let load = |client: usize| -> Result<()> {
        let mut connection = Client::connect(etcd.address)?;
        for i in 0_u64.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            put_and_get(&mut connection, &format!("key-{client}-{}", i % 100), &format!("value-{i}"))?;
            answered.fetch_add(2, Ordering::Relaxed);
        }
        Ok(())
    };
    let (result, failed) = thread::scope(|scope| {
        let (load, stop) = (&load, &stop);
        let clients: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || load(client))).collect();
        let result = done();
        stop.store(true, Ordering::Relaxed);
        let failed: Vec<String> = clients
            .into_iter()
            .filter_map(|client| client.join().unwrap().err().map(|error| format!("{error:#}")))
            .collect();
        (result, failed)
    });
    assert_eq!(failed, Vec::<String>::new(), "requests failed\n{}", etcd.process.words());
    (result, answered.into_inner())
}

/// What a parser of tracebacks that knows nothing of gotrail makes of a text.
fn parsed(text: &str) -> Value {
    let mut child =
        Command::new(stack_parser().unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn root_truth_1_other_tools_read_the_dump_of_a_busy_stripped_etcd() {
    needs!(Need::Fixtures, Need::Root, Need::Backend("etcd-stripped"), Need::StackParser);
    let scratch = Scratch::new("parsers").unwrap();
    let panicparse = forms::panicparse(scratch.path());
    let etcd = Etcd::start_build("etcd-stripped").unwrap();
    let pid = etcd.process.pid().to_string();
    let ((), answered) = under_load(&etcd, || {
        for arguments in [&[][..], &["--system"]] {
            for _ in 0..20 {
                let text = run(&[&["dump", &pid], arguments].concat()).unwrap().well().unwrap().output;
                let heads = text.lines().filter(|line| line.starts_with("goroutine ")).count() as u64;
                if let Some(parser) = &panicparse {
                    forms::panicparse_reads(parser, scratch.path(), &text);
                }
                let parsed = parsed(&text);
                // This one knows debug=2 alone, and not what Go itself says in a crash of a goroutine that runs.
                let errors = array(&parsed, "/errors").unwrap();
                let runs = |error: &Value| error.as_str().is_some_and(|error| error.contains(RUNS));
                assert!(errors.iter().all(runs), "{parsed}\n{text}");
                assert_eq!(errors.len(), text.matches(RUNS).count(), "{parsed}\n{text}");
                let read = number(&parsed, "/goroutines").unwrap() + errors.len() as u64;
                assert_eq!(read, heads, "{parsed}\n{text}");
                assert!(heads > 30 && number(&parsed, "/frames").unwrap() > heads, "{parsed}");
                assert!(
                    parsed["states"]["select"].is_u64() && parsed["states"]["IO wait"].is_u64(),
                    "{parsed}"
                );
            }
        }
        // And nothing in it waits in a ring.
        let waits =
            run(&["dump", &pid, "--waits", "--format", "json"]).unwrap().well().unwrap().json().unwrap();
        assert_eq!((&waits["cycles"], &waits["cycles_not_looked_for"]), (&json!([]), &Value::Null));
        // Its clients and what listens are known by their addresses.
        let said = run(&["dump", &pid, "--waits"]).unwrap().well().unwrap().output;
        assert!(said.contains(&format!("tcp {} (listen)", etcd.address)), "{said}");
    });
    println!("etcd answered {answered} requests");
    assert!(answered > 100, "hardly a load: {answered} requests");
}

#[test]
fn root_truth_1_nothing_is_found_in_a_busy_etcd() {
    needs!(Need::Fixtures, Need::Root, Need::Backend("etcd"));
    let mut etcd = Etcd::start().unwrap();
    // A host that does something else as well may keep etcd from its CPUs in the midst of a stop: a long one by right,
    // but nothing that is wrong with etcd.
    let attach = Attach::start(etcd.process.pid(), &["--for", WATCHED, "--long-stw", "2s"]).unwrap();
    let (report, answered) = under_load(&etcd, || attach.finish_within(PATIENCE).unwrap());
    println!("etcd answered {answered} requests; demoted: {}", report.lines_of("demoted").count());
    assert!(answered > 1000, "hardly a load: {answered} requests");
    assert!(etcd.process.is_running().unwrap(), "{}", etcd.process.words());
    assert_eq!(titles(&report.findings().unwrap()), Vec::<String>::new());
    assert_eq!(report.lines_of("finding").count(), 0, "one came and went: {}", report.answer.output);
    report.check_nothing_lost().unwrap();
    assert!(report.number("/gc/cycles").unwrap() > 0, "{:?}", report.lines.last());
    assert!(report.number("/snapshots/taken").unwrap() > 10, "{:?}", report.lines.last());
}
