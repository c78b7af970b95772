//! The command line of `kubectl cosmolet`, exactly as typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::{Output, StatusOutput};

/// Shows what cosmolet advertises on all nodes of a cluster, and drains them.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "kubectl-cosmolet",
    bin_name = "kubectl cosmolet",
    version,
    about,
    long_about = LONG,
    after_help = AFTER,
    max_term_width = 110
)]
pub struct Plugin {
    /// How the daemons are found.
    #[command(flatten)]
    pub reach: Reach,
    /// What to do.
    #[command(subcommand)]
    pub command: PluginCommand,
}

const LONG: &str = "\
It asks the daemon of every node, by port-forwards through the API server, and shows the cluster as one table. It needs
nothing on the nodes, and on the cluster no more rights than yours: to list pods, and get and create of pods/portforward,
in cosmolet's namespace; to drain also to get and patch nodes. What you lack is said.";

const AFTER: &str = "\
Examples:
  kubectl cosmolet status                        each node, and each VIP: who advertises it, and why others do not
  kubectl cosmolet status -o wide                a line for each VIP of each node
  kubectl cosmolet explain 10.50.0.7             everything about one VIP, node by node
  kubectl cosmolet explain 10.50.0.7 --node node1
  kubectl cosmolet drain node1 --wait            take every VIP off a node before maintenance
  kubectl cosmolet undrain node1                 its VIPs come back

Exit codes: 0 all is well; 1 it failed; 2 the command line is wrong; 3 it answered, but something is wrong.";

const AFTER_STATUS: &str = "\
Examples:
  kubectl cosmolet status --context rack7
  kubectl cosmolet status -o json | jq '.nodes[] | select(.error) | .node'
  kubectl cosmolet status > /dev/null || echo look here   for scripts

Exit codes: 0 all is as decided; 1 no daemon was asked; 2 the command line is wrong; 3 a daemon does not answer, or has
troubles (as `cosmolet status` there), or a VIP is advertised by no node.";

const AFTER_EXPLAIN: &str = "\
Examples:
  kubectl cosmolet explain 10.50.0.7
  kubectl cosmolet explain 2001:db8:50::7 --node node1 -o json | jq '.[].explain.would_change[]'

Exit codes: 0 explained; 1 no daemon knows the VIP; 2 the command line is wrong; 3 some daemons did not answer.";

const AFTER_DRAIN: &str = "\
Examples:
  kubectl cosmolet drain node1 --wait && ssh node1 reboot

The node gets the taint cosmolet.io/drain=:NoSchedule, which daemons follow (services.drain_taints); no pod is evicted.
`kubectl drain` is for those, after this.

Exit codes: 0 drained, and with --wait no VIP is left; 1 the node cannot be tainted, or its daemon does not answer;
2 the command line is wrong; 3 VIPs are left when the time is over.";

/// How the daemons are found.
#[derive(Clone, Debug, clap::Args)]
pub struct Reach {
    /// The kubeconfig file; KUBECONFIG or ~/.kube/config if none is named.
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; its current one if none is named.
    #[arg(long, global = true)]
    pub context: Option<String>,
    /// The namespace that cosmolet is installed in.
    #[arg(long, short, global = true, default_value = "cosmolet-system", env = "COSMOLET_NAMESPACE")]
    pub namespace: String,
    /// The label selector of the daemons' pods.
    #[arg(long, short = 'l', global = true, default_value = "app.kubernetes.io/name=cosmolet")]
    pub selector: String,
    /// How many seconds a daemon may take to answer.
    #[arg(long, global = true, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub patience: u64,
}

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum PluginCommand {
    /// Show every node, and every VIP: which nodes advertise it, and why the others do not.
    #[command(after_help = AFTER_STATUS)]
    Status {
        /// Ask this node only.
        #[arg(long)]
        node: Option<String>,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = StatusOutput::Table)]
        output: StatusOutput,
    },
    /// Say why a VIP is advertised or not, node by node, and what would change that.
    #[command(after_help = AFTER_EXPLAIN)]
    Explain {
        /// The VIP.
        vip: std::net::IpAddr,
        /// Ask this node only.
        #[arg(long)]
        node: Option<String>,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Take every VIP off a node, without a failed connection, until `undrain`.
    #[command(after_help = AFTER_DRAIN)]
    Drain {
        /// The node.
        node: String,
        /// Wait until the node carries no VIP any more, and say how far it is.
        #[arg(long)]
        wait: bool,
        /// How many seconds to wait at most.
        #[arg(long, default_value_t = 120, requires = "wait")]
        timeout: u64,
    },
    /// Bring a node back that was drained by `drain`.
    Undrain {
        /// The node.
        node: String,
    },
}
