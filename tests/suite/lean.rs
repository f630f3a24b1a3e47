//! What is kept of an executable for as long as a process is watched tells the same as the whole of it.

use std::sync::atomic::{AtomicUsize, Ordering};

use gotrail::binary::GoBinary;
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, cells, each};
use gotrail_tests::needs;

#[test]
fn truth_1_an_executable_without_its_code_names_the_same_places() {
    needs!(Need::Fixtures);
    let built = |cell: Cell| match cell {
        Cell::Built(build) => Some(build),
        _ => None,
    };
    let builds: Vec<Build> = cells("matrix").unwrap().into_iter().filter_map(built).collect();
    assert!(builds.len() > 20, "{builds:?}");
    let read = AtomicUsize::new(0);
    each(&builds, 1, |build| {
        // Those that are refused have nothing to be compared.
        let Ok(whole) = GoBinary::parse(std::fs::read(&build.path).unwrap().into()) else { return };
        let lean = whole.without_code();
        let mut known = 0;
        for function in whole.symbols().functions().iter().step_by(7) {
            for address in [function.entry, function.entry.midpoint(function.end)] {
                let frames = whole.frames(address, true);
                known += frames.len();
                assert_eq!(frames, lean.frames(address, true), "{address:#x}");
            }
            assert!(lean.returns(*function).is_empty(), "code is kept at {:#x}", function.entry);
        }
        assert!(known > 500, "{known}");
        assert_eq!(whole.program().itabs(), lean.program().itabs());
        read.fetch_add(1, Ordering::Relaxed);
    });
    let read = read.into_inner();
    assert!(read > 15, "{read} of {} builds", builds.len());
}
