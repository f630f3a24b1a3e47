//! Where the fields of the Go runtime's structures are.
//!
//! Nothing in here is guessed. A layout comes from the program's own DWARF ([`from_dwarf`]) or from a table of
//! layouts measured with the released toolchains ([`from_table`]), the latter also for a release of which the machine
//! code proves it ([`witness`]); a version that none of them covers is refused by name.

mod dwarf;
mod fields;
mod table;
pub mod witness;

use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use super::version::GoVersion;

pub use dwarf::from_dwarf;
pub use fields::*;
pub use table::{Coverage, coverage, from_table};
/// Why there is no layout.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LayoutError {
    /// Some fields that every supported version has are not there.
    #[error("the layout lacks {}", .missing.join(", "))]
    Incomplete {
        /// Their keys.
        missing: Vec<&'static str>,
    },
    /// The table does not know this version.
    #[error("the layout of {version} on {arch} is unknown: {why}; the table covers {covers}")]
    Unknown {
        /// The version, as the program states it.
        version: String,
        /// The architecture, by Go's name.
        arch: String,
        /// Why no row of the table applies.
        why: &'static str,
        /// What the table covers for this architecture.
        covers: String,
    },
    /// The file carries no DWARF.
    #[error("the file has no DWARF (built with -ldflags=-w, or stripped)")]
    NoDwarf,
    /// The file has DWARF, but none of a Go runtime.
    #[error("the DWARF describes no Go runtime: no unit `runtime` declares {strukt}")]
    NoRuntime {
        /// A structure that was searched for in vain.
        strukt: &'static str,
    },
    /// The file can't be read as ELF or its DWARF as DWARF.
    #[error("the {what} can't be read: {why}")]
    Malformed {
        /// The part of the file.
        what: &'static str,
        /// What the parser says.
        why: String,
    },
    /// A part of the file is larger than is read for this purpose.
    #[error("the {what} has {size} bytes, more than the {limit} that are read")]
    TooLarge {
        /// The part of the file.
        what: &'static str,
        /// Its size.
        size: u64,
        /// The most that is read.
        limit: u64,
    },
    /// The DWARF takes more work than a Go program's does.
    #[error("the DWARF is refused: finding the runtime in it takes more than {limit} steps")]
    TooComplex {
        /// The most that are taken.
        limit: u64,
    },
    /// No release's layout could be proven either.
    #[error("{table}; nor is its code that of the nearest measured release: {code}")]
    NotProven {
        /// Why not by the table.
        table: Box<LayoutError>,
        /// Why not by the code.
        code: String,
    },
    /// Neither way led to a layout.
    #[error("no layout by DWARF: {dwarf}; nor by the table: {table}")]
    Neither {
        /// Why not by DWARF.
        dwarf: Box<LayoutError>,
        /// Why not by the table.
        table: Box<LayoutError>,
    },
}

/// Where a layout comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayoutSource {
    /// The program's own DWARF.
    Dwarf,
    /// The DWARF of a debug file on this host that has the program's build ID.
    DebugFile,
    /// The row of the table for another release of the same minor: the machine code of the functions that use the
    /// fields is the same.
    Code {
        /// That release, without `go`.
        version: String,
        /// How many functions were compared.
        functions: usize,
    },
    /// The row of the table for the versions from `first` to `last`.
    Table {
        /// The first version of the row.
        first: String,
        /// The last version of the row.
        last: String,
    },
}

impl fmt::Display for LayoutSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dwarf => f.write_str("DWARF"),
            Self::DebugFile => f.write_str("DWARF in a debug file with its build ID"),
            Self::Code { version, functions } => {
                write!(f, "table (go{version}), proven by the code of {functions} functions")
            }
            Self::Table { first, last } if first == last => write!(f, "table (go{first})"),
            Self::Table { first, last } => write!(f, "table (go{first} to go{last})"),
        }
    }
}

/// Finds a program's layout: by its DWARF, else by the table for its version.
///
/// `elf` is the program's file, `goarch` Go's name of its architecture.
///
/// # Errors
///
/// Neither leads to a complete layout; the error says why for each.
pub fn find(
    elf: &[u8],
    debug: impl FnOnce() -> Option<Arc<[u8]>>,
    version: &GoVersion,
    goarch: &str,
) -> Result<(Layout, LayoutSource), LayoutError> {
    let complete = |mut layout: Layout, source| {
        if layout.wait_reasons.is_empty()
            && let Ok((row, _)) = table::row(version, goarch)
        {
            layout.wait_reasons = row.wait_reasons;
        }
        Ok((layout, source))
    };
    let dwarf = match from_dwarf(elf) {
        Ok(layout) => return complete(layout, LayoutSource::Dwarf),
        Err(error) => error,
    };
    if let Some(Ok(layout)) = debug().map(|file| from_dwarf(&file)) {
        return complete(layout, LayoutSource::DebugFile);
    }
    table::row(version, goarch)
        .map_err(|table| LayoutError::Neither { dwarf: Box::new(dwarf), table: Box::new(table) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every field at an offset of its own.
    fn numbered(key: &str) -> Option<u32> {
        FIELDS.iter().position(|field| field.key == key).map(|index| index as u32 * 8)
    }

    #[test]
    fn keys_are_unique_and_paths_are_there() {
        let keys: std::collections::BTreeSet<_> = FIELDS.iter().map(|field| field.key).collect();
        assert_eq!(keys.len(), FIELDS.len());
        assert!(FIELDS.iter().all(|field| field.strukt.starts_with("runtime.") && !field.paths.is_empty()));
    }

    #[test]
    fn offsets_survive_the_way_there_and_back() {
        let layout = Layout::from_offsets(numbered, vec!["sleep".to_owned()]).unwrap();
        let offsets = layout.to_offsets();
        assert_eq!(offsets.len(), FIELDS.len());
        assert_eq!(offsets["g.goid"], layout.g.goid);
        assert_eq!(offsets["m.self_"], layout.m.self_.unwrap());
        let again = Layout::from_offsets(|key| offsets.get(key).copied(), vec!["sleep".to_owned()]).unwrap();
        assert_eq!(again, layout);
    }

    #[test]
    fn what_only_some_versions_have_may_be_absent() {
        let optional = |key: &str| FIELDS.iter().any(|field| field.key == key && !field.required);
        let layout =
            Layout::from_offsets(|key| numbered(key).filter(|_| !optional(key)), Vec::new()).unwrap();
        assert_eq!((layout.m.self_, layout.g.parent_goid), (None, None));
        assert!(!layout.to_offsets().contains_key("m.self_"));
    }

    #[test]
    fn all_missing_fields_are_named_at_once() {
        let hide = ["g.goid", "hchan.qcount"];
        let error = Layout::from_offsets(|key| numbered(key).filter(|_| !hide.contains(&key)), Vec::new())
            .expect_err("two are missing");
        assert_eq!(error, LayoutError::Incomplete { missing: hide.to_vec() });
        assert!(error.to_string().contains("g.goid, hchan.qcount"), "{error}");
    }

    #[test]
    fn find_names_both_reasons() {
        let version = GoVersion::parse("go1.99.0").unwrap();
        let error =
            find(b"not an ELF file", || None, &version, "amd64").expect_err("no such version").to_string();
        assert!(error.contains("DWARF") && error.contains("go1.99.0"), "{error}");
    }

    #[test]
    fn find_falls_back_to_the_table_and_says_so() {
        let version = GoVersion::parse("go1.21.13").unwrap();
        let (layout, source) = find(b"", || None, &version, "arm64").unwrap();
        assert!(matches!(source, LayoutSource::Table { .. }), "{source}");
        assert!(source.to_string().contains("go1.21"), "{source}");
        assert_eq!(layout.g.m, 48);
    }
}
