//! Reading a whole executable.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::calls::{Calls, scan};
use super::code::Code;
use super::error::BinaryError;
use super::globals::Globals;
use super::image::{Architecture, Image};
use super::itabs::{Itab, ItabSource, itabs};
use super::layout::{self, Layout, LayoutError, LayoutSource};
use super::locate;
use super::sites::{self, Plan};
use super::symbols::{Frame, Function, Symbols};
use super::system_calls;
use super::types::{TypeName, type_name};
use super::version::GoVersion;

/// The first minor version of Go that is supported.
pub(crate) const FIRST_MINOR: u16 = 18;

/// What the Go linker recorded about a build.
#[derive(Clone, Debug)]
pub struct Build {
    /// The Go version.
    pub version: GoVersion,
    /// Import path of the main package, empty if unknown.
    pub path: String,
    /// Main module and its version, empty if unknown.
    pub module: String,
    /// Version of the main module, `(devel)` for a local build.
    pub module_version: String,
    /// Settings: `-ldflags`, `CGO_ENABLED`, `vcs.revision` and so on.
    pub settings: BTreeMap<String, String>,
    /// Go's own build ID.
    pub go_build_id: Option<String>,
}

impl Build {
    /// `-buildmode`: `exe`, `pie`, `c-shared`, `c-archive`, `plugin` and so on. Recorded since Go 1.20; before,
    /// only where it was given.
    #[must_use]
    pub fn mode(&self) -> Option<&str> {
        self.settings.get("-buildmode").map(String::as_str)
    }

    /// Whether a profile may have told the compiler what to inline: it is among the settings, or these are not known,
    /// as where another tool than `go build` has built it.
    pub(super) fn may_be_by_profile(&self) -> bool {
        self.settings.is_empty() || self.settings.contains_key("-pgo")
    }
}

/// A Go program as far as it can be understood without the layout of its runtime's structures: what it is, its
/// functions, its calls.
#[derive(Clone, Debug)]
pub struct Program {
    image: Image,
    build: Build,
    symbols: Symbols,
    text: (u64, u64),
    types: u64,
    variables: [Range<u64>; 2],
    itabs: Option<ItabSource>,
}

impl Program {
    /// Reads a program.
    ///
    /// # Errors
    /// [`BinaryError`] says what is missing.
    pub fn parse(bytes: Arc<[u8]>) -> Result<Self, BinaryError> {
        let image = Image::parse(bytes)?;
        if image.is_upx() {
            return Err(BinaryError::Packed { packer: "UPX" });
        }
        let build = read_build(&image)?;
        let version = &build.version;
        if version.minor < FIRST_MINOR {
            return Err(BinaryError::TooOld { version: version.to_string(), first: FIRST_MINOR });
        }
        if build.mode() == Some("plugin") {
            return Err(BinaryError::Plugin { version: version.to_string() });
        }
        let no_table = || BinaryError::NoFunctionTable { version: version.to_string() };
        let (table, module) = locate::tables(&image, version.minor).ok_or_else(no_table)?;
        let symbols = Symbols::new(&image, table, &module, version.minor).ok_or_else(no_table)?;
        let (text, types) = ((module.text, module.etext), module.types);
        if symbols.functions().is_empty() {
            return Err(no_table());
        }
        let itabs = ItabSource::of(&module);
        let variables = [module.data.start..module.data.end, module.bss.start..module.bss.end];
        Ok(Self { image, build, symbols, text, types, variables, itabs })
    }

    /// What is recorded about the build.
    #[must_use]
    pub const fn build(&self) -> &Build {
        &self.build
    }

    /// The file.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Its functions.
    #[must_use]
    pub const fn symbols(&self) -> &Symbols {
        &self.symbols
    }

    /// Method tables: which types are used as which interfaces.
    #[must_use]
    pub fn itabs(&self) -> Vec<Itab> {
        itabs(&self.image, self.itabs, self.types)
    }

    /// Finds who tunes the runtime by hand.
    #[must_use]
    pub fn hazards(&self) -> Calls {
        scan(&self.image, &self.symbols, &self.build.module)
    }

    /// Finds the layout of the runtime's structures and its globals. `debug` finds the file with a program's DWARF
    /// by the linker's build ID (in hexadecimal), and is asked only where the program itself has none.
    ///
    /// # Errors
    /// The program as it was, and why it is not understood further (FAIL-1).
    pub fn understand(
        self,
        debug: impl FnOnce(&str) -> Option<Arc<[u8]>>,
    ) -> Result<GoBinary, Box<(Self, BinaryError)>> {
        let (version, goarch) = (&self.build.version, self.image.architecture().goarch());
        let debug = || {
            let id = self.image.gnu_build_id()?;
            debug(id).filter(|file| {
                Image::parse(Arc::clone(file)).is_ok_and(|debug| debug.gnu_build_id() == Some(id))
            })
        };
        let globals = |layout: &Layout| Globals::find(&self.image, &self.symbols, layout, version);
        let found = match layout::find(self.image.bytes(), debug, version, goarch) {
            Ok((layout, source)) => globals(&layout).map(|globals| (layout, source, globals)),
            Err(error) => match layout::witness::claim(version, goarch) {
                Some(claim) => globals(&claim.layout).and_then(|globals| {
                    let source = claim.prove(&self.image, &self.symbols, &globals).map_err(|code| {
                        BinaryError::from(LayoutError::NotProven { table: Box::new(error), code })
                    })?;
                    Ok((claim.layout, source, globals))
                }),
                None => Err(error.into()),
            },
        };
        match found {
            Ok((layout, layout_source, globals)) => {
                Ok(GoBinary { program: self, layout, layout_source, globals })
            }
            Err(error) => Err(Box::new((self, error))),
        }
    }
}

/// A Go executable, understood.
#[derive(Clone, Debug)]
pub struct GoBinary {
    program: Program,
    layout: Layout,
    layout_source: LayoutSource,
    globals: Globals,
}

impl GoBinary {
    /// Reads what is recorded about a build, without understanding the rest. For lists of processes.
    ///
    /// # Errors
    /// [`BinaryError`] if it is not a Go program.
    pub fn read_build(bytes: &[u8]) -> Result<Build, BinaryError> {
        read_build(&Image::parse(bytes.into())?)
    }

    /// Understands an executable.
    ///
    /// # Errors
    /// [`BinaryError`] says what is missing; nothing is guessed (FAIL-1).
    pub fn parse(bytes: Arc<[u8]>) -> Result<Self, BinaryError> {
        Self::parse_with(bytes, |_| None)
    }

    /// Understands an executable whose DWARF may be in a file of its own: see [`Program::understand`].
    ///
    /// # Errors
    /// As [`GoBinary::parse`].
    pub fn parse_with(
        bytes: Arc<[u8]>,
        debug: impl FnOnce(&str) -> Option<Arc<[u8]>>,
    ) -> Result<Self, BinaryError> {
        Program::parse(bytes)?.understand(debug).map_err(|refused| refused.1)
    }

    /// The same for who has planned its probes and keeps the rest for long, to tell what addresses mean: what is asked
    /// for is read again from the file, of which nothing stays in memory but some pages. What would have to look at all
    /// of the file, or at code, finds nothing.
    ///
    /// `file` fills a buffer with the bytes of the file from an offset on, and gives false where they can't be read, or
    /// where the file may not be what it was.
    #[must_use]
    pub fn reread_from(&self, file: impl Fn(u64, &mut [u8]) -> bool + Send + Sync + 'static) -> Self {
        let image = self.image().reread_from(Box::new(file));
        Self { program: Program { image, ..self.program.clone() }, ..self.clone() }
    }

    /// What is known without the layout.
    #[must_use]
    pub const fn program(&self) -> &Program {
        &self.program
    }

    /// What is recorded about the build.
    #[must_use]
    pub const fn build(&self) -> &Build {
        &self.program.build
    }

    /// The Go version.
    #[must_use]
    pub const fn version(&self) -> &GoVersion {
        &self.program.build.version
    }

    /// The file.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.program.image
    }

    /// Its architecture.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.program.image.architecture()
    }

    /// Its functions.
    #[must_use]
    pub const fn symbols(&self) -> &Symbols {
        &self.program.symbols
    }

    /// Its runtime's structures.
    #[must_use]
    pub const fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Where the layout is from.
    #[must_use]
    pub const fn layout_source(&self) -> &LayoutSource {
        &self.layout_source
    }

    /// Its runtime's globals, at their linked addresses.
    #[must_use]
    pub const fn globals(&self) -> &Globals {
        &self.globals
    }

    /// First address of the Go code and the address behind its last.
    #[must_use]
    pub const fn text(&self) -> (u64, u64) {
        self.program.text
    }

    /// Linked addresses of the variables that may hold pointers: those with a value from the start, and the others.
    #[must_use]
    pub const fn variables(&self) -> &[Range<u64>; 2] {
        &self.program.variables
    }

    /// The frames of a linked address, innermost first. See [`Symbols::frames`].
    #[must_use]
    pub fn frames(&self, address: u64, exact: bool) -> Vec<Frame> {
        self.symbols().frames(self.image(), address, exact)
    }

    /// The name of the function that holds a linked address.
    #[must_use]
    pub fn function_name(&self, address: u64) -> Option<Cow<'_, str>> {
        self.symbols().name(self.image(), self.symbols().at(address)?)
    }

    /// The type whose descriptor is at a linked address.
    #[must_use]
    pub fn type_name(&self, address: u64) -> Option<TypeName> {
        type_name(self.image(), self.program.types, address)
    }

    /// Plans the probe sites of some tiers.
    #[must_use]
    pub fn plan(&self, tiers: u32) -> Plan {
        sites::plan(self.image(), self.symbols(), &self.layout, self.build(), tiers)
    }

    /// Assembly without a frame that makes system calls: first linked addresses and those behind the last.
    #[must_use]
    pub fn frameless_system_calls(&self) -> Vec<(u64, u64)> {
        system_calls::frameless(self.image(), self.symbols())
    }

    /// The shapes of the functions that use the layout's fields: see [`layout::witness`].
    #[must_use]
    pub fn witnesses(&self) -> BTreeMap<&'static str, String> {
        layout::witness::witnesses(self.image(), self.symbols(), &self.layout, &self.globals)
    }

    /// Linked addresses of the instructions with which a function returns, by decoding all of it.
    #[must_use]
    pub fn returns(&self, function: Function) -> Vec<u64> {
        Code::of(self.image(), function).map(Code::returns).unwrap_or_default()
    }

    /// Linked addresses of data that the function at a linked address refers to, the first few in the order of its
    /// instructions.
    #[must_use]
    pub fn references(&self, address: u64) -> Vec<u64> {
        let function = self.symbols().at(address);
        function.and_then(|f| Code::of(self.image(), f)).map(Code::references).unwrap_or_default()
    }

    /// Finds who tunes the runtime by hand.
    #[must_use]
    pub fn hazards(&self) -> Calls {
        self.program.hazards()
    }
}

fn read_build(image: &Image) -> Result<Build, BinaryError> {
    let go_build_id = image.go_build_id().map(str::to_owned);
    locate::with_build_info(image, |info| build(info, go_build_id))
        .ok_or(BinaryError::NotGo("it has no build information"))?
}

fn build(info: &gobin::metadata::BuildInfo<'_>, go_build_id: Option<String>) -> Result<Build, BinaryError> {
    let version = info.go_version.unwrap_or_default();
    // What garble has the linker write instead of the version.
    if version == "unknown" {
        return Err(BinaryError::Obfuscated { version: version.to_owned() });
    }
    Ok(Build {
        version: GoVersion::parse(version)?,
        path: info.main_path.unwrap_or_default().to_owned(),
        module: info.main_module.unwrap_or_default().to_owned(),
        module_version: info.main_version.unwrap_or_default().to_owned(),
        settings: info.build_settings_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        go_build_id,
    })
}
