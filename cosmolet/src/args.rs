//! The command line exactly as typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

/// The configuration file that is read where none is named.
pub const DEFAULT_CONFIG: &str = "/etc/cosmolet/cosmolet.yaml";

/// Advertises Service VIPs from the nodes that can serve them.
#[derive(Clone, Debug, Parser)]
#[command(name = "cosmolet", version, about, long_about = LONG, after_help = AFTER, max_term_width = 110)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG: &str = "\
cosmolet runs on every node of a bare-metal Kubernetes cluster and answers one question for each Service VIP, all the
time: can this node serve it now? While the answer is yes, the VIP is on the loopback and FRR advertises its host
prefix. When Kubernetes or the traffic itself says no, it is gone from the fabric in milliseconds, with a reason.";

const AFTER: &str = "\
Examples:
  cosmolet check-config /etc/cosmolet/cosmolet.yaml   is the file right?
  cosmolet run --config /etc/cosmolet/cosmolet.yaml   run the daemon
  cosmolet status                                     which VIPs does this node advertise, and why not the others?
  cosmolet status -o json | jq '.vips[] | select(.state == \"withdrawn\")'

Exit codes: 0 all is well; 1 it failed; 2 the command line is wrong; for `status` also 3: some VIP is neither
advertised nor withdrawn as decided, or a part of the daemon is in trouble.";

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    Run {
        /// The configuration file. Any key can be overridden by a variable: bgp.asn by COSMOLET_BGP_ASN.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
    },
    /// Say whether a configuration file is right, and what it means.
    CheckConfig {
        /// The configuration file.
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
    },
    /// Show each VIP of this node: state, reason, mode, in RIB, traffic.
    Status {
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Print the completion script of a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// How `status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line for each VIP.
    Table,
    /// The JSON of /api/v1/status.
    Json,
}
