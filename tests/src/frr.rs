//! Real FRR daemons in a namespace, each on its own: start, kill, restart, ask.
//!
//! Owns zebra, bgpd and (on request) bfdd with their sockets in the lab's directory. The binaries are those of
//! `COSMOLET_FRR_DIR`, else `/usr/lib/frr`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::netns::{Netns, RUN_DIRECTORY, output};
use crate::process::{Process, Spec};
use crate::vty::Vty;
use crate::{Lab, wait};

/// Where the machine's own FRR is.
pub const INSTALLED: &str = "/usr/lib/frr";
/// Debian's own: frr-reload.py and ExaBGP need nothing but its standard library.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// The group that FRR is built to give its vty sockets to.
const VTY_GROUP: &str = "frrvty";
const START_LIMIT: Duration = Duration::from_secs(10);
const REPLY_LIMIT: Duration = Duration::from_secs(10);

/// The name of bfdd's profile.
pub const BFD_PROFILE: &str = "fast";
/// bfdd's own file, with the profile [`BFD_PROFILE`], 50 ms × 3: the other daemons do not know its lines, and the `exit`s after them would end *their* configuration.
pub const BFD_CONFIG: &str = "bfd
 profile fast
  receive-interval 50
  transmit-interval 50
  detect-multiplier 3
";

/// One of FRR's programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// Routes between protocols and the kernel.
    Zebra,
    /// BGP.
    Bgpd,
    /// Bidirectional forwarding detection.
    Bfdd,
}

impl Daemon {
    /// The program's name.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Zebra => "zebra",
            Self::Bgpd => "bgpd",
            Self::Bfdd => "bfdd",
        }
    }
}

/// Options of one instance.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Starts bfdd too, with this configuration, such as [`BFD_CONFIG`].
    pub bfd: Option<&'static str>,
    /// Extra arguments of zebra, such as `--v6-rr-semantics`.
    pub zebra_args: Vec<String>,
    /// VRFs, each of which is a network namespace: the VRF's name and that of the namespace.
    pub vrfs: Vec<(String, String)>,
}

/// FRR of one namespace.
#[derive(Debug)]
pub struct Frr {
    directory: PathBuf,
    daemons: Vec<Running>,
}

#[derive(Debug)]
struct Running {
    daemon: Daemon,
    spec: Spec,
    process: Option<Process>,
}

impl Frr {
    /// Starts FRR in `netns` with `config` (the frr.conf of zebra and bgpd) and waits until each answers.
    pub fn start(lab: &Lab, netns: &Netns, config: &str, options: &Options) -> Result<Self> {
        let directory = lab.subdirectory(&format!("frr-{}", netns.label()))?;
        fs::write(directory.join("frr.conf"), config)?;
        let mut which = vec![Daemon::Zebra, Daemon::Bgpd];
        if let Some(config) = options.bfd {
            fs::write(directory.join("bfdd.conf"), config)?;
            which.push(Daemon::Bfdd);
        }
        let mut frr = Self { directory, daemons: vec![] };
        for daemon in which {
            let spec = frr.spec(lab, netns, daemon, options)?;
            frr.daemons.push(Running { daemon, spec, process: None });
            frr.restart(daemon)?;
        }
        Ok(frr)
    }

    /// The directory of the vty sockets: `frr.socket_path` of the daemon's configuration.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The vty socket of one daemon.
    #[must_use]
    pub fn socket(&self, daemon: Daemon) -> PathBuf {
        self.directory.join(format!("{}.vty", daemon.program()))
    }

    /// frr.conf, as the daemons read it at their start.
    pub fn config(&self) -> Result<String> {
        Ok(fs::read_to_string(self.directory.join("frr.conf"))?)
    }

    /// Replaces frr.conf for the next start of a daemon.
    pub fn write_config(&self, config: &str) -> Result<()> {
        Ok(fs::write(self.directory.join("frr.conf"), config)?)
    }

    /// A vty session with one daemon.
    pub fn vty(&self, daemon: Daemon) -> Result<Vty> {
        Vty::connect(&self.socket(daemon), REPLY_LIMIT)
    }

    /// A vty session with bgpd.
    pub fn bgpd(&self) -> Result<Vty> {
        self.vty(Daemon::Bgpd)
    }

    /// The JSON answer of bgpd to a `show` command (`json` is appended).
    pub fn show(&self, command: &str) -> Result<Value> {
        self.bgpd()?.json(&format!("{command} json"))
    }

    /// Runs lines in bgpd's configuration mode; any refusal is an error.
    pub fn configure<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        self.bgpd()?.configure_ok(lines)
    }

    /// FRR's whole configuration as vtysh writes it, which is what an operator's automation keeps.
    pub fn whole_config(&self) -> Result<String> {
        // vtysh complains where it is missing.
        fs::write(self.directory.join("vtysh.conf"), "service integrated-vtysh-config\n")?;
        let mut show = Command::new(tools()?.join("vtysh"));
        show.arg("--config_dir").arg(&self.directory).arg("--vty_socket").arg(&self.directory);
        let running = output(show.args(["-c", "show running-config"]))?;
        Ok(running.split_once("\n!\n").context("no configuration from vtysh")?.1.to_owned())
    }

    /// The first number of its version.
    pub fn major(&self) -> Result<u32> {
        let running = self.bgpd()?.expect_success("show running-config")?;
        let version = running.split_once("frr version ").and_then(|(_, rest)| rest.split('.').next());
        version.context("no version in bgpd's configuration")?.parse().context("the version of FRR")
    }

    /// Makes FRR have what frr.conf says and nothing else, by its own frr-reload.py: `systemctl reload frr`.
    pub fn reload(&self) -> Result<()> {
        let mut command = Command::new(PYTHON);
        command.arg(program_directory().join("frr-reload.py")).args(["--reload", "--stdout", "--log-level", "warning"]);
        command.arg("--bindir").arg(tools()?);
        for option in ["--confdir", "--rundir", "--vty_socket"] {
            command.arg(option).arg(&self.directory);
        }
        output(command.arg(self.directory.join("frr.conf"))).map(drop)
    }

    /// From their next starts on the daemons are those of another folder: FRR is upgraded.
    pub fn replace_programs(&mut self, directory: &Path) {
        for running in &mut self.daemons {
            running.spec = running.spec.clone().program(directory.join(running.daemon.program()));
        }
    }

    /// Stops one daemon with SIGKILL and returns the moment.
    pub fn kill(&mut self, daemon: Daemon) -> Result<Instant> {
        let running = self.running(daemon)?;
        let mut process = running.process.take().with_context(|| format!("{} does not run", daemon.program()))?;
        process.kill()
    }

    /// Starts one daemon (killing it before if it runs), waits until its socket answers, returns the moment of its start.
    pub fn restart(&mut self, daemon: Daemon) -> Result<Instant> {
        let started = self.launch(daemon)?;
        self.wait_answering(daemon)?;
        Ok(started)
    }

    /// Like [`Frr::restart`] without waiting for the socket.
    pub fn launch(&mut self, daemon: Daemon) -> Result<Instant> {
        let socket = self.socket(daemon);
        let running = self.running(daemon)?;
        running.process = None;
        // A socket file of the process before would let a connect fail as "refused" instead of "not there yet".
        if socket.exists() {
            fs::remove_file(&socket)?;
        }
        let process = running.process.insert(running.spec.start()?);
        Ok(process.started())
    }

    /// The running process of one daemon, to pause it or read its log.
    pub fn process(&mut self, daemon: Daemon) -> Result<&mut Process> {
        self.running(daemon)?.process.as_mut().with_context(|| format!("{} does not run", daemon.program()))
    }

    /// Waits until the daemon answers on its vty socket.
    pub fn wait_answering(&mut self, daemon: Daemon) -> Result<()> {
        let socket = self.socket(daemon);
        wait::until(&format!("{} answering", daemon.program()), START_LIMIT, || {
            if let Err(ended) = self.process(daemon).and_then(Process::ensure_running) {
                return Ok(Some(Err(ended)));
            }
            Vty::connect(&socket, REPLY_LIMIT).map(|_| Some(Ok(())))
        })?
    }

    /// Waits until `count` BGP sessions are established in the default VRF (each neighbour counted once).
    pub fn wait_established(&self, count: usize, limit: Duration) -> Result<()> {
        wait::until_true(&format!("{count} established BGP sessions"), limit, || {
            Ok(established(&self.show("show bgp summary")?).len() >= count)
        })
    }

    fn running(&mut self, daemon: Daemon) -> Result<&mut Running> {
        let found = self.daemons.iter_mut().find(|running| running.daemon == daemon);
        found.with_context(|| format!("{} was not asked for", daemon.program()))
    }

    fn spec(&self, lab: &Lab, netns: &Netns, daemon: Daemon, options: &Options) -> Result<Spec> {
        let program = program_directory().join(daemon.program());
        ensure!(program.exists(), "{} is missing: apt-get install frr, or set COSMOLET_FRR_DIR", program.display());
        let name = format!("{}-{}", netns.label(), daemon.program());
        let at = |file: &str| self.directory.join(file);
        // In the foreground, as root and in its group from the start: a daemon that forks or changes its user or group loses
        // its parent death signal.
        let spec = Spec::new(&name, program, lab.log(&name)?)
            .inside(netns)
            .group(group_id(VTY_GROUP)?)
            .args(["-u", "root", "-g", VTY_GROUP, "-A", "127.0.0.1", "-P", "0", "--log", "stdout"])
            .args(["-N", netns.name()])
            .arg("--vty_socket")
            .arg(&self.directory)
            .arg("-i")
            .arg(at(&format!("{}.pid", daemon.program())))
            .arg("-z")
            .arg(at("zserv.api"))
            .arg("-f");
        let spec = match options.vrfs.as_slice() {
            [] => spec,
            vrfs => {
                let script = self.sees_only(vrfs);
                spec.by_way_of("unshare", ["--mount", "--propagation", "private", "sh", "-ec", &script, "sh"])
            }
        };
        Ok(match daemon {
            Daemon::Zebra => spec
                .arg(at("frr.conf"))
                .args(&options.zebra_args)
                .args((!options.vrfs.is_empty()).then_some("--vrfwnetns")),
            Daemon::Bgpd => spec.arg(at("frr.conf")),
            Daemon::Bfdd if has_control_socket() => spec.arg(at("bfdd.conf")).arg("--bfdctl").arg(at("bfdd.sock")),
            Daemon::Bfdd => spec.arg(at("bfdd.conf")),
        })
    }

    /// A script that runs its arguments where `/run/netns` has these VRFs alone: zebra takes every namespace there for one.
    fn sees_only(&self, vrfs: &[(String, String)]) -> String {
        let kept = |vrf: &str| self.directory.join(format!("{vrf}.netns")).display().to_string();
        let bind = |from: &str, to: &str| format!("touch {to}; mount --bind {from} {to}; ");
        let keep = vrfs.iter().map(|(vrf, name)| bind(&format!("{RUN_DIRECTORY}/{name}"), &kept(vrf)));
        let show = vrfs.iter().map(|(vrf, _)| bind(&kept(vrf), &format!("{RUN_DIRECTORY}/{vrf}")));
        let hide = format!("mount -t tmpfs tmpfs {RUN_DIRECTORY}; ");
        format!("{}{hide}{}exec \"$@\"", keep.collect::<String>(), show.collect::<String>())
    }
}

/// The names of the peers whose session is up, from `show bgp summary json`.
#[must_use]
pub fn established(summary: &Value) -> Vec<String> {
    let mut names: Vec<String> = ["ipv4Unicast", "ipv6Unicast"]
        .iter()
        .filter_map(|family| summary.get(family)?.get("peers")?.as_object())
        .flatten()
        .filter(|(_, peer)| peer.get("state").and_then(Value::as_str) == Some("Established"))
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Where FRR's programs are.
#[must_use]
pub fn program_directory() -> PathBuf {
    std::env::var_os("COSMOLET_FRR_DIR").map_or_else(|| PathBuf::from(INSTALLED), PathBuf::from)
}

/// Where vtysh is: another release's lies beside its daemons.
fn tools() -> Result<PathBuf> {
    let directory = program_directory();
    let tools = if directory == Path::new(INSTALLED) { PathBuf::from("/usr/bin") } else { directory };
    ensure!(tools.join("vtysh").exists(), "{} has no vtysh: cargo xtask setup", tools.display());
    Ok(tools)
}

/// Whether bfdd has a control socket, whose place is then the same for all: FRR 10 has none any more.
fn has_control_socket() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    let ask = || {
        let help = Command::new(program_directory().join(Daemon::Bfdd.program())).arg("--help").output();
        help.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("--bfdctl"))
    };
    *ANSWER.get_or_init(ask)
}

/// The number of the group that may use the vty sockets.
pub fn vty_group() -> Result<u32> {
    group_id(VTY_GROUP)
}

/// The number of a group, from /etc/group.
fn group_id(name: &str) -> Result<u32> {
    let groups = fs::read_to_string("/etc/group")?;
    let line = groups.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let id = line.and_then(|rest| rest.split(':').nth(1)?.parse().ok());
    id.with_context(|| format!("no group {name}: apt-get install frr makes it"))
}
