//! Lines of the fixtures, by the name in their `// site: NAME` comment.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A line of source code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file with the folder that it is in: `shop/pool.go`. What is in front depends on where it was built.
    pub file: String,
    /// The line.
    pub line: u64,
}

impl Place {
    /// Whether a full path and a line mean this place.
    #[must_use]
    pub fn is(&self, file: &str, line: u64) -> bool {
        line == self.line
            && file.strip_suffix(&self.file).is_some_and(|folder| folder.is_empty() || folder.ends_with('/'))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// The marked lines of one fixture.
#[derive(Clone, Debug)]
pub struct Markers {
    fixture: String,
    places: BTreeMap<String, Place>,
}

impl Markers {
    /// Reads those of a fixture.
    ///
    /// # Errors
    /// Its sources can't be read, or a name stands twice.
    pub fn of(fixture: &str) -> Result<Self> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(fixture);
        let told = || format!("can't read the sources in {}", folder.display());
        let mut places = BTreeMap::new();
        for entry in fs::read_dir(&folder).with_context(told)? {
            let path = entry.with_context(told)?.path();
            if path.extension().is_none_or(|extension| extension != "go") {
                continue;
            }
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let file = format!("{fixture}/{name}");
            let text = fs::read_to_string(&path).with_context(told)?;
            for (line, marker) in (1..).zip(text.lines()).filter_map(|(n, l)| Some((n, marker(l)?))) {
                let place = Place { file: file.clone(), line };
                if let Some(other) = places.insert(marker.to_owned(), place) {
                    bail!("{fixture} has the site {marker} twice: {other} is one of them");
                }
            }
        }
        Ok(Self { fixture: fixture.to_owned(), places })
    }

    /// The line of a name.
    ///
    /// # Errors
    /// There is no such name.
    pub fn place(&self, name: &str) -> Result<&Place> {
        self.places.get(name).with_context(|| format!("{} has no `// site: {name}`", self.fixture))
    }
}

fn marker(line: &str) -> Option<&str> {
    let (_, name) = line.split_once("// site: ")?;
    let name = name.trim_end();
    let well = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    well.then_some(name)
}
