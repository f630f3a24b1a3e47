//! Version numbers of compilers, as far as they decide anything here.

use std::fmt;

/// `major.minor.patch`, ordered; a missing part counts as 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version {
    parts: [u32; 3],
}

impl Version {
    /// A version known when this was written.
    pub(crate) const fn new(major: u32, minor: u32, patch: u32) -> Self {
        Self { parts: [major, minor, patch] }
    }

    /// The first version named in a text such as `rustc 1.95.0 (...)`, `go version go1.26.8 linux/amd64`
    /// or `1.28rc1`.
    pub(crate) fn find(text: &str) -> Option<Self> {
        text.split_whitespace().find_map(Self::parse_word)
    }

    /// The version's major part.
    pub(crate) fn major(self) -> u32 {
        self.parts[0]
    }

    fn parse_word(word: &str) -> Option<Self> {
        let number = word.strip_prefix("go").or_else(|| word.strip_prefix('v')).unwrap_or(word);
        if !number.starts_with(|first: char| first.is_ascii_digit()) || !number.contains('.') {
            return None;
        }
        let mut parts = [0; 3];
        for (part, text) in parts.iter_mut().zip(number.split('.')) {
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            if digits == 0 {
                break;
            }
            *part = text[..digits].parse().ok()?;
            if digits < text.len() {
                break;
            }
        }
        Some(Self { parts })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.parts;
        write!(formatter, "{major}.{minor}.{patch}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_compilers_print() {
        assert_eq!(Version::find("rustc 1.95.0 (59807616e 2026-04-14)"), Some(Version::new(1, 95, 0)));
        assert_eq!(Version::find("rustc 1.99.0-nightly (abc 2026-09-01)"), Some(Version::new(1, 99, 0)));
        assert_eq!(Version::find("go version go1.26.8 linux/amd64"), Some(Version::new(1, 26, 8)));
        assert_eq!(Version::find("go1.18"), Some(Version::new(1, 18, 0)));
        assert_eq!(Version::find("1.28rc1"), Some(Version::new(1, 28, 0)));
        assert_eq!(Version::find("22.1.8"), Some(Version::new(22, 1, 8)));
    }

    #[test]
    fn finds_none_where_there_is_none() {
        assert_eq!(Version::find(""), None);
        assert_eq!(Version::find("rustc unknown"), None);
        assert_eq!(Version::find("error: toolchain 'nightly' is not installed"), None);
    }

    #[test]
    fn orders_by_number_not_by_text() {
        assert!(Version::new(1, 100, 0) > Version::new(1, 98, 0));
        assert!(Version::find("1.9") < Version::find("1.21.13"));
        assert!(Version::find("1.21") < Version::find("1.21.1"));
    }
}
