//! What is kept of an executable for as long as a process is watched tells the same as the whole of it.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use gotrail::binary::GoBinary;
use gotrail::target::{HeldFile, open_file};
use gotrail_tests::env::Need;
use gotrail_tests::fixture::{Build, Cell, cells, each};
use gotrail_tests::needs;
use gotrail_tests::scratch::Scratch;

fn reread(whole: &GoBinary, path: &Path) -> GoBinary {
    let file = HeldFile::new(open_file(path).unwrap()).unwrap();
    whole.reread_from(move |offset, into| file.read_at(offset, into))
}

#[test]
fn truth_1_an_executable_that_is_read_again_names_the_same_places() {
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
        let lean = reread(&whole, &build.path);
        let mut known = 0;
        for function in whole.symbols().functions().iter().step_by(7) {
            for address in [function.entry, function.entry.midpoint(function.end)] {
                let frames = whole.frames(address, true);
                known += frames.len();
                assert_eq!(frames, lean.frames(address, true), "{address:#x}");
            }
            assert_eq!(whole.function_name(function.entry), lean.function_name(function.entry));
            assert!(lean.returns(*function).is_empty(), "code is kept at {:#x}", function.entry);
        }
        assert!(known > 500, "{known}");
        assert_eq!(whole.program().itabs(), lean.program().itabs());
        read.fetch_add(1, Ordering::Relaxed);
    });
    let read = read.into_inner();
    assert!(read > 15, "{read} of {} builds", builds.len());
}

/// Whoever replaces a file leaves the old one as it was. Whoever writes into it does so when its process is gone, which is
/// when much is looked up.
#[test]
fn truth_1_an_executable_that_was_written_to_names_nothing_new() {
    needs!(Need::Fixtures);
    let build = Build::find("matrix", "1.27.3", "default").unwrap();
    let folder = Scratch::new("lean").unwrap();
    let path = folder.path().join("program");
    std::fs::copy(&build.path, &path).unwrap();
    let whole = GoBinary::parse(std::fs::read(&path).unwrap().into()).unwrap();
    let lean = reread(&whole, &path);
    let entries: Vec<u64> = whole.symbols().functions().iter().map(|function| function.entry).collect();
    let (first, rest) = entries.split_at(entries.len() / 3);
    let same = |entries: &[u64]| {
        entries.iter().filter(|at| whole.frames(**at, true) == lean.frames(**at, true)).count()
    };
    assert_eq!(same(first), first.len());

    // Another file under its name, and other rights.
    std::fs::copy(&path, folder.path().join("copy")).unwrap();
    std::fs::rename(folder.path().join("copy"), folder.path().join("other")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::rename(&path, folder.path().join("moved")).unwrap();
    std::fs::rename(folder.path().join("other"), &path).unwrap();
    let (second, last) = rest.split_at(rest.len() / 2);
    assert_eq!(same(second), second.len());

    // As long as it was, with the names of others.
    let mut bytes = std::fs::read(&path).unwrap();
    let name = b"runtime.";
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name) {
            bytes[at] = b'R';
        }
    }
    let moved = std::fs::OpenOptions::new().write(true).open(folder.path().join("moved")).unwrap();
    moved.write_all_at(&bytes, 0).unwrap();
    let mut unknown = 0;
    for at in last {
        let (truth, told) = (whole.frames(*at, true), lean.frames(*at, true));
        unknown += usize::from(told.iter().all(|frame| frame.function == "?"));
        for frame in told.iter().filter(|frame| frame.function != "?") {
            assert!(truth.iter().any(|known| known.function == frame.function), "{frame:?}, not {truth:?}");
        }
    }
    assert!(unknown > last.len() / 2, "{unknown} of {}", last.len());
}
