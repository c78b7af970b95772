//! Network namespaces and the veth pairs between them.
//!
//! Owns a namespace from creation to removal. Only the network namespace is entered, never a fresh mount of `/sys` as `ip netns
//! exec` makes: that would hide bpffs and the cgroups.

use std::fs::{self, File};
use std::io::Write;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use ipnet::IpNet;

/// Where named namespaces live (ip-netns(8)).
pub const RUN_DIRECTORY: &str = "/run/netns";

/// A network namespace; removed when dropped.
#[derive(Debug)]
pub struct Netns {
    label: String,
    name: String,
    file: Arc<OwnedFd>,
}

impl Netns {
    /// Makes the namespace `name`, with the loopback up and IPv6 addresses usable at once (no duplicate address detection).
    pub fn create(label: &str, name: &str) -> Result<Self> {
        host(&["netns", "add", name])?;
        let file = File::open(path(name)).with_context(|| format!("opening the namespace {name}"))?;
        let netns = Self { label: label.to_owned(), name: name.to_owned(), file: Arc::new(file.into()) };
        for conf in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{conf}/accept_dad"), "0")?;
        }
        netns.ip(&["link", "set", "dev", "lo", "up"])?;
        Ok(netns)
    }

    /// The short name, such as `tor`.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// The name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle by which threads and processes enter, valid also after the name is gone.
    #[must_use]
    pub fn door(&self) -> Door {
        Door(Arc::clone(&self.file))
    }

    /// Runs `body` on a thread inside the namespace and waits for it; sockets made there stay there. A panic goes on here.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T> {
        let door = self.door();
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || door.enter().map(|()| body()));
            match thread.join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command inside the namespace, to be run to its end. For a supervised process see [`crate::process`].
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", path(&self.name).display())).arg(program);
        command
    }

    /// Runs a command inside and returns its standard output; an exit code other than 0 is an error with its words.
    pub fn exec(&self, program: &str, args: &[&str]) -> Result<String> {
        output(self.command(program).args(args)).with_context(|| format!("in {}", self.label))
    }

    /// Runs a command inside with `input` on its standard input.
    pub fn exec_with_input(&self, program: &str, args: &[&str], input: &str) -> Result<String> {
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("starting {program}"))?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        checked(&command, &child.wait_with_output()?).with_context(|| format!("in {}", self.label))
    }

    /// Runs `ip ARGS` inside.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        output(Command::new("ip").args(["-n", &self.name]).args(args))
    }

    /// Adds an address to an interface. IPv6 addresses are usable at once.
    pub fn add_address(&self, interface: &str, address: IpNet) -> Result<()> {
        let text = address.to_string();
        let mut args = vec!["addr", "add", &text, "dev", interface];
        if address.addr().is_ipv6() {
            args.push("nodad");
        }
        self.ip(&args).map(drop)
    }

    /// Adds (or replaces) a route by way of `via`.
    pub fn add_route(&self, prefix: IpNet, via: IpAddr) -> Result<()> {
        self.ip(&["route", "replace", &prefix.to_string(), "via", &via.to_string()]).map(drop)
    }

    /// Writes the sysctl `key`, given as a path such as `net/ipv4/ip_forward`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{key}");
        self.run(|| fs::write(&path, value))?.with_context(|| format!("writing {value} to {path} in {}", self.label))
    }

    /// Forwards packets of both families, as a router or a node does.
    pub fn forward(&self) -> Result<()> {
        self.sysctl("net/ipv4/ip_forward", "1")?;
        self.sysctl("net/ipv6/conf/all/forwarding", "1")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = delete(&self.name) {
            tracing::warn!(netns = self.name, %error, "namespace stays");
        }
    }
}

/// The open namespace file: what is needed to enter, without the duty to remove.
#[derive(Clone, Debug)]
pub struct Door(Arc<OwnedFd>);

impl Door {
    /// Moves the calling thread into the namespace, for good.
    #[expect(unsafe_code, reason = "setns(2) has no safe wrapper in std")]
    pub fn enter(&self) -> Result<()> {
        // SAFETY: the descriptor is open as long as self lives; setns changes the calling thread only.
        let result = unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) };
        if result != 0 {
            bail!(anyhow::Error::new(std::io::Error::last_os_error()).context("entering a network namespace"));
        }
        Ok(())
    }

    /// The descriptor for setns(2) in a forked child.
    pub(crate) fn descriptor(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

/// One end of a veth pair.
#[derive(Clone, Copy, Debug)]
pub struct End<'a> {
    /// Where it lives.
    pub netns: &'a Netns,
    /// The interface's name there, at most 15 characters.
    pub interface: &'a str,
}

/// Joins two namespaces by a veth pair; both ends are up.
pub fn veth(a: End<'_>, b: End<'_>) -> Result<()> {
    let name = |end: End<'_>| [end.interface.to_owned(), end.netns.name.clone()];
    let ([a_name, a_netns], [b_name, b_netns]) = (name(a), name(b));
    let add =
        ["link", "add", "name", &a_name, "netns", &a_netns, "type", "veth", "peer", "name", &b_name, "netns", &b_netns];
    host(&add)?;
    for end in [a, b] {
        end.netns.ip(&["link", "set", "dev", end.interface, "up"])?;
    }
    Ok(())
}

/// Removes the named namespace.
pub fn delete(name: &str) -> Result<()> {
    host(&["netns", "del", name]).map(drop)
}

/// The path of a named namespace.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    Path::new(RUN_DIRECTORY).join(name)
}

fn host(args: &[&str]) -> Result<String> {
    output(Command::new("ip").args(args))
}

/// Runs a command to its end; standard output, or an error with what it wrote to standard error.
pub fn output(command: &mut Command) -> Result<String> {
    let done =
        command.stdin(Stdio::null()).output().with_context(|| format!("starting {:?}", command.get_program()))?;
    checked(command, &done)
}

fn checked(command: &Command, done: &std::process::Output) -> Result<String> {
    if !done.status.success() {
        bail!("{command:?}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
