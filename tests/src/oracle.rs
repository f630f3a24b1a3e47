//! What is true of an executable, by the parsers of Go's standard library and by binutils: nothing of
//! gotrail's own takes part.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::env;
use crate::json::{number, truth};

/// Where something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Its address.
    pub address: u64,
    /// Its size.
    pub size: u64,
}

impl Range {
    /// Whether an address is in it.
    #[must_use]
    pub fn has(self, address: u64) -> bool {
        (self.address..self.address + self.size).contains(&address)
    }

    fn read(value: &Value) -> Result<Self> {
        Ok(Self { address: number(value, "/address")?, size: number(value, "/size")? })
    }
}

/// What is true of an executable.
#[derive(Clone, Debug)]
pub struct Oracle {
    answer: Value,
}

impl Oracle {
    /// Asks about a file, and about paths of fields in structures: `runtime.g`, `sched.sp`.
    ///
    /// # Errors
    /// The oracle was not built, or can't read the file.
    pub fn ask(file: &Path, fields: &[(&str, &str)]) -> Result<Self> {
        let told = || format!("the oracle says nothing about {}", file.display());
        let mut child = Command::new(env::oracle()?)
            .arg(file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(told)?;
        let questions: String =
            fields.iter().map(|(structure, path)| format!("{structure} {path}\n")).collect();
        child.stdin.take().with_context(told)?.write_all(questions.as_bytes()).with_context(told)?;
        let output = child.wait_with_output().with_context(told)?;
        ensure!(output.status.success(), "{}: {}", told(), String::from_utf8_lossy(&output.stderr));
        Ok(Self { answer: serde_json::from_slice(&output.stdout).with_context(told)? })
    }

    /// The offset of a field, and whether a pointer is there.
    ///
    /// # Errors
    /// The oracle's answer is not as agreed.
    pub fn field(&self, structure: &str, path: &str) -> Result<Option<(u64, bool)>> {
        match self.answer["fields"].get(format!("{structure} {path}")) {
            Some(field) => Ok(Some((number(field, "/offset")?, truth(field, "/pointer")?))),
            None => Ok(None),
        }
    }

    /// The functions of the symbol table by name. Names that occur more than once are left out.
    ///
    /// # Errors
    /// The oracle's answer is not as agreed.
    pub fn functions(&self) -> Result<BTreeMap<&str, Range>> {
        let (mut functions, mut twice) = (BTreeMap::new(), BTreeSet::new());
        for function in self.answer["functions"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let name = function["name"].as_str().context("a function without a name")?;
            if functions.insert(name, Range::read(function)?).is_some() {
                twice.insert(name);
            }
        }
        functions.retain(|name, _| !twice.contains(name));
        Ok(functions)
    }

    /// A section.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn section(&self, name: &str) -> Result<Range> {
        Range::read(&self.answer["sections"][name]).with_context(|| format!("no section {name}"))
    }

    /// The address of a variable of the runtime in a twin of this file that differs in its symbol table
    /// alone: it lies as far behind the start of its section.
    ///
    /// # Errors
    /// It is not known, or the twin's section has another size.
    pub fn global_in(&self, twin: &Self, name: &str) -> Result<u64> {
        let global = &self.answer["globals"][name];
        let told = || format!("where is {name} in the twin?");
        let section = global["section"].as_str().with_context(told)?;
        let (here, there) = (self.section(section)?, twin.section(section)?);
        ensure!(here.size == there.size, "the sections {section} differ in size: {here:?} {there:?}");
        Ok(number(global, "/address").with_context(told)? - here.address + there.address)
    }

    /// Where in the file the byte of an address is.
    ///
    /// # Errors
    /// It is not in the file.
    pub fn file_offset(&self, address: u64) -> Result<u64> {
        for segment in self.answer["segments"].as_array().context("no segments")? {
            if Range::read(segment)?.has(address) {
                return Ok(address - number(segment, "/address")? + number(segment, "/offset")?);
            }
        }
        bail!("{address:#x} is in no segment of the file")
    }
}

/// The first bytes of all instructions of a function, by binutils.
///
/// # Errors
/// There is no objdump, or it does not know the file.
pub fn instructions(file: &Path, function: Range) -> Result<BTreeSet<u64>> {
    let mut objdump = Command::new("objdump");
    objdump.args(["-d", "--no-show-raw-insn"]).arg(format!("--start-address={:#x}", function.address));
    objdump.arg(format!("--stop-address={:#x}", function.address + function.size)).arg(file);
    let output =
        objdump.output().context("objdump does not start; it comes with binutils, which gcc needs")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // `  40a2c4:\tcmp ...`
    let lines = text.lines().filter_map(|line| line.split_once(":\t"));
    let boundaries: BTreeSet<u64> =
        lines.filter_map(|(address, _)| u64::from_str_radix(address.trim(), 16).ok()).collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(boundaries.contains(&function.address), "objdump found no code at {function:?}: {errors}");
    Ok(boundaries)
}
