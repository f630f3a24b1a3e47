//! Go toolchains by exact version, fetched through the Go module proxy.
//!
//! Whatever the user's Go settings say (`GOTOOLCHAIN=local`, build flags, checksum database off), a build here
//! gives the same result: every variable that matters is set, none is inherited.

use std::env;
use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{capture, find_program, is_executable};
use crate::version::Version;
use crate::workspace::Workspace;

/// The toolchain for whatever is not about Go's versions.
pub(crate) const NEWEST: &str = "1.27.3";
/// The versions that fixtures are built with unless told otherwise.
pub(crate) const VERSIONS: [&str; 4] = ["1.21.13", "1.23.9", "1.25.5", NEWEST];
/// The first Go that fetches other toolchains by itself.
const SWITCHES: Version = Version::new(1, 21, 0);

/// One installed Go toolchain.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    version: String,
    goroot: PathBuf,
    proxy: String,
}

/// A version that can't be had here. A value of its own, so that callers can skip it by name: find it with
/// `error.downcast_ref::<Refused>()`.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) version: String,
    pub(crate) reason: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Go {} can't be had here: {}", self.version, self.reason)
    }
}

impl std::error::Error for Refused {}

impl Toolchain {
    /// Its version, without `go` in front.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Its root folder.
    pub(crate) fn goroot(&self) -> &Path {
        &self.goroot
    }

    /// Its own `go` with a clean environment: no cgo, this toolchain and no other, nothing from workspaces,
    /// the host's architecture.
    pub(crate) fn go(&self) -> Result<Command> {
        let bin = self.goroot.join("bin");
        let rest = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths(std::iter::once(bin.clone()).chain(env::split_paths(&rest)))
            .context("a folder on PATH has a name that can't be there")?;
        let mut go = Command::new(bin.join("go"));
        go.env("PATH", path);
        for (name, value) in BUILD_ENVIRONMENT {
            go.env(name, value);
        }
        go.env("GOPROXY", &self.proxy);
        for unwanted in ["GOROOT", "GOOS", "GOARCH", "GOAMD64", "GOARM64", "GOEXPERIMENT", "GODEBUG"] {
            go.env_remove(unwanted);
        }
        Ok(go)
    }
}

/// What every Go build here is run with, beside the proxy. Part of the fixtures' cache key.
pub(crate) const BUILD_ENVIRONMENT: [(&str, &str); 5] = [
    ("CGO_ENABLED", "0"),
    ("GOTOOLCHAIN", "local"),
    ("GOFLAGS", "-buildvcs=false"),
    ("GOWORK", "off"),
    // Modules are pinned by version; only toolchains, fetched before, need the checksum database.
    ("GOSUMDB", "off"),
];

/// Any `go` of this machine: it fetches the others.
pub(crate) fn base() -> Option<PathBuf> {
    let usual = ["/usr/local/go/bin/go", "/usr/lib/go/bin/go"].map(PathBuf::from);
    find_program("go").or_else(|| usual.into_iter().find(|go| is_executable(go)))
}

/// Finds the toolchain of an exact version, fetching it if need be.
pub(crate) fn toolchain(workspace: &Workspace, version: &str) -> Result<Toolchain> {
    let base =
        base().context("there is no `go` on PATH; run `cargo xtask setup`, or install Go 1.21 or newer")?;
    // Away from every go.mod, which could ask for a version of its own.
    fs::create_dir_all(&workspace.cache)
        .with_context(|| format!("can't make the cache folder {}", workspace.cache.display()))?;
    let fetcher = Fetcher::new(base, &workspace.cache)?;

    let goroot = fetcher.fetch(version)?;
    Ok(Toolchain { version: version.to_owned(), goroot, proxy: fetcher.proxy })
}

/// Fetches toolchains with the help of some `go`.
struct Fetcher {
    go: PathBuf,
    folder: PathBuf,
    version: Version,
    /// Where downloaded modules are.
    modules: PathBuf,
    proxy: String,
    checksums_off: bool,
}

impl Fetcher {
    fn new(go: PathBuf, folder: &Path) -> Result<Self> {
        let mut ask = Command::new(&go);
        ask.args(["env", "GOVERSION", "GOMODCACHE", "GOPROXY", "GOSUMDB"])
            .current_dir(folder)
            .env("GOTOOLCHAIN", "local");
        let said = capture(&mut ask, "ask Go for its settings")?;
        let mut lines = said.lines();
        let version = lines
            .next()
            .and_then(Version::find)
            .with_context(|| format!("`{} env GOVERSION` names no version: {said:?}", go.display()))?;
        let modules = PathBuf::from(lines.next().unwrap_or_default());
        let proxy = first_proxy(lines.next().unwrap_or_default()).to_owned();
        let checksums_off = lines.next().is_some_and(|database| database.trim() == "off");
        Ok(Self { go, folder: folder.to_owned(), version, modules, proxy, checksums_off })
    }

    fn command(&self) -> Command {
        let mut go = Command::new(&self.go);
        go.current_dir(&self.folder)
            .env("GOFLAGS", "")
            .env("GOWORK", "off")
            .env("GO111MODULE", "on")
            .env("GOPROXY", &self.proxy)
            .env_remove("GOROOT");
        if self.checksums_off {
            // Toolchains are refused without the checksum database: back to Go's own default.
            go.env("GOENV", "off").env_remove("GOSUMDB");
        }
        go
    }

    /// By the way that this `go` knows; a `go` that switches but is refused tries the older way as well, and
    /// the refusal that is reported is the first.
    fn fetch(&self, version: &str) -> Result<PathBuf, Refused> {
        let refused =
            |error: &anyhow::Error| Refused { version: version.to_owned(), reason: last_line(error) };
        if self.version < SWITCHES {
            return self.by_download(version).map_err(|error| refused(&error));
        }
        self.by_switching(version).or_else(|error| self.by_download(version).map_err(|_| refused(&error)))
    }

    /// Go 1.21 and newer run, and so fetch, any version that is named.
    fn by_switching(&self, version: &str) -> Result<PathBuf> {
        let mut go = self.command();
        go.env("GOTOOLCHAIN", format!("go{version}")).args(["env", "GOROOT"]);
        let goroot = PathBuf::from(capture(&mut go, &format!("fetch Go {version}"))?);
        checked(goroot, version)
    }

    /// Older ones see a toolchain as a module like any other, and leave its programs without the x bit.
    fn by_download(&self, version: &str) -> Result<PathBuf> {
        let architecture = architecture();
        let module = format!("golang.org/toolchain@v0.0.1-go{version}.linux-{architecture}");
        let present = self.modules.join(&module);
        if is_executable(&present.join("bin/go")) {
            return checked(present, version);
        }
        let mut go = self.command();
        if self.version >= SWITCHES {
            go.env("GOTOOLCHAIN", "local");
        }
        go.args(["mod", "download", "-json", &module]);
        let said = capture(&mut go, &format!("fetch {module}"))?;
        let json: serde_json::Value = serde_json::from_str(&said)
            .with_context(|| format!("Go answered no JSON about {module}: {said:?}"))?;
        let folder = json.get("Dir").and_then(serde_json::Value::as_str);
        let goroot =
            PathBuf::from(folder.with_context(|| format!("Go named no folder for {module}: {said}"))?);
        // `bin` last: its x bits say that all is done.
        for programs in [goroot.join(format!("pkg/tool/linux_{architecture}")), goroot.join("bin")] {
            make_executable(&programs)?;
        }
        checked(goroot, version)
    }
}

/// Go's name of the host's architecture.
pub(crate) fn architecture() -> &'static str {
    match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A toolchain that is not what it claims to be would silently test the wrong version.
fn checked(goroot: PathBuf, version: &str) -> Result<PathBuf> {
    let mut go = Command::new(goroot.join("bin/go"));
    go.args(["env", "GOVERSION"]).env("GOTOOLCHAIN", "local").env_remove("GOROOT");
    let said = capture(&mut go, &format!("check Go {version}"))?;
    anyhow::ensure!(said == format!("go{version}"), "{} is {said}, not go{version}", goroot.display());
    Ok(goroot)
}

fn make_executable(folder: &Path) -> Result<()> {
    let told = || format!("can't make the programs in {} executable: are they yours?", folder.display());
    for entry in fs::read_dir(folder).with_context(told)? {
        let path = entry.with_context(told)?.path();
        if path.is_file() && !is_executable(&path) {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).with_context(told)?;
        }
    }
    Ok(())
}

/// The first proxy alone: a refused version must not end in a slow search elsewhere.
fn first_proxy(list: &str) -> &str {
    list.split([',', '|']).map(str::trim).find(|entry| !entry.is_empty()).unwrap_or("direct")
}

/// Go explains a refusal in its last line; before it come progress and repetition.
fn last_line(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    text.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or(&text).to_owned()
}

/// The `go` directive of a go.mod: the oldest version that may build the module.
pub(crate) fn needed_by(go_mod: &str) -> Option<Version> {
    go_mod.lines().find_map(|line| line.trim().strip_prefix("go ")).and_then(Version::find)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::{Scratch, write_script};

    #[test]
    fn the_first_proxy_is_taken_whatever_separates_them() {
        assert_eq!(first_proxy("http://a.test,direct"), "http://a.test");
        assert_eq!(first_proxy("http://a.test|http://b.test,direct"), "http://a.test");
        assert_eq!(first_proxy(" ,off"), "off");
        assert_eq!(first_proxy(""), "direct");
    }

    #[test]
    fn the_needed_version_is_read_from_go_mod() {
        let text = "module example.test/shop\n\ngo 1.21 // no newer\n\ntoolchain go1.27.3\n";
        assert_eq!(needed_by(text), Some(Version::new(1, 21, 0)));
        assert_eq!(needed_by("module gone\n"), None);
    }

    #[test]
    fn a_refusal_is_found_by_its_type_through_context() {
        let error = anyhow::Error::new(Refused { version: "1.20.5".into(), reason: "not there".into() })
            .context("can't build shop");
        assert_eq!(error.downcast_ref::<Refused>().map(|refused| refused.version.as_str()), Some("1.20.5"));
    }

    #[test]
    fn programs_that_came_without_the_x_bit_get_it() {
        let scratch = Scratch::new("go-test").unwrap();
        let program = scratch.path().join("compile");
        fs::write(&program, "").unwrap();
        assert!(!is_executable(&program));
        make_executable(scratch.path()).unwrap();
        assert!(is_executable(&program));
    }

    #[test]
    fn a_wrong_toolchain_is_not_taken_for_the_right_one() {
        let scratch = Scratch::new("go-test").unwrap();
        write_script(&scratch.path().join("bin/go"), "echo go1.26.8");
        assert!(checked(scratch.path().to_owned(), "1.26.8").is_ok());
        let error = checked(scratch.path().to_owned(), "1.27.3").expect_err("1.26.8 is not 1.27.3");
        assert!(format!("{error:#}").contains("go1.26.8"), "{error:#}");
    }
}
