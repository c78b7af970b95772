//! The table of needs: one line each, with its reason.

use std::fs;

use super::apt::Apt;
use super::{Group, book, bpf, cluster, frr, kube, peers};
use crate::shell::{self, which};

/// One thing that must be on the machine.
#[derive(Clone, Copy)]
pub(super) struct Need {
    /// As a person would call it.
    pub(super) name: &'static str,
    /// What it is wanted for.
    pub(super) why: &'static str,
    /// Which part of the work wants it.
    pub(super) group: Group,
    /// Whether it is there: cheap, looks at files only.
    pub(super) present: fn() -> bool,
    /// How it gets there.
    pub(super) install: Install,
}

/// How a need is met.
#[derive(Clone, Copy)]
pub(super) enum Install {
    /// Packages; the first alternative whose packages this release has is taken.
    Apt(&'static [&'static [&'static str]]),
    /// Something built here, after these packages.
    Build {
        /// What must be installed first.
        packages: &'static [&'static str],
        /// Builds and installs it.
        build: fn(&mut Apt) -> anyhow::Result<()>,
    },
}

/// Everything that any part of the work wants, in the order of installation.
pub(super) fn needs() -> Vec<Need> {
    let mut needs = vec![
        tool("cc", "links Rust programs", Group::Build, || which("cc").is_some(), &[&["gcc", "libc6-dev"]]),
        Need {
            name: "rustfmt, clippy",
            why: "the format and lint checks of `cargo xtask test`",
            group: Group::Build,
            present: components_present,
            install: Install::Build { packages: &[], build: install_components },
        },
    ];
    needs.extend(lab());
    needs.extend(frr::needs());
    needs.extend(bpf::needs());
    needs.extend(kube::needs());
    needs.extend(cluster::needs());
    needs.extend(peers::needs());
    needs.push(tool(
        "chromium",
        "shows the status page to its tests",
        Group::Browser,
        || which("chromium").is_some() && which("chromedriver").is_some(),
        &[&["chromium", "chromium-driver"]],
    ));
    needs.push(book::need());
    needs.push(Need {
        name: "cargo-fuzz",
        why: "runs the fuzz targets",
        group: Group::Fuzz,
        present: || crate::fuzz::cargo_fuzz().is_ok_and(|file| file.is_file()),
        install: Install::Build { packages: &["g++"], build: |_| crate::fuzz::install() },
    });
    needs
}

fn lab() -> [Need; 8] {
    let present = [
        || which("bgpd").is_some() && which("zebra").is_some() && which("vtysh").is_some(),
        || which("nft").is_some(),
        || which("ip").is_some() && which("tc").is_some(),
        || which("conntrack").is_some(),
        || which("bpftool").is_some(),
        || which("setcap").is_some(),
        || fs::exists("/usr/lib/frr/frr-reload.py").unwrap_or(false),
        || which("iptables-legacy").is_some() && which("ip6tables-nft").is_some(),
    ];
    [
        tool("frr", "the lab's ToR and nodes run real FRR daemons", Group::Lab, present[0], &[&["frr"]]),
        tool(
            "frr-reload.py",
            "an operator's automation, which takes away what its file does not have",
            Group::Lab,
            present[6],
            &[&["frr-pythontools"]],
        ),
        tool("nftables", "the lab's nodes translate VIPs as kube-proxy does", Group::Lab, present[1], &[&["nftables"]]),
        tool("iptables", "translates VIPs as kube-proxy's older mode does", Group::Lab, present[7], &[&["iptables"]]),
        tool("iproute2", "makes the lab's namespaces and links", Group::Lab, present[2], &[&["iproute2"]]),
        tool("conntrack", "forgets connections when a test moves a backend", Group::Lab, present[3], &[&["conntrack"]]),
        tool(
            "bpftool",
            "proves that the eBPF object loads with libbpf too",
            Group::Lab,
            present[4],
            &[&["bpftool"], &["linux-tools-common", "linux-tools-generic"], &["linux-tools-common"]],
        ),
        tool(
            "setcap",
            "tests the daemon without root, with file capabilities",
            Group::Lab,
            present[5],
            &[&["libcap2-bin"]],
        ),
    ]
}

/// A need that packages meet.
pub(super) const fn tool(
    name: &'static str,
    why: &'static str,
    group: Group,
    present: fn() -> bool,
    packages: &'static [&'static [&'static str]],
) -> Need {
    Need { name, why, group, present, install: Install::Apt(packages) }
}

fn components_present() -> bool {
    // The binaries in ~/.cargo/bin are rustup's proxies: only the toolchain's own folder tells.
    shell::try_output(shell::command("rustc").args(["--print", "sysroot"])).is_some_and(|sysroot| {
        let bin = std::path::Path::new(sysroot.trim()).join("bin");
        bin.join("cargo-clippy").is_file() && bin.join("rustfmt").is_file()
    })
}

fn install_components(_: &mut Apt) -> anyhow::Result<()> {
    shell::run(shell::command("rustup").args(["component", "add", "rustfmt", "clippy"]))
}
