//! Inputs that broke something once.

use std::fs;
use std::path::{Path, PathBuf};

use gotrail::fuzzing;

use crate::limits::bounded;

/// What was kept for a target, with its name.
fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../fuzz/regressions").join(target);
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let files = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    files.map(|path| (format!("{target}/{}", name(&path)), fs::read(&path).unwrap())).collect()
}

fn check(target: &str, body: impl Fn(&[u8])) -> usize {
    let inputs = kept(target);
    for (name, input) in &inputs {
        bounded(name, input.len(), || body(input));
    }
    inputs.len()
}

#[test]
fn fail_1_what_broke_a_parser_once_breaks_none_again() {
    let count = check("version", fuzzing::version)
        + check("machine_code", fuzzing::machine_code)
        + check("events", fuzzing::events)
        + check("proc_text", fuzzing::proc_text)
        + check("program", |input| _ = fuzzing::program(input.into()))
        + check("core_file", |input| _ = fuzzing::core_file(input))
        + check("build_info", |input| _ = fuzzing::build_info(input))
        + check("layout_dwarf", |input| _ = fuzzing::layout_dwarf(input));
    assert!(count > 0, "no input was kept");
}
