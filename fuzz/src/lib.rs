//! What the targets share: the real files that their inputs are changes of.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use gotrail::binary::GoBinary;
use gotrail::fuzzing::{Base, Honest, core_base, dwarf_only, overlay};

/// Names the folder of the real files.
const FOLDER: &str = "GOTRAIL_FUZZ_BASES";

/// The real files, by name.
pub static PROGRAMS: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let folder = PathBuf::from(env::var_os(FOLDER).unwrap_or_else(|| "bases".into()));
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    assert!(
        !paths.is_empty(),
        "no files in {}: `cargo xtask fuzz` puts them there and says so in {FOLDER}",
        folder.display()
    );
    paths.iter().map(|path| Base::new(path.display().to_string(), fs::read(path).expect("a file"))).collect()
});
/// Those with DWARF: what is left of them with it alone, and one as it is, compressed.
pub static DWARF: LazyLock<Vec<Base>> = LazyLock::new(|| {
    let mut bases = Vec::new();
    for base in PROGRAMS.iter() {
        if let Some(small) = dwarf_only(base.bytes()) {
            bases.push(Base::new(format!("the DWARF of {}", base.name), small));
            if bases.len() == 1 {
                bases.insert(0, base.clone());
            }
        }
    }
    bases
});
/// A core file.
pub static CORES: LazyLock<Vec<Base>> = LazyLock::new(|| vec![core_base()]);
/// Processes of the programs that are understood.
pub static PROCESSES: LazyLock<Vec<Honest<'static>>> = LazyLock::new(|| {
    static UNDERSTOOD: LazyLock<Vec<GoBinary>> = LazyLock::new(|| {
        let parsed = PROGRAMS.iter().filter_map(|base| GoBinary::parse(base.bytes().into()).ok());
        parsed.collect()
    });
    UNDERSTOOD.iter().map(Honest::new).collect()
});

/// An input as a file: those that begin like one are taken as they are, so that a real file can be a seed too.
pub fn file(bases: &[Base], input: &[u8]) -> Option<Arc<[u8]>> {
    if input.starts_with(b"\x7fELF") { Some(input.into()) } else { overlay(bases, input) }
}
