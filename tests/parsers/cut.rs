//! Files that were cut short.

use std::fs;
use std::sync::Arc;

use gotrail::binary::Program;
use gotrail_tests::attach::run;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, cells, each};
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;

use crate::limits::bounded;

/// What a disk or a copy is cut at.
const BLOCK: usize = 4096;
/// Behind the tables that are needed to the end of the file one block in so many is tried, by what reads the DWARF
/// there too; and one in so many is given to the program itself.
const BEHIND: usize = 32;
const BY_PROGRAM: usize = 1024;

/// How far the reading of a file went: what it was refused with, and whether its tables were there.
struct Outcome {
    refusal: Option<String>,
    has_tables: bool,
}

fn read(bytes: Arc<[u8]>) -> Outcome {
    match Program::parse(bytes) {
        Ok(program) => {
            let refusal = program.understand(|_| None).err().map(|refused| refused.1.to_string());
            Outcome { refusal, has_tables: true }
        }
        Err(error) => Outcome { refusal: Some(error.to_string()), has_tables: false },
    }
}

#[test]
fn fail_1_a_file_cut_anywhere_is_read_or_refused_in_words() {
    needs!(Need::Fixtures);
    let built = cells("matrix").unwrap().into_iter().filter_map(|cell| match cell {
        Cell::Built(build) => Some(build),
        Cell::NotByGo { .. } => None,
    });
    let builds: Vec<Build> = built.collect();
    let scratch = Scratch::new("cut").unwrap();
    each(&builds, 2, |build| {
        let file = fs::read(&build.path).unwrap();
        let (mut refused, mut complete) = (0, false);
        for block in 0..=file.len() / BLOCK {
            if complete && block % BEHIND != 0 {
                continue;
            }
            let (told, cut) = (format!("{build} cut at block {block}"), &file[..block * BLOCK]);
            let outcome = bounded(&told, cut.len(), || read(cut.into()));
            let words = outcome.refusal.as_deref().unwrap_or("none is needed");
            assert!(words.len() > 10, "{told}: {words:?}");
            refused += usize::from(outcome.refusal.is_some());
            complete |= outcome.has_tables;
            if block % BY_PROGRAM == BY_PROGRAM / 2 {
                let path = scratch.program(&format!("{build}-{block}").replace(' ', "-"), cut).unwrap();
                let answer = run(&["inspect", path.to_str().unwrap()]).unwrap();
                fs::remove_file(&path).unwrap();
                assert!(matches!(answer.code, Some(0 | 3)), "{told}: {answer:?}");
                assert!(!answer.errors.contains("panicked"), "{told}: {answer:?}");
            }
        }
        assert!(refused > 50, "{build}: only {refused} cuts were refused");
    });
}
