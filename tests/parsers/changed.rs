//! Real files and whole processes with something done to them.

use std::fmt;
use std::fs;

use gotrail::binary::GoBinary;
use gotrail::fuzzing::{
    self, Base, Honest, Random, core_base, dwarf_only, memory_input, overlay, overlay_input,
};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, OLDEST_AND_NEWEST, builds, cells, each};
use gotrail_tests::needs;

use crate::limits::bounded;

/// Changes of each file, or process.
const CHANGES: u64 = 50;

/// One input.
struct Case {
    base: usize,
    seed: u64,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "base {}, seed {:#x}", self.base, self.seed)
    }
}

fn cases(bases: usize) -> Vec<Case> {
    (0..bases)
        .flat_map(|base| (0..CHANGES).map(move |i| Case { base, seed: (base as u64) << 32 | i }))
        .collect()
}

fn base(build: &Build) -> Base {
    Base::new(build.to_string(), fs::read(&build.path).unwrap())
}

/// Small programs: the oldest and the newest release, with DWARF and without, and one of the other architecture.
fn programs() -> Vec<Base> {
    let mut bases: Vec<Base> =
        builds("spawn", &OLDEST_AND_NEWEST, &["stripped"]).unwrap().iter().map(base).collect();
    bases.extend(builds("spawn", &["1.23.9"], &["default"]).unwrap().iter().map(base));
    let other = cells("matrix").unwrap_or_default().into_iter().find_map(|cell| match cell {
        Cell::Built(build) if build.arch == "arm64" && build.mode == "stripped" => Some(build),
        _ => None,
    });
    bases.extend(other.as_ref().map(base));
    bases
}

#[test]
fn fail_1_no_change_of_a_program_breaks_its_reading() {
    needs!(Need::Fixtures);
    let bases = programs();
    for base in &bases {
        assert!(fuzzing::program(base.bytes().into()), "{} is not understood as it is", base.name);
    }
    each(&cases(bases.len()), 2, |case| {
        let input = overlay_input(&mut Random::new(case.seed), case.base as u8);
        let bytes = overlay(&bases, &input).unwrap();
        bounded(&case.to_string(), bytes.len(), || fuzzing::program(bytes.clone()));
        bounded(&case.to_string(), bytes.len(), || fuzzing::build_info(&bytes));
    });
}

#[test]
fn fail_1_no_change_of_dwarf_breaks_its_reading() {
    needs!(Need::Fixtures);
    let bases: Vec<Base> = builds("spawn", &OLDEST_AND_NEWEST, &["default"])
        .unwrap()
        .iter()
        .map(|build| Base::new(build.to_string(), dwarf_only(&fs::read(&build.path).unwrap()).unwrap()))
        .collect();
    for base in &bases {
        assert!(fuzzing::layout_dwarf(base.bytes()), "{} has no layout as it is", base.name);
    }
    each(&cases(bases.len() * 2), 2, |case| {
        let input = overlay_input(&mut Random::new(case.seed), case.base as u8);
        let bytes = overlay(&bases, &input).unwrap();
        bounded(&case.to_string(), bytes.len(), || fuzzing::layout_dwarf(&bytes));
    });
}

#[test]
fn fail_1_no_change_of_a_core_file_breaks_its_reading() {
    let bases = [core_base()];
    assert!(fuzzing::core_file(bases[0].bytes()), "it is not read as it is");
    let mut read = 0;
    for turn in 0..3000 {
        let input = overlay_input(&mut Random::new(turn), 0);
        let bytes = overlay(&bases, &input).unwrap();
        read += u32::from(bounded(&turn.to_string(), bytes.len(), || fuzzing::core_file(&bytes)));
    }
    assert!((100..3000).contains(&read), "{read} of them were read");
}

#[test]
fn fail_1_no_lie_in_memory_breaks_a_snapshot() {
    needs!(Need::Fixtures);
    let binaries: Vec<GoBinary> =
        programs().iter().map(|base| GoBinary::parse(base.bytes().into()).unwrap()).collect();
    let processes: Vec<Honest<'_>> = binaries.iter().map(Honest::new).collect();
    for process in &processes {
        fuzzing::memory(process, &[]);
    }
    each(&cases(processes.len()), 2, |case| {
        let input = memory_input(&mut Random::new(case.seed));
        bounded(&case.to_string(), 0, || fuzzing::memory(&processes[case.base], &input));
    });
}

#[test]
fn fail_1_no_bytes_break_what_reads_bytes() {
    let mut random = Random::new(0x5eed);
    for turn in 0..3000_u32 {
        let len = random.below(400) as usize;
        let bytes = random.bytes(len);
        let told = format!("turn {turn}");
        bounded(&told, len, || fuzzing::machine_code(&bytes));
        bounded(&told, len, || fuzzing::version(&bytes));
        bounded(&told, len, || fuzzing::version(&[b"go1.2", &*bytes].concat()));
        bounded(&told, len, || fuzzing::proc_text(&bytes));
        // A record is of a known probe in one of twelve.
        let mut record = random.bytes(8 + 1152);
        record[8 + 30] = (turn % 23) as u8;
        record.truncate(8 + random.below(1153) as usize);
        bounded(&told, len, || fuzzing::events(&record));
    }
}
