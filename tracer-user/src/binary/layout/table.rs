//! The layouts of released versions, for programs without DWARF.
//!
//! `layouts.json` is measured: `cargo xtask layouts` builds a program with the released toolchains and reads its
//! DWARF. A row holds for the versions from `first` to `last` of one minor, which is so only where every
//! version measured in that range, the two ends among them, has the same layout. There is no row to guess from
//! for anything else: fields do move within a minor (`runtime.m` in 1.24.x).

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

use super::{FIELDS, Layout, LayoutError, LayoutSource};
use crate::binary::version::GoVersion;

/// `GOEXPERIMENT`s that leave every field of the table where it is.
///
/// Each was measured by `cargo xtask layouts --check --experiment NAME --go VERSION`, with the last release of
/// every minor that knows it. Others do move fields (`staticlockranking`), or move what is around them
/// (`nogreenteagc` in `runtime.p`), or were not measured.
const HARMLESS: &[&str] = &[
    "aliastypeparams",
    "arenas",
    "boringcrypto",
    "cgocheck2",
    "goroutineleakprofile",
    "jsonv2",
    "loopvar",
    "noaliastypeparams",
    "nodwarf5",
    "nojsonv2",
    "norandomizedheapbase64",
    "nosizespecializedmalloc",
    "rangefunc",
    "runtimesecret",
    "simd",
    "synctest",
];

static TABLE: LazyLock<Result<Table, LayoutError>> =
    LazyLock::new(|| Table::parse(include_str!("layouts.json")));

/// The versions that a row of the table holds for, on one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// The architecture, by Go's name.
    pub arch: String,
    /// The first version.
    pub first: GoVersion,
    /// The last version.
    pub last: GoVersion,
}

/// What the table covers, in ascending order per architecture.
#[must_use]
pub fn coverage() -> Vec<Coverage> {
    let Ok(table) = &*TABLE else { return Vec::new() };
    table.rows.iter().map(|row| row.coverage.clone()).collect()
}

/// Takes the layout of a released version from the table.
///
/// `goarch` is Go's name of the architecture.
///
/// # Errors
///
/// The table has no row for exactly this version; it is never taken for a similar one.
pub fn from_table(version: &GoVersion, goarch: &str) -> Result<Layout, LayoutError> {
    row(version, goarch).map(|(layout, _)| layout)
}

/// The layout of a version and which row it is.
pub(super) fn row(version: &GoVersion, goarch: &str) -> Result<(Layout, LayoutSource), LayoutError> {
    let table = TABLE.as_ref().map_err(Clone::clone)?;
    table.row(version, goarch)
}

struct Table {
    rows: Vec<Row>,
}

struct Row {
    coverage: Coverage,
    /// As the file spells them.
    first: String,
    last: String,
    layout: Layout,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRow {
    arch: String,
    first: String,
    last: String,
    offsets: BTreeMap<String, u32>,
    wait_reasons: Vec<String>,
}

impl Table {
    fn parse(json: &str) -> Result<Self, LayoutError> {
        let broken = |why: String| LayoutError::Malformed { what: "table of layouts", why };
        let raw: Vec<RawRow> = serde_json::from_str(json).map_err(|error| broken(error.to_string()))?;
        let rows = raw
            .into_iter()
            .map(|row| {
                if let Some(key) = row.offsets.keys().find(|key| FIELDS.iter().all(|field| field.key != *key))
                {
                    return Err(broken(format!("it has a field {key:?} that is not ours")));
                }
                let version = |text: &str| {
                    GoVersion::parse(&format!("go{text}")).map_err(|error| broken(error.to_string()))
                };
                let coverage =
                    Coverage { arch: row.arch, first: version(&row.first)?, last: version(&row.last)? };
                if coverage.first > coverage.last || coverage.first.minor != coverage.last.minor {
                    return Err(broken(format!("a row is for {} to {}", coverage.first, coverage.last)));
                }
                let layout = Layout::from_offsets(|key| row.offsets.get(key).copied(), row.wait_reasons)?;
                Ok(Row { coverage, first: row.first, last: row.last, layout })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { rows })
    }

    fn row(&self, version: &GoVersion, goarch: &str) -> Result<(Layout, LayoutSource), LayoutError> {
        let unknown = |why| {
            Err(LayoutError::Unknown {
                version: version.to_string(),
                arch: goarch.to_owned(),
                why,
                covers: self.covers(goarch),
            })
        };
        if version.devel {
            return unknown("it is a development version");
        }
        if version.prerelease.is_some() {
            return unknown("it is not a release");
        }
        if version.vendor.is_some() {
            return unknown("it is not the Go project's own release");
        }
        if !version.is_release() {
            return unknown("it does not say which patch release it is");
        }
        if version.experiments.iter().any(|name| !HARMLESS.contains(&name.as_str())) {
            return unknown("it is built with experiments that may move fields");
        }
        let number = |version: &GoVersion| (version.minor, version.patch);
        let row = self.rows.iter().find(|row| {
            row.coverage.arch == goarch
                && (number(&row.coverage.first)..=number(&row.coverage.last)).contains(&number(version))
        });
        match row {
            Some(row) => {
                let source = LayoutSource::Table { first: row.first.clone(), last: row.last.clone() };
                Ok((row.layout.clone(), source))
            }
            None => unknown("it has not been measured"),
        }
    }

    /// The covered versions in words, neighbouring rows joined.
    fn covers(&self, goarch: &str) -> String {
        let mut ranges: Vec<(&Coverage, &Coverage)> = Vec::new();
        for row in self.rows.iter().filter(|row| row.coverage.arch == goarch) {
            match ranges.last_mut() {
                Some((_, last)) if follows(&last.last, &row.coverage.first) => {
                    *last = &row.coverage;
                }
                _ => ranges.push((&row.coverage, &row.coverage)),
            }
        }
        if ranges.is_empty() {
            return format!("nothing for {goarch}");
        }
        let texts: Vec<_> = ranges
            .iter()
            .map(|(first, last)| match (&first.first, &last.last) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first} to {last}"),
            })
            .collect();
        texts.join(", ")
    }
}

/// Whether no release lies between two: neighbouring patches, or the begin of the next minor, as the rows of a
/// minor go to its last known patch.
fn follows(last: &GoVersion, first: &GoVersion) -> bool {
    (last.minor == first.minor && last.patch + 1 == first.patch)
        || (last.minor + 1 == first.minor && first.patch == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(text: &str) -> GoVersion {
        GoVersion::parse(text).unwrap()
    }

    fn table() -> &'static Table {
        TABLE.as_ref().unwrap_or_else(|error| panic!("{error}"))
    }

    /// One row for 1.26.2 to 1.26.6 on amd64, changed by the caller.
    fn one_row(change: impl Fn(&mut serde_json::Value)) -> Result<Table, LayoutError> {
        let offsets: BTreeMap<_, _> =
            FIELDS.iter().enumerate().map(|(at, field)| (field.key, at * 8)).collect();
        let mut row = serde_json::json!({
            "arch": "amd64", "first": "1.26.2", "last": "1.26.6", "offsets": offsets, "wait_reasons": ["", "sleep"],
        });
        change(&mut row);
        Table::parse(&serde_json::Value::from(vec![row]).to_string())
    }

    fn refusal(table: &Table, text: &str, arch: &str) -> String {
        let error = table.row(&version(text), arch).expect_err(text);
        assert!(matches!(error, LayoutError::Unknown { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains(text), "{error}");
        error
    }

    #[test]
    fn the_table_is_whole() {
        let rows = &table().rows;
        for arch in ["amd64", "arm64"] {
            let rows: Vec<_> = rows.iter().filter(|row| row.coverage.arch == arch).collect();
            assert!(!rows.is_empty(), "{arch}");
            for pair in rows.windows(2) {
                assert!(pair[0].coverage.last < pair[1].coverage.first, "{:?}", pair[1].coverage);
            }
            for row in rows {
                assert!(row.coverage.first.is_release() && row.coverage.last.is_release());
                assert!(row.layout.wait_reasons.iter().any(|reason| reason == "chan receive"));
                // True of every version so far, and what the probes' side relies on.
                assert_eq!((row.layout.g.stack_lo, row.layout.g.m), (0, 48));
            }
        }
        assert_eq!(coverage().len(), rows.len());
    }

    #[test]
    fn the_tested_versions_are_covered() {
        for text in ["go1.21.13", "go1.23.9", "go1.25.5", "go1.27.3"] {
            for arch in ["amd64", "arm64"] {
                let layout = from_table(&version(text), arch).unwrap();
                assert_eq!(layout.m.self_.is_some(), version(text).minor >= 26, "{text}");
            }
        }
    }

    #[test]
    fn a_row_holds_for_its_range_and_nothing_else() {
        let table = one_row(|_| {}).unwrap();
        for text in ["go1.26.2", "go1.26.4", "go1.26.6"] {
            let (_, source) = table.row(&version(text), "amd64").unwrap();
            assert_eq!(source.to_string(), "table (go1.26.2 to go1.26.6)");
        }
        for text in ["go1.26.1", "go1.26.7", "go1.25.4", "go1.27.0"] {
            let error = refusal(&table, text, "amd64");
            assert!(error.contains("go1.26.2 to go1.26.6") && error.contains("not been measured"), "{error}");
        }
        assert!(refusal(&table, "go1.26.2", "arm64").contains("nothing for arm64"));
    }

    #[test]
    fn only_plain_releases_are_looked_up() {
        let table = one_row(|row| row["first"] = "1.26.0".into()).unwrap();
        for (text, why) in [
            ("go1.26rc1", "not a release"),
            ("go1.26", "which patch release"),
            ("devel go1.26-0123456789 Tue Nov 3 12:00:00 2026 +0000", "development version"),
            ("go1.26.3-foo", "own release"),
            ("go1.26.3 (Red Hat 1.26.3-1.el10)", "own release"),
            ("go1.26.3-X:nogreenteagc", "experiments"),
            ("go1.26.3 X:spinbitmutex", "experiments"),
        ] {
            let error = refusal(&table, text, "amd64");
            assert!(error.contains(why), "{error}");
        }
        let list = HARMLESS.join(",");
        table.row(&version(&format!("go1.26.3-X:{list}")), "amd64").unwrap();
    }

    #[test]
    fn an_unknown_version_is_told_what_is_covered() {
        for arch in ["amd64", "arm64"] {
            let error = refusal(table(), "go1.99.1", arch);
            assert!(error.contains("covers go1.18 to go1.27."), "{error}");
        }
        assert!(refusal(table(), "go1.27.3", "riscv64").contains("riscv64"));
    }

    #[test]
    fn neighbouring_rows_are_named_as_one_range() {
        let mut both = Vec::new();
        for (first, last) in [("1.26.0", "1.26.3"), ("1.26.4", "1.26.6"), ("1.26.8", "1.26.8")] {
            let offsets: BTreeMap<_, _> = FIELDS.iter().map(|field| (field.key, 0)).collect();
            both.push(serde_json::json!({
                "arch": "amd64", "first": first, "last": last, "offsets": offsets, "wait_reasons": [],
            }));
        }
        let table = Table::parse(&serde_json::Value::from(both).to_string()).unwrap();
        assert_eq!(table.covers("amd64"), "go1.26.0 to go1.26.6, go1.26.8");
    }

    #[test]
    fn a_tampered_row_is_refused_by_name() {
        let missing = one_row(|row| {
            row["offsets"].as_object_mut().unwrap().remove("g.goid");
        });
        assert_eq!(missing.err(), Some(LayoutError::Incomplete { missing: vec!["g.goid"] }));
        let error = |change: fn(&mut serde_json::Value)| one_row(change).err().expect("refused").to_string();
        assert!(error(|row| row["offsets"]["g.other"] = 1.into()).contains("g.other"));
        assert!(error(|row| row["offsets"]["g.goid"] = (-8).into()).contains("table of layouts"));
        assert!(error(|row| row["first"] = "1.26.7".into()).contains("go1.26.7"));
        assert!(error(|row| row["first"] = "1.25.0".into()).contains("go1.25.0"));
        assert!(error(|row| row["first"] = "x".into()).contains("gox"));
        assert!(error(|row| row["more"] = 1.into()).contains("more"));
    }
}
