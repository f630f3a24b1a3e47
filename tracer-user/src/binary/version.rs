//! The version a Go program says it was built with.

use std::cmp::Ordering;
use std::fmt;

use thiserror::Error;

/// Longer than any version that a Go toolchain writes; a target's memory may say anything.
const MAX_LENGTH: usize = 512;

/// A version string that is not one of Go 1.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VersionError {
    /// It does not have the form of a version of Go 1.
    #[error("{raw:?} is not a version of Go: expected something like \"go1.26.6\"")]
    NotGo {
        /// What was given.
        raw: String,
    },
    /// It is too long to be one.
    #[error("a version of Go with {length} bytes is refused: at most {MAX_LENGTH} are believed")]
    TooLong {
        /// How long it is.
        length: usize,
    },
}

/// A version of Go 1, as build information and `runtime.buildVersion` give it.
///
/// Versions are ordered by minor and patch; a development version comes before the betas of its minor, those
/// before its release candidates, those before its release.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GoVersion {
    /// The 26 of `go1.26.6`.
    pub minor: u16,
    /// The 6 of `go1.26.6`; 0 where none is given.
    pub patch: u16,
    /// The `rc1` of `go1.27rc1`.
    pub prerelease: Option<String>,
    /// The `GOEXPERIMENT`s that differ from the toolchain's defaults.
    pub experiments: Vec<String>,
    /// Whether it was built from a development tree rather than a release.
    pub devel: bool,
    /// What a distributor added: the `Red Hat 1.25.1-1.el9` of `go1.25.1 (Red Hat 1.25.1-1.el9)`.
    pub vendor: Option<String>,
    /// The string as it was given.
    pub raw: String,
}

impl GoVersion {
    /// Reads a version string.
    ///
    /// # Errors
    ///
    /// The string is not a version of Go 1.
    pub fn parse(raw: &str) -> Result<Self, VersionError> {
        let raw = raw.trim();
        if raw.len() > MAX_LENGTH {
            return Err(VersionError::TooLong { length: raw.len() });
        }
        Self::read(raw).ok_or_else(|| VersionError::NotGo { raw: raw.to_owned() })
    }

    fn read(raw: &str) -> Option<Self> {
        if raw.chars().any(char::is_control) {
            return None;
        }
        // cmd/dist wrote "devel go1.28-HASH DATE" and later "go1.28-devel_HASH DATE".
        let (mut devel, text) = match raw.strip_prefix("devel ") {
            Some(rest) => (true, rest),
            None => (false, raw),
        };
        let (minor, rest) = number(text.strip_prefix("go1.")?)?;
        let (patch, rest) = rest.strip_prefix('.').and_then(number).unwrap_or((0, rest));
        let (prerelease, rest) = prerelease(rest);
        let (experiments, rest) = experiments(rest);
        devel |= rest.starts_with("-devel");
        let rest = rest.trim_matches(|c: char| c.is_whitespace() || matches!(c, '-' | '+' | '(' | ')'));
        Some(Self {
            minor,
            patch,
            prerelease: prerelease.map(str::to_owned),
            experiments,
            devel,
            // What follows a development version is its commit and date.
            vendor: (!devel && !rest.is_empty()).then(|| rest.to_owned()),
            raw: raw.to_owned(),
        })
    }

    /// Whether this is a release of the Go project itself with its full patch version: no development
    /// version, no candidate, no distributor's rebuild. Experiments don't count.
    ///
    /// From 1.21 on the first release of a minor is called `go1.N.0`; `go1.N` alone only ever names a
    /// language version or somebody's own branch.
    #[must_use]
    pub fn is_release(&self) -> bool {
        let named = self.minor < 21 || {
            let full = format!("go1.{}.{}", self.minor, self.patch);
            self.raw.starts_with(&full)
        };
        named && !self.devel && self.prerelease.is_none() && self.vendor.is_none()
    }

    /// Before the release: development (0), then betas and candidates, then the release itself.
    fn stage(&self) -> (u8, u32) {
        if self.devel {
            return (0, 0);
        }
        let Some(prerelease) = &self.prerelease else { return (3, 0) };
        let (stage, digits) = match prerelease.strip_prefix("rc") {
            Some(digits) => (2, digits),
            None => (1, prerelease.trim_start_matches("beta")),
        };
        (stage, digits.parse().unwrap_or(u32::MAX))
    }
}

impl fmt::Display for GoVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.raw)
    }
}

impl Ord for GoVersion {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |version: &Self| (version.minor, version.patch, version.stage());
        // Everything else follows from the string, so this agrees with equality.
        key(self).cmp(&key(other)).then_with(|| self.raw.cmp(&other.raw))
    }
}

impl PartialOrd for GoVersion {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn number(text: &str) -> Option<(u16, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

fn prerelease(text: &str) -> (Option<&str>, &str) {
    for stage in ["rc", "beta"] {
        let Some(after) = text.strip_prefix(stage) else { continue };
        let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if digits > 0 {
            let (name, rest) = text.split_at(stage.len() + digits);
            return (Some(name), rest);
        }
    }
    (None, text)
}

/// Takes the experiments out: `-X:a,b` since Go 1.26, ` X:a,b` before.
fn experiments(text: &str) -> (Vec<String>, String) {
    let Some(start) = [" X:", "-X:"].iter().filter_map(|mark| text.find(mark)).min() else {
        return (Vec::new(), text.to_owned());
    };
    let (before, list) = (&text[..start], &text[start + 3..]);
    let end = list.find(char::is_whitespace).unwrap_or(list.len());
    let names = list[..end].split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    (names, format!("{before}{}", &list[end..]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn version(raw: &str) -> GoVersion {
        GoVersion::parse(raw).unwrap_or_else(|error| panic!("{error}"))
    }

    fn numbers(raw: &str) -> (u16, u16) {
        let version = version(raw);
        (version.minor, version.patch)
    }

    #[test]
    fn releases() {
        assert_eq!(numbers("go1.21.13"), (21, 13));
        assert_eq!(numbers("go1.20"), (20, 0));
        assert_eq!(numbers(" go1.27.3\n"), (27, 3));
        for raw in ["go1.21.13", "go1.20", "go1.18.10", "go1.21.0"] {
            assert!(version(raw).is_release(), "{raw}");
            assert_eq!(version(raw).to_string(), raw);
        }
        assert!(!version("go1.21").is_release(), "the first release of 1.21 is called go1.21.0");
    }

    #[test]
    fn prereleases() {
        let candidate = version("go1.27rc1");
        assert_eq!((candidate.minor, candidate.patch), (27, 0));
        assert_eq!(candidate.prerelease.as_deref(), Some("rc1"));
        assert!(!candidate.is_release());
        assert_eq!(version("go1.18beta2").prerelease.as_deref(), Some("beta2"));
    }

    #[test]
    fn experiments_in_both_spellings() {
        let new = version("go1.26.6-X:nogreenteagc,goroutineleakprofile");
        assert_eq!(new.experiments, ["nogreenteagc", "goroutineleakprofile"]);
        assert_eq!((new.minor, new.patch, new.vendor.as_deref()), (26, 6, None));
        let old = version("go1.25.0 X:foo");
        assert_eq!((old.patch, old.experiments, old.vendor), (0, vec!["foo".to_owned()], None));
        let both = version("go1.24.3-foo X:boringcrypto");
        assert_eq!(both.experiments, ["boringcrypto"]);
        assert_eq!(both.vendor.as_deref(), Some("foo"));
    }

    #[test]
    fn development_versions() {
        let old = version("devel go1.28-abc0123456 Tue Nov 3 12:00:00 2026 +0000 X:jsonv2");
        assert!(old.devel && !old.is_release());
        assert_eq!((old.minor, old.patch, old.experiments), (28, 0, vec!["jsonv2".to_owned()]));
        let new = version("go1.28-devel_abc0123456 Tue Nov 3 12:00:00 2026 +0000");
        assert!(new.devel && new.vendor.is_none());
    }

    #[test]
    fn distributors() {
        assert_eq!(version("go1.24.3-foo").vendor.as_deref(), Some("foo"));
        let red_hat = version("go1.25.1 (Red Hat 1.25.1-1.el9)");
        assert_eq!(red_hat.vendor.as_deref(), Some("Red Hat 1.25.1-1.el9"));
        assert_eq!((red_hat.minor, red_hat.patch), (25, 1));
        assert!(!red_hat.is_release());
        assert_eq!(
            version("go1.25-20250216-RC00 cl/727547642").vendor.as_deref(),
            Some("20250216-RC00 cl/727547642")
        );
    }

    #[test]
    fn order_is_by_minor_then_patch() {
        let ascending = [
            "go1.9.7",
            "go1.20",
            "go1.20.14",
            "devel go1.21-x",
            "go1.21beta1",
            "go1.21rc2",
            "go1.21rc10",
            "go1.21.0",
        ];
        for pair in ascending.windows(2) {
            assert!(version(pair[0]) < version(pair[1]), "{pair:?}");
        }
        assert!(version("go1.21.9") < version("go1.21.10"));
    }

    #[test]
    fn what_is_no_version_is_refused_with_its_text() {
        for raw in [
            "",
            "1.26.6",
            "go",
            "go1",
            "go1.",
            "go2.0",
            "go1.x",
            "go1.99999",
            "devel +abc Tue",
            "go1.2\u{1b}[2J",
        ] {
            let error = GoVersion::parse(raw).expect_err(raw).to_string();
            assert!(error.contains(&format!("{raw:?}")), "{error}");
            assert!(!error.contains('\u{1b}'), "{error:?}");
        }
        let long = format!("go1.26.6 {}", "x".repeat(10_000));
        assert_eq!(GoVersion::parse(&long), Err(VersionError::TooLong { length: long.len() }));
    }

    /// Texts that look like versions more often than noise does.
    fn text() -> impl Strategy<Value = String> {
        let pieces = prop_oneof![
            Just("go1.".to_owned()),
            Just("devel ".to_owned()),
            (0..70_000_u32).prop_map(|n| n.to_string()),
            prop::sample::select(vec![
                ".", "rc", "beta", "-X:", " X:", ",", " ", "-", "+", "(", ")", "-devel_"
            ])
            .prop_map(str::to_owned),
            "\\PC{0,6}",
            any::<char>().prop_map(String::from),
        ];
        (any::<bool>(), prop::collection::vec(pieces, 0..10))
            .prop_map(|(go, pieces)| if go { format!("go1.{}", pieces.concat()) } else { pieces.concat() })
    }

    proptest! {
        #[test]
        fn any_text_is_a_version_that_says_itself_or_refused(text in text()) {
            if let Ok(version) = GoVersion::parse(&text) {
                prop_assert_eq!(version.to_string(), text.trim());
                prop_assert_eq!(GoVersion::parse(&version.to_string()), Ok(version.clone()));
                prop_assert!(!(version.is_release() && (version.devel || version.prerelease.is_some())));
            }
        }

        #[test]
        fn the_order_of_versions_is_one(texts in prop::collection::vec(text(), 3)) {
            let parsed: Vec<GoVersion> = texts.iter().filter_map(|text| GoVersion::parse(text).ok()).collect();
            if let [a, b, c] = &parsed[..] {
                prop_assert_eq!(a.cmp(b), b.cmp(a).reverse());
                prop_assert_eq!(a.cmp(b) == Ordering::Equal, a == b);
                if a <= b && b <= c {
                    prop_assert!(a <= c);
                }
            }
        }
    }
}
