//! The table of layouts: its rows, and how they are written and read.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use anyhow::{Context, Result};
use serde_json::Value;

/// A release of Go 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Release {
    pub(super) minor: u16,
    pub(super) patch: u16,
}

impl Release {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.strip_prefix("1.")?.split('.').map(str::parse);
        let (minor, patch) = (parts.next()?.ok()?, parts.next().unwrap_or(Ok(0)).ok()?);
        parts.next().is_none().then_some(Self { minor, patch })
    }
}

impl fmt::Display for Release {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { minor, patch } = self;
        // The first release of a minor has its patch in its name only since 1.21.
        if *patch == 0 && *minor < 21 {
            write!(formatter, "1.{minor}")
        } else {
            write!(formatter, "1.{minor}.{patch}")
        }
    }
}

/// What was measured of one release on one architecture.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    pub(super) offsets: BTreeMap<String, u64>,
    pub(super) wait_reasons: Vec<String>,
    /// The code that uses the fields, hashed: releases differ in it that have the same layout.
    pub(super) witnesses: BTreeMap<String, String>,
}

impl PartialEq for Layout {
    fn eq(&self, other: &Self) -> bool {
        self.offsets == other.offsets && self.wait_reasons == other.wait_reasons
    }
}

impl Eq for Layout {}

impl Layout {
    pub(super) fn read(json: &Value) -> Option<Self> {
        let offsets = json.get("offsets")?.as_object()?;
        let reasons = json.get("wait_reasons")?.as_array()?;
        Some(Self {
            offsets: offsets
                .iter()
                .map(|(key, offset)| Some((key.clone(), offset.as_u64()?)))
                .collect::<Option<_>>()?,
            wait_reasons: reasons
                .iter()
                .map(|reason| reason.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            witnesses: json
                .get("witnesses")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
                .filter_map(|(name, hash)| Some((name.clone(), hash.as_str()?.to_owned())))
                .collect(),
        })
    }

    /// How another one differs, in words.
    pub(super) fn difference(&self, other: &Self) -> Vec<String> {
        let shown = |offset: Option<&u64>| offset.map_or_else(|| "absent".to_owned(), u64::to_string);
        let keys: std::collections::BTreeSet<_> = self.offsets.keys().chain(other.offsets.keys()).collect();
        let mut words: Vec<_> = keys
            .into_iter()
            .map(|key| (key, self.offsets.get(key), other.offsets.get(key)))
            .filter(|(_, mine, theirs)| mine != theirs)
            .map(|(key, mine, theirs)| format!("{key} {} -> {}", shown(mine), shown(theirs)))
            .collect();
        if self.wait_reasons != other.wait_reasons {
            words.push("the wait reasons".to_owned());
        }
        words
    }
}

/// A row of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) arch: String,
    pub(super) first: Release,
    pub(super) last: Release,
    pub(super) layout: Layout,
}

/// The table as it is written: one line per structure, so that a change is seen in a few lines.
pub(super) fn text(rows: &[Row]) -> String {
    let mut text = String::from("[\n");
    for (index, row) in rows.iter().enumerate() {
        let quoted = |text: &str| Value::from(text).to_string();
        let _ = write!(
            text,
            " {{\"arch\": {}, \"first\": \"{}\", \"last\": \"{}\",\n  \"offsets\": {{",
            quoted(&row.arch),
            row.first,
            row.last
        );
        let mut last_part = None;
        for (key, offset) in &row.layout.offsets {
            let part = key.split('.').next();
            let separator = match last_part {
                None => "\n   ",
                Some(last) if last == part => ", ",
                Some(_) => ",\n   ",
            };
            let _ = write!(text, "{separator}{}: {offset}", quoted(key));
            last_part = Some(part);
        }
        text.push_str("\n  },\n  \"wait_reasons\": [");
        for (index, reason) in row.layout.wait_reasons.iter().enumerate() {
            let separator = match index {
                0 => "\n   ",
                _ if index % 6 == 0 => ",\n   ",
                _ => ", ",
            };
            let _ = write!(text, "{separator}{}", quoted(reason));
        }
        text.push_str(if index + 1 < rows.len() { "\n  ]},\n" } else { "\n  ]}\n" });
    }
    text.push_str("]\n");
    text
}

/// Between two rows of a minor may be releases that can't be had. What is the same on both sides is so for them too;
/// what differs is left out. gotrail's own tests notice where that is something it can't do without.
pub(super) fn bridged(rows: Vec<Row>) -> Vec<Row> {
    let mut all: Vec<Row> = Vec::new();
    for row in rows {
        if let Some(last) = all.last()
            && last.arch == row.arch
            && last.last.minor == row.first.minor
            && last.last.patch + 1 < row.first.patch
            && last.layout.wait_reasons == row.layout.wait_reasons
        {
            let same = |(key, offset): (&String, &u64)| {
                (row.layout.offsets.get(key) == Some(offset)).then(|| (key.clone(), *offset))
            };
            let layout = Layout {
                offsets: last.layout.offsets.iter().filter_map(same).collect(),
                wait_reasons: row.layout.wait_reasons.clone(),
                witnesses: BTreeMap::new(),
            };
            let patch = |release: Release, patch: u16| Release { patch, ..release };
            let bridge = Row {
                arch: row.arch.clone(),
                first: patch(row.first, last.last.patch + 1),
                last: patch(row.first, row.first.patch - 1),
                layout,
            };
            all.push(bridge);
        }
        all.push(row);
    }
    all
}

/// The code of each row's last release: what proves the layout of a release that was not measured.
pub(super) fn witnesses(rows: &[Row]) -> String {
    let mut text = String::from("[\n");
    // Nothing was measured of the others.
    let rows: Vec<&Row> = rows.iter().filter(|row| !row.layout.witnesses.is_empty()).collect();
    for (index, row) in rows.iter().enumerate() {
        let quoted = |text: &str| Value::from(text).to_string();
        let _ =
            write!(text, " {{\"arch\": {}, \"version\": \"{}\", \"code\": {{", quoted(&row.arch), row.last);
        for (index, (name, hash)) in row.layout.witnesses.iter().enumerate() {
            let separator = if index == 0 { "\n  " } else { ",\n  " };
            let _ = write!(text, "{separator}{}: {}", quoted(name), quoted(hash));
        }
        text.push_str(if index + 1 < rows.len() { "\n }},\n" } else { "\n }}\n" });
    }
    text.push_str("]\n");
    text
}

pub(super) fn parse(text: &str) -> Result<Vec<Row>> {
    let json: Vec<Value> = serde_json::from_str(text)?;
    let row = |row: &Value| {
        let field = |name| row.get(name).and_then(Value::as_str);
        Some(Row {
            arch: field("arch")?.to_owned(),
            first: field("first").and_then(Release::parse)?,
            last: field("last").and_then(Release::parse)?,
            layout: Layout::read(row)?,
        })
    };
    json.iter().map(|value| row(value).with_context(|| format!("not a row: {value}"))).collect()
}
