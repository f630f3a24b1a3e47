//! What is known against a toolchain itself, as data with its source.

use super::version::GoVersion;

/// Something to know of the Go release that built a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolchainHazard {
    /// A stable name: `end-of-life`, `known-faults`.
    pub id: &'static str,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub advice: String,
    /// Who says so.
    pub source: &'static str,
}

/// Releases with known faults: minor, first and last patch, what, advice, source.
const FAULTS: [(u16, u16, u16, &str, &str, &str); 1] = [(
    20,
    4,
    12,
    "scheduler and GC faults under load: 17 production crashes in one post-mortem series, gone in 1.21.0",
    "build with Go 1.21.0 or later",
    "a year of post-mortems of Go services, 2023 to 2024",
)];

/// When each minor came out, as year, month, day (go.dev/doc/devel/release).
const RELEASED: [(u16, (u16, u8, u8)); 10] = [
    (18, (2022, 3, 15)),
    (19, (2022, 8, 2)),
    (20, (2023, 2, 1)),
    (21, (2023, 8, 8)),
    (22, (2024, 2, 6)),
    (23, (2024, 8, 13)),
    (24, (2025, 2, 11)),
    (25, (2025, 8, 12)),
    (26, (2026, 2, 10)),
    (27, (2026, 8, 19)),
];

/// What is known against the toolchain of `version`, as of this table.
#[must_use]
pub fn toolchain_hazards(version: &GoVersion) -> Vec<ToolchainHazard> {
    let mut found = Vec::new();
    let full_release = version.prerelease.is_none() && !version.devel;
    for (minor, first, last, what, advice, source) in FAULTS {
        if full_release && version.minor == minor && (first..=last).contains(&version.patch) {
            found.push(ToolchainHazard {
                id: "known-faults",
                what: what.to_owned(),
                advice: advice.to_owned(),
                source,
            });
        }
    }
    // A minor is supported until the second one after it is out.
    let ended = RELEASED.iter().find(|(minor, _)| *minor == version.minor.saturating_add(2));
    if let Some((successor, (year, month, day))) = ended {
        found.push(ToolchainHazard {
            id: "end-of-life",
            what: format!(
                "Go 1.{} gets no fixes, security fixes included, since Go 1.{successor} came out on {year}-{month:02}-{day:02}",
                version.minor
            ),
            advice: format!(
                "build with Go 1.{} or later",
                RELEASED.last().map_or(*successor, |(newest, _)| newest - 1)
            ),
            source: "go.dev/doc/devel/release#policy",
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(version: &str) -> Vec<&'static str> {
        toolchain_hazards(&GoVersion::parse(version).unwrap()).iter().map(|h| h.id).collect()
    }

    #[test]
    fn faults_hold_for_their_range_only() {
        assert_eq!(ids("go1.20.3"), ["end-of-life"]);
        assert_eq!(ids("go1.20.4"), ["known-faults", "end-of-life"]);
        assert_eq!(ids("go1.20.12 X:boringcrypto"), ["known-faults", "end-of-life"]);
        assert_eq!(ids("go1.20.13"), ["end-of-life"]);
        assert_eq!(ids("go1.21.4"), ["end-of-life"]);
    }

    #[test]
    fn support_ends_with_the_second_minor_after() {
        assert_eq!(ids("go1.25.14"), ["end-of-life"]);
        assert_eq!(ids("go1.26.0"), Vec::<&str>::new());
        assert_eq!(ids("go1.27.3"), Vec::<&str>::new());
        assert_eq!(ids("go1.31.0"), Vec::<&str>::new());
        let eol = &toolchain_hazards(&GoVersion::parse("go1.24.3").unwrap())[0];
        assert!(eol.what.contains("since Go 1.26 came out on 2026-02-10"), "{}", eol.what);
        assert_eq!(eol.advice, "build with Go 1.26 or later");
    }
}
