//! The benches: every figure that cosmolet promises, each measured against a baseline of the same run.
//!
//! Own and baseline take turns, so that what slows the machine slows both; medians are compared. Nothing here judges a
//! figure but its own target.

pub mod addresses;
pub mod at_once;
pub mod ebpf;
pub mod engine;
pub mod figure;
pub mod kubernetes;
pub mod lag;
pub mod many;
pub mod memory;
pub mod one;
pub mod pairs;
pub mod peers;
pub mod proxy;
pub mod raw;
pub mod share;
pub mod verdict;
pub mod view;
pub mod world;

use anyhow::Result;

use crate::fabric::Mode;
use figure::Figure;

/// One thing to measure.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What it measures, and against what.
    pub about: &'static str,
    /// How many rounds it takes, and how many when it has to be quick.
    rounds: [usize; 2],
    run: fn(usize) -> Result<Vec<Figure>>,
}

impl Entry {
    /// Measures.
    ///
    /// # Errors
    /// When something could not be measured; a missed target is no error.
    pub fn measure(&self, quick: bool) -> Result<Vec<Figure>> {
        (self.run)(self.rounds[usize::from(quick)])
    }
}

/// Everything that can be measured, the cheapest first.
pub const ENTRIES: [Entry; 23] = [
    Entry {
        name: "engine",
        about: "one endpoint event at 10 000 Services (handle and plan) against the same at 100",
        rounds: [25, 2],
        run: |turns| engine::measure(u32::try_from(turns)?),
    },
    Entry {
        name: "ebpf",
        about: "the programs by BPF_PROG_TEST_RUN with 1000 VIPs of each family, over an empty program",
        rounds: [21, 3],
        run: |turns| ebpf::measure(u16::try_from(turns)?),
    },
    Entry {
        name: "share",
        about: "an endpoint's manifest renamed -> first byte at FRR's socket (a proxy in front of it reads the clock)",
        rounds: [300, 8],
        run: share::measure,
    },
    Entry {
        name: "lag",
        about: "requests that fail after the ToR has a route, while translations come 0 to 5 s after the endpoints: the wait \
                for a probe beside none",
        rounds: [50, 3],
        run: lag::measure,
    },
    Entry {
        name: "verdict",
        about: "a fault that Kubernetes does not see, at 10 connections/s for each of 50 VIPs -> the VIP gone from the ToR's kernel",
        rounds: [4, 1],
        run: verdict::measure,
    },
    Entry {
        name: "one-vip",
        about: "an endpoint's manifest renamed -> UPDATE on the wire, against a raw client (address by rtnetlink, then a \
                pipelined `network`), beside one vtysh process per VIP",
        rounds: [100, 4],
        run: |rounds| one::measure(Mode::Dynamic, rounds),
    },
    Entry {
        name: "one-vip-connected",
        about: "the same where FRR redistributes what is on the loopback: the raw client's address by rtnetlink alone",
        rounds: [100, 4],
        run: |rounds| one::measure(Mode::Connected, rounds),
    },
    Entry {
        name: "at-once",
        about: "an endpoint's manifest renamed -> withdrawal on the wire by the prefix-list that the operator lends, one of 1, 100 and \
                1000 VIPs, beside `no network` by a raw client",
        rounds: [30, 1],
        run: at_once::measure,
    },
    Entry {
        name: "vips-1k",
        about: "1000 VIPs at once -> last prefix on the wire, against a raw client (one rtnetlink batch of addresses, then \
                one write of `network`s; `no network`s to withdraw)",
        rounds: [5, 1],
        run: |rounds| many::measure(Mode::Dynamic, 1000, 1.2, rounds),
    },
    Entry {
        name: "vips-1k-connected",
        about: "the same where FRR redistributes what is on the loopback: the raw client's batch of addresses alone",
        rounds: [5, 1],
        run: |rounds| many::measure(Mode::Connected, 1000, 1.2, rounds),
    },
    Entry {
        name: "vips-10k",
        about: "vips-1k with 10 000 VIPs",
        rounds: [3, 1],
        run: |rounds| many::measure(Mode::Dynamic, 10_000, 1.3, rounds),
    },
    Entry {
        name: "vips-10k-connected",
        about: "vips-1k-connected with 10 000 VIPs",
        rounds: [3, 1],
        run: |rounds| many::measure(Mode::Connected, 10_000, 1.3, rounds),
    },
    Entry {
        name: "thousands",
        about: "10 000 IPv6 VIPs, with addresses and without: the time for each until all are advertised, withdrawn and gone, over the same \
                for 1000",
        rounds: [1, 1],
        run: |_| addresses::measure(1000, 10_000),
    },
    Entry {
        name: "watch-10",
        about: "an endpoint's change in a plain watch of a real kube-apiserver -> first byte at FRR's socket, 10 Services",
        rounds: [150, 4],
        run: |rounds| kubernetes::share(10, rounds),
    },
    Entry {
        name: "watch-1k",
        about: "the same among 1000 Services with 10 000 endpoints",
        rounds: [150, 4],
        run: |rounds| kubernetes::share(1000, rounds),
    },
    Entry {
        name: "start-1k",
        about: "daemon started -> 1000 VIPs of a real kube-apiserver adopted; then its requests in a minute at rest",
        rounds: [7, 1],
        run: |rounds| kubernetes::start(1000, rounds),
    },
    Entry {
        name: "memory-manifests",
        about: "resident memory of the daemon, eBPF maps apart, with 10 000 Services and 100 000 endpoints in a manifests directory, all VIPs advertised",
        rounds: [10, 1],
        run: |rounds| memory::measure(memory::From::Manifests, rounds),
    },
    Entry {
        name: "memory-kubernetes",
        about: "the same from a real kube-apiserver",
        rounds: [10, 1],
        run: |rounds| memory::measure(memory::From::Kubernetes, rounds),
    },
    Entry {
        name: "view",
        about: "a scrape and its size with 10 000 VIPs, and the command `cosmolet status`",
        rounds: [50, 3],
        run: view::costs,
    },
    Entry {
        name: "looked-at",
        about: "the share while a Prometheus, a status page, `status --watch` and ten followers look, over the same while nobody does",
        rounds: [1280, 64],
        run: view::while_looked_at,
    },
    Entry {
        name: "peers-one",
        about: "one VIP, from the act to the UPDATE and to the route in the ToR's kernel: a vtysh process, frr-reload.py, GoBGP \
                and ExaBGP over cosmolet",
        rounds: [30, 2],
        run: |rounds| peers::measure(1, rounds),
    },
    Entry {
        name: "peers-1k",
        about: "the same with 1000 VIPs at once, and with one of them",
        rounds: [3, 1],
        run: |rounds| peers::measure(1000, rounds),
    },
    Entry {
        name: "peers-10k",
        about: "the same with 10 000 VIPs, by those that can do it within two minutes",
        rounds: [3, 1],
        run: |rounds| peers::measure(10_000, rounds),
    },
];
