//! What gotrail reads from an executable, against the oracle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Arc;

use gotrail::binary::layout::{FIELDS, Field, from_dwarf, from_table};
use gotrail::binary::{GoBinary, GoVersion};
use gotrail_tests::fixture::{Build, Cell, cells};
use gotrail_tests::json::{array, number, text};
use gotrail_tests::oracle::{Oracle, Range, instructions};
use gotrail_tests::support::Verdict;
use serde_json::Value;

/// All checks of one build.
pub(super) fn check(build: &Build) -> Verdict {
    let answer = match super::inspect(build) {
        Ok(answer) => answer,
        Err(words) => return Verdict::Refused(words),
    };
    let stripped = build.mode == "stripped";
    assert_eq!(text(&answer, "/go_version").unwrap(), format!("go{}", build.go));
    assert_eq!(text(&answer, "/goarch").unwrap(), build.arch);
    assert_eq!(answer["stripped"], stripped, "{answer}");
    let layout = text(&answer, "/layout_source").unwrap();
    assert_eq!(layout.starts_with("table"), stripped, "the layout is from {layout}");
    assert_eq!(text(&answer, "/globals_source").unwrap(), if stripped { "code" } else { "symbols" });

    // What stripping takes away the twin still has.
    let truth = if stripped { unstripped(build) } else { build.clone() };
    let questions: Vec<(&str, &str)> = FIELDS
        .iter()
        .flat_map(|field| field.paths.iter().map(|path| (field.strukt, path.trim_start_matches('*'))))
        .collect();
    let twin = Oracle::ask(&truth.path, &questions).unwrap();
    let own = Oracle::ask(&build.path, &[]).unwrap();
    let bytes: Arc<[u8]> = fs::read(&build.path).unwrap().into();
    let binary = GoBinary::parse(Arc::clone(&bytes)).unwrap();
    offsets(build, &binary, &twin);
    if !stripped {
        // The table is what a stripped program of this kind would be read by.
        let version = GoVersion::parse(&format!("go{}", build.go)).unwrap();
        let row = from_table(&version, &build.arch).unwrap();
        let own = from_dwarf(&bytes).unwrap();
        assert_eq!(row.to_offsets(), own.to_offsets(), "table and DWARF differ");
        assert_eq!(row.wait_reasons, own.wait_reasons, "table and DWARF differ");
    }
    globals(&binary, &own, &twin);
    assert_eq!(own.section(".text").unwrap(), twin.section(".text").unwrap(), "the twin is none");
    let functions = twin.functions().unwrap();
    names(&binary, &functions);
    sites(build, &answer, &own, &functions);
    if build.mode == "pgo" {
        inlined(&functions, &Oracle::ask(&unstripped(build).path, &[]).unwrap().functions().unwrap());
    }
    Verdict::Works
}

/// A build by profile is worth its name only where the scheduler was inlined into itself.
fn inlined(optimised: &BTreeMap<&str, Range>, plain: &BTreeMap<&str, Range>) {
    let size = |of: &BTreeMap<&str, Range>, name| of.get(name).map_or(0, |range| range.size);
    for name in ["runtime.park_m", "runtime.goexit0", "runtime.ready"] {
        let (optimised, plain) = (size(optimised, name), size(plain, name));
        assert!(optimised > plain * 3 / 2, "{name} has {optimised} bytes, {plain} without the profile");
    }
}

/// The same build with its symbols.
fn unstripped(build: &Build) -> Build {
    let twin = cells("matrix").unwrap().into_iter().find_map(|cell| match cell {
        Cell::Built(twin) => {
            let same = twin.go == build.go && twin.arch == build.arch && twin.mode == "default";
            same.then_some(twin)
        }
        Cell::NotByGo { .. } => None,
    });
    twin.unwrap_or_else(|| panic!("{build} has no twin with symbols"))
}

/// Where a field is by the oracle: the first of its paths that exists is meant; a `*` wants a pointer there.
fn truth_of(field: &Field, oracle: &Oracle) -> Option<u64> {
    field.paths.iter().find_map(|path| {
        let (offset, pointer) = oracle.field(field.strukt, path.trim_start_matches('*')).unwrap()?;
        (pointer || !path.starts_with('*')).then_some(offset)
    })
}

fn offsets(build: &Build, binary: &GoBinary, oracle: &Oracle) {
    let ours = binary.layout().to_offsets();
    let mut known = 0;
    for field in FIELDS {
        let theirs = truth_of(field, oracle);
        known += usize::from(theirs.is_some());
        let ours = ours.get(field.key).copied().map(u64::from);
        assert_eq!(ours, theirs, "{} of {}", field.key, field.strukt);
    }
    // An oracle that knows nothing would agree with whoever knows nothing.
    assert!(known > 80, "{build}: the oracle knows only {known} fields of {}", FIELDS.len());
    let reasons = &binary.layout().wait_reasons;
    assert!(reasons.iter().any(|reason| reason == "chan receive"), "{reasons:?}");
}

fn globals(binary: &GoBinary, own: &Oracle, twin: &Oracle) {
    let ours = binary.globals();
    for (name, address) in [
        ("runtime.allgs", ours.allgs),
        ("runtime.allp", ours.allp),
        ("runtime.allm", ours.allm),
        ("runtime.sched", ours.sched),
        ("runtime.gcController", ours.gc_controller),
        ("runtime.memstats", ours.memstats),
        ("runtime.gcphase", ours.gcphase),
    ] {
        assert_eq!(address, twin.global_in(own, name).unwrap(), "{name}");
    }
    let optional = ours.optional;
    for (name, address) in optional.named() {
        assert_eq!(address, twin.global_in(own, name).unwrap(), "{name}");
    }
    assert!(optional.mheap.is_some() && optional.allfin.is_some() && optional.work.is_some(), "{optional:?}");
    assert_eq!(optional.cleanups.is_some(), binary.version().minor >= 25, "{optional:?}");
}

/// The functions of a name, in the symbol table. Where Go code and assembly call each other there are two:
/// one of them, which one depends on who is called, is a wrapper around the other.
fn function<'a>(functions: &'a BTreeMap<&str, Range>, name: &str) -> impl Iterator<Item = Range> + 'a {
    [functions.get(name), functions.get(format!("{name}.abi0").as_str())].into_iter().flatten().copied()
}

/// Each function of the runtime that both know starts where the symbol table says.
fn names(binary: &GoBinary, functions: &BTreeMap<&str, Range>) {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    binary.symbols().for_each_name(binary.image(), |ours, name, wrapper| {
        if wrapper || !name.starts_with("runtime.") {
            return;
        }
        let theirs: Vec<u64> = function(functions, name).map(|range| range.address).collect();
        seen += usize::from(!theirs.is_empty());
        if !theirs.is_empty() && !theirs.contains(&ours.entry) {
            wrong.push(format!("{name}: {:#x}, not {theirs:#x?}", ours.entry));
        }
    });
    assert!(wrong.is_empty(), "{} functions are elsewhere: {:?}", wrong.len(), &wrong[..wrong.len().min(5)]);
    assert!(seen > 800, "only {seen} functions of the runtime are known");
}

/// Each site is in its function, on the begin of an instruction, and in the file where it says.
fn sites(build: &Build, answer: &Value, own: &Oracle, functions: &BTreeMap<&str, Range>) {
    let sites = array(answer, "/sites").unwrap();
    let unavailable = array(answer, "/unavailable").unwrap();
    assert!(sites.len() >= 16, "only {} sites, without {unavailable:?}", sites.len());
    let mut decoded: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for site in sites {
        let (name, address) = (text(site, "/function").unwrap(), number(site, "/address").unwrap());
        let function = function(functions, name)
            .find(|range| range.has(address))
            .unwrap_or_else(|| panic!("{site} is not in its function as the symbol table has it"));
        assert_eq!(number(site, "/file_offset").unwrap(), own.file_offset(address).unwrap(), "{site}");
        if build.arch == "arm64" {
            assert_eq!(address % 4, 0, "{site} is not on an instruction");
            continue;
        }
        let boundaries =
            decoded.entry(function.address).or_insert_with(|| instructions(&build.path, function).unwrap());
        assert!(boundaries.contains(&address), "{site} is not on an instruction");
    }
}
