//! Starting programs, and what this machine is.
//!
//! Owns no policy: callers say what to run and what a failure means.

use std::env;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a long step says that it is still at work when nobody watches a terminal.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The checkout: the folder of the workspace's `Cargo.toml`.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// Where the workspace's build output goes.
pub fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// Where tools that no package manager has are kept between checkouts: `$XDG_CACHE_HOME/cosmolet`, else
/// `~/.cache/cosmolet`.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match env::var_os("XDG_CACHE_HOME") {
        Some(dir) if !dir.is_empty() => PathBuf::from(dir),
        _ => PathBuf::from(env::var_os("HOME").context("HOME is not set")?).join(".cache"),
    };
    Ok(base.join("cosmolet"))
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// Whether a person can be asked: both ends are terminals and this is not CI.
pub fn can_ask() -> bool {
    std::io::stdin().is_terminal() && std::io::stderr().is_terminal() && env::var_os("CI").is_none()
}

/// Finds an executable in `PATH` and in the folders that Debian keeps out of an ordinary user's `PATH`.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/frr"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// A command to run in the checkout.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that called us, without the variables by which it describes this program to itself: the build script of `ring` asks
/// for them, so that it and all that needs it were built anew after each plain `cargo build`, and again by us.
pub fn cargo() -> Command {
    let mut cargo = command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let describes = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(describes) {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// A command that needs root: as it is for root, else through sudo.
pub fn as_root(program: &str) -> Command {
    if is_root() {
        return command(program);
    }
    let mut sudo = command("sudo");
    sudo.args(["-E", "--", program]);
    sudo
}

/// Runs a command with our own output; an error names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs a command and returns its standard output; its errors go to ours.
pub fn output(command: &mut Command) -> Result<String> {
    let output =
        command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{}`", shown(command)))?;
    if !output.status.success() {
        bail!("`{}` failed ({})", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` did not print UTF-8", shown(command)))
}

/// Runs a command and returns its standard output if it succeeds. Its errors are nobody's business.
pub fn try_output(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a long and talkative command with its output in a log file, showing `what` and the time it has taken so far.
///
/// # Errors
/// If it cannot be started or fails: with the end of its log.
pub fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    let log_path = env::temp_dir().join(format!("cosmolet-xtask-{}.log", std::process::id()));
    let log = File::create(&log_path).with_context(|| format!("cannot write {}", log_path.display()))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let started = Instant::now();
    let mut child = command.spawn().with_context(|| format!("cannot start `{}`", shown(command)))?;
    let terminal = std::io::stdout().is_terminal();
    let mut last = Instant::now();
    if !terminal {
        println!("  {what} …");
    }
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if terminal {
            print!("\r  {what} … {} s ", started.elapsed().as_secs());
            std::io::stdout().flush()?;
        } else if last.elapsed() >= HEARTBEAT {
            last = Instant::now();
            println!("  {what} … {} s", started.elapsed().as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    };
    let seconds = started.elapsed().as_secs();
    let lead = if terminal { "\r" } else { "" };
    if status.success() {
        println!("{lead}  {what}: done in {seconds} s");
        fs::remove_file(&log_path)?;
        return Ok(());
    }
    println!("{lead}  {what}: failed after {seconds} s");
    let text = fs::read_to_string(&log_path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let tail = lines[lines.len().saturating_sub(40)..].join("\n");
    bail!("`{}` failed ({status}); the end of {}:\n{tail}", shown(command), log_path.display())
}

/// Waits until nobody else holds the lock of this file, which is made with its directory, and holds it until it is dropped.
pub fn lock(file: &Path) -> Result<File> {
    let directory = file.parent().with_context(|| format!("{} lies in no directory", file.display()))?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let lock = File::create(file).with_context(|| format!("cannot make {}", file.display()))?;
    lock.lock().with_context(|| format!("the lock {}", file.display()))?;
    Ok(lock)
}

/// A command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
