//! The `gotrail` command.

#[cfg(feature = "probe")]
mod cli;

#[cfg(feature = "probe")]
fn main() -> std::process::ExitCode {
    if let Some(code) = gotrail::probe::helper() {
        return code;
    }
    cli::run()
}

#[cfg(not(feature = "probe"))]
fn main() -> anyhow::Result<()> {
    anyhow::bail!("this gotrail was built without the feature `probe`: only its library can be used")
}
