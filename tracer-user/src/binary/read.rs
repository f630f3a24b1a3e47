//! Reading a whole executable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::calls::{CallSite, scan};
use super::error::BinaryError;
use super::globals::Globals;
use super::image::{Architecture, Image};
use super::layout::{self, Layout, LayoutSource};
use super::sites::{self, Plan};
use super::symbols::{Frame, Symbols};
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

/// A Go executable, understood.
#[derive(Clone, Debug)]
pub struct GoBinary {
    image: Image,
    build: Build,
    symbols: Symbols,
    layout: Layout,
    layout_source: LayoutSource,
    globals: Globals,
    text: (u64, u64),
    types: u64,
}

impl GoBinary {
    /// Reads what is recorded about a build, without understanding the rest. For lists of processes.
    ///
    /// # Errors
    /// [`BinaryError`] if it is not a Go program.
    pub fn read_build(bytes: &[u8]) -> Result<Build, BinaryError> {
        let no_info = BinaryError::NotGo("it has no build information");
        if !has_build_info(&Image::parse(bytes.into())?) {
            return Err(no_info);
        }
        let context = gobin::formats::BinaryContext::new(bytes);
        let info = gobin::structures::buildinfo::extract(&context).ok_or(no_info)?;
        build(&info, gobin::structures::buildid::extract(&context).map(|id| id.id.to_owned()))
    }

    /// Understands an executable.
    ///
    /// # Errors
    /// [`BinaryError`] says what is missing; nothing is guessed (FAIL-1).
    pub fn parse(bytes: Arc<[u8]>) -> Result<Self, BinaryError> {
        let image = Image::parse(bytes)?;
        if !has_build_info(&image) {
            return Err(BinaryError::NotGo("it has no build information"));
        }
        let go = gobin::GoBinary::try_parse(image.bytes())
            .map_err(|_| BinaryError::NotGo("neither of them is there"))?;
        let build = build(
            go.build_info().ok_or(BinaryError::NotGo("it has no build information"))?,
            go.build_id().map(str::to_owned),
        )?;
        let version = &build.version;
        if version.minor < FIRST_MINOR {
            return Err(BinaryError::TooOld { version: version.to_string(), first: FIRST_MINOR });
        }
        let no_table = || BinaryError::NoFunctionTable { version: version.to_string() };
        let table = go.pclntab().ok_or_else(no_table)?;
        let module = go.moduledata().ok_or_else(no_table)?;
        let symbols = Symbols::new(&table, module.text, module.etext, module.gofunc, version.minor);
        let (text, types) = ((module.text, module.etext), module.types);
        drop(go);
        if symbols.functions().is_empty() {
            return Err(no_table());
        }
        let (layout, layout_source) = layout::find(image.bytes(), version, image.architecture().goarch())?;
        let globals = Globals::find(&image, &symbols, &layout, version)?;
        Ok(Self { image, build, symbols, layout, layout_source, globals, text, types })
    }

    /// What is recorded about the build.
    #[must_use]
    pub const fn build(&self) -> &Build {
        &self.build
    }

    /// The Go version.
    #[must_use]
    pub const fn version(&self) -> &GoVersion {
        &self.build.version
    }

    /// The file.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Its architecture.
    #[must_use]
    pub const fn architecture(&self) -> Architecture {
        self.image.architecture()
    }

    /// Its functions.
    #[must_use]
    pub const fn symbols(&self) -> &Symbols {
        &self.symbols
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
        self.text
    }

    /// The frames of a linked address, innermost first. See [`Symbols::frames`].
    #[must_use]
    pub fn frames(&self, address: u64, exact: bool) -> Vec<Frame> {
        self.symbols.frames(&self.image, address, exact)
    }

    /// The name of the function that holds a linked address.
    #[must_use]
    pub fn function_name(&self, address: u64) -> Option<&str> {
        self.symbols.name(&self.image, self.symbols.at(address)?)
    }

    /// The type whose descriptor is at a linked address.
    #[must_use]
    pub fn type_name(&self, address: u64) -> Option<TypeName> {
        type_name(&self.image, self.types, address)
    }

    /// Plans the probe sites of some tiers.
    #[must_use]
    pub fn plan(&self, tiers: u32) -> Plan {
        sites::plan(&self.image, &self.symbols, &self.layout, self.version(), tiers)
    }

    /// Finds who tunes the runtime by hand.
    #[must_use]
    pub fn hazards(&self) -> Vec<CallSite> {
        scan(&self.image, &self.symbols)
    }
}

/// Whether the Go linker's build information is there: its magic at 16-byte alignment in writable data
/// (cmd/link/internal/ld/data.go, `buildinfo`). Programs that merely know the magic, such as this one, have
/// it among their constants.
fn has_build_info(image: &Image) -> bool {
    const MAGIC: &[u8] = b"\xff Go buildinf:";
    image.segments().iter().filter(|s| s.writable).any(|segment| {
        let bytes = image.read_to_segment_end(segment.address).unwrap_or_default();
        // Alignment is that of the address.
        let skip = usize::try_from(segment.address.wrapping_neg() % 16).unwrap_or(0);
        bytes.get(skip..).unwrap_or_default().chunks(16).any(|chunk| chunk.starts_with(MAGIC))
    })
}

fn build(info: &gobin::metadata::BuildInfo<'_>, go_build_id: Option<String>) -> Result<Build, BinaryError> {
    Ok(Build {
        version: GoVersion::parse(info.go_version.unwrap_or_default())?,
        path: info.main_path.unwrap_or_default().to_owned(),
        module: info.main_module.unwrap_or_default().to_owned(),
        module_version: info.main_version.unwrap_or_default().to_owned(),
        settings: info.build_settings_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        go_build_id,
    })
}
