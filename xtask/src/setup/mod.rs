//! `cargo xtask setup`: what this machine lacks, why it is wanted, and its installation.
//!
//! Owns the table of needs. Never starts a service, and changes nothing when nothing is missing.

mod apt;
pub mod book;
mod bpf;
mod cluster;
pub mod frr;
mod grafana;
mod kube;
pub mod peers;
mod table;

use std::io::{BufRead, Write};

use anyhow::{Result, bail};

use crate::shell;
use table::{Install, Need};

/// What to install, and whether to ask.
#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// Install without asking. Without a terminal nobody is asked either.
    #[arg(long, short)]
    pub yes: bool,
    /// Only what these parts need; everything when not given.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Group>,
}

/// A part of the work that has needs of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Group {
    /// A C compiler, rustfmt, clippy: what any build and its checks need.
    Build,
    /// The toolchain that compiles the eBPF programs.
    Ebpf,
    /// FRR, nftables and the other tools that the lab is made of.
    Lab,
    /// etcd and a real kube-apiserver.
    Kube,
    /// The rest of Kubernetes, helm, containerd and what builds images; what the lab's cluster needs beside lab and kube.
    Cluster,
    /// buildah and debootstrap: the container image.
    Image,
    /// Prometheus: alerts, dashboards, and what `cargo xtask demo --keep` leaves up.
    Prometheus,
    /// What `cargo xtask demo` needs: build, ebpf and lab.
    Demo,
    /// The FRR of other Debian releases, for the tests: unpacked, not installed.
    Frr,
    /// GoBGP and ExaBGP, for `bench peers`: unpacked, not installed.
    Peers,
    /// Chromium, for the tests of the status page.
    Browser,
    /// mdBook, for the documentation.
    Book,
    /// cargo-fuzz.
    Fuzz,
}

impl Options {
    /// The same choice for some parts only.
    pub fn only(yes: bool, only: &[Group]) -> Self {
        Self { yes, only: only.to_vec() }
    }

    fn wants(&self, group: Group) -> bool {
        match group {
            // Nobody needs the fuzzer or other speakers to build, test or see cosmolet.
            Group::Fuzz | Group::Peers => self.only.contains(&group),
            Group::Build | Group::Ebpf | Group::Lab => {
                self.only.is_empty() || self.only.contains(&group) || self.only.contains(&Group::Demo)
            }
            Group::Image | Group::Prometheus => {
                self.only.is_empty() || [group, Group::Cluster].iter().any(|part| self.only.contains(part))
            }
            Group::Kube | Group::Cluster | Group::Demo | Group::Frr | Group::Browser | Group::Book => {
                self.only.is_empty() || self.only.contains(&group)
            }
        }
    }
}

/// Installs what is missing; says so in one line when nothing is.
///
/// # Errors
/// If the person says no, or an installation fails.
pub fn run(options: &Options) -> Result<()> {
    let missing = missing(options);
    if missing.is_empty() {
        println!("setup: nothing is missing");
        return Ok(());
    }
    println!("setup: {} missing on this machine:", missing.len());
    for need in &missing {
        println!("  {:<16} {}", need.name, need.why);
    }
    if !options.yes && shell::can_ask() && !confirmed()? {
        bail!("nothing was installed; `cargo xtask setup` asks again, `cargo xtask setup --yes` does not ask");
    }
    install(&missing)?;
    let left = self::missing(options);
    if let Some(need) = left.first() {
        bail!("{} is still missing after its installation ({})", need.name, need.why);
    }
    println!("setup: done");
    Ok(())
}

fn missing(options: &Options) -> Vec<Need> {
    table::needs().into_iter().filter(|need| options.wants(need.group) && !(need.present)()).collect()
}

fn confirmed() -> Result<bool> {
    eprint!(
        "Install now? Packages are installed {}. [Y/n] ",
        if shell::is_root() { "as root" } else { "through sudo" }
    );
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes"))
}

/// Packages first, in one transaction; then what is built with them, in the table's order.
fn install(missing: &[Need]) -> Result<()> {
    let mut apt = apt::Apt::default();
    for need in missing {
        match need.install {
            Install::Apt(alternatives) => apt.want(need.name, alternatives),
            Install::Build { packages, .. } => packages.iter().for_each(|package| apt.want(need.name, &[&[package]])),
        }
    }
    apt.install()?;
    for need in missing {
        if let Install::Build { build, .. } = need.install {
            println!("setup: {}", need.name);
            build(&mut apt)?;
        }
    }
    Ok(())
}
