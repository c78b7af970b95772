//! The command line exactly as typed.

pub mod kubectl;

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
  cosmolet explain 10.50.0.7                          everything about one of them
  cosmolet events --follow                            which VIPs come and go, and why
  cosmolet record --seconds 300 > node1.jsonl         what the rule is told, to replay with other settings
  cosmolet drain --wait                               take every VIP off this node before maintenance
  cosmolet doctor                                     what is wrong with FRR or the node, and the fix
  cosmolet bundle                                     all that an issue wants to know, in one archive

Exit codes: 0 all is well; 1 it failed; 2 the command line is wrong; for `status` also 3: the daemon answers, but
something is wrong; for `replay` 3: it decides otherwise.";

const AFTER_RUN: &str = "\
Examples:
  cosmolet run                                               read /etc/cosmolet/cosmolet.yaml
  COSMOLET_LOGGING_LEVEL=debug cosmolet run -c ./test.yaml   the same with one key overridden
  RUST_LOG=warn,cosmolet::frr=trace cosmolet run             the log of one module in full

SIGTERM and SIGINT end it: with bgp.on_exit: keep the VIPs stay until their lease ends, so that an upgrade moves no
route; with withdraw they leave first. It needs CAP_NET_ADMIN for the loopback, the group frrvty for FRR, CAP_BPF and
CAP_PERFMON for counting traffic; without these two it decides by the control plane alone.

Exit codes: 0 ended by a signal; 1 the configuration is wrong or it could not start; 2 the command line is wrong.";

const AFTER_CHECK_CONFIG: &str = "\
Examples:
  cosmolet check-config ./cosmolet.yaml                       errors name the key, the value and the rule
  COSMOLET_BGP_ASN=65001 cosmolet check-config ./cosmolet.yaml   with variables, as the daemon would see them
  cosmolet check-config --keys                                every key there is

Nothing is changed and nobody is asked: neither FRR nor Kubernetes need to be there.

Exit codes: 0 it is right (warnings go to standard error); 1 it is wrong; 2 the command line is wrong.";

const AFTER_STATUS: &str = "\
Examples:
  cosmolet status                                 a line for each VIP; what is wrong stands above them, after a !
  cosmolet status -o wide --watch                 more of each, anew every second
  cosmolet status --server 10.0.0.7:9470          another node's daemon
  cosmolet status -o json | jq '.vips[] | select(.state == \"withdrawn\") | {vip, reason}'
  cosmolet status > /dev/null || echo look here   for scripts

States: undecided (before everything was read once), pending, advertised, depreferred (the last resort), withdrawing,
withdrawn, refused (it may not be advertised at all). TRAFFIC counts both directions since the daemon's start; RST are
those that clients did not make.

Exit codes: 0 all is as decided; 1 no daemon answers; 2 the command line is wrong; 3 it answers, but something is wrong:
a VIP pending for more than 5 s, a BGP session down, Services not readable, traffic not counted, an annotation
that is ignored.";

const AFTER_TOP: &str = "\
Examples:
  cosmolet top                                         this node's VIPs, those with the most handshakes first
  cosmolet top --server 10.0.0.7:9470                  another node's
  kubectl -n cosmolet-system exec -it POD -- cosmolet top

Keys: arrows move, Enter tells why a VIP is as it is, s sorts by something else, / searches, ? helps, q leaves. A daemon
that is away is asked again each second. Colours are left out where NO_COLOR is set.

Exit codes: 0 left; 1 there is no terminal; 2 the command line is wrong.";

const AFTER_EXPLAIN: &str = "\
Examples:
  cosmolet explain 10.50.0.7                           why is it advertised, or why not?
  cosmolet explain 2001:db8:50::7 --server 10.0.0.7:9470   ask another node's daemon
  cosmolet explain 10.50.0.7 -o json | jq '.would_change[]'

It shows each input with its age, the votes beside their thresholds, and the last decisions. The traffic's words:
unknown (no handshake is followed), blind (answers take another way), unproven (no probe has passed), clear, suspect,
convicted, trial; docs/traffic-verdict.md explains the rule.

Exit codes: 0 explained; 1 no daemon answers, or it does not know the VIP; 2 the command line is wrong.";

const AFTER_EVENTS: &str = "\
Examples:
  cosmolet events                                      the last 256 decisions of this node's daemon
  cosmolet events --follow                             and those to come, as they happen
  cosmolet events -f -o json | jq 'select(.to == \"withdraw\")'

Exit codes: 0 shown; 1 no daemon answers; 2 the command line is wrong.";

const AFTER_RECORD: &str = "\
Examples:
  cosmolet record --seconds 300 > node1.jsonl          five minutes of this node
  cosmolet record -o node1.jsonl                       until Ctrl-C
  kubectl -n cosmolet-system exec POD -- cosmolet record --seconds 300 > node1.jsonl
  cosmolet record --seconds 300 | cosmolet replay - --set traffic.rule.threshold=20

Recorded are Services, endpoints, the node and its pods, each second's counts by port, probes, what other nodes answer,
and every decision; what the kernel and FRR hold is not. It has no secrets, but names and addresses of the cluster.
Begin a minute before what matters: the rule's scores and convictions of that moment are not recorded.

A reader that is too slow is not waited for: what it missed is counted in the recording. Four may record at a time.

Exit codes: 0 recorded; 1 no daemon answers, it went away, or the file cannot be written; 2 the command line is wrong.";

const AFTER_REPLAY: &str = "\
Examples:
  cosmolet replay node1.jsonl                          does this version decide as the daemon did?
  cosmolet replay node1.jsonl --set traffic.rule.threshold=20 --set traffic.rule.cap=30
  cosmolet replay node1.jsonl --set traffic.mode=enforce   what would have been withdrawn?
  cosmolet replay node1.jsonl --config ./cosmolet.yaml     and with this file?
  cosmolet replay node1.jsonl --vip 10.50.0.7          the score and the verdict of one VIP, second by second
  cosmolet replay - -o json < node1.jsonl | jq '.decisions[] | select(.found != \"as_recorded\")'

Each decision of the replay stands beside the recorded one: `as recorded`, `new`, `did not happen`, or by how much it
came sooner or later. --set takes traffic.rule.KEY, traffic.mode, traffic.prove_seconds and
services.restart_hold_seconds.

Every step of a plan is taken to succeed, and nothing is answered that was not recorded: with other settings the probes
are still those that the recorded settings asked for. The rule begins without memory: what was suspect or withdrawn
when the recording began is not so in the replay. docs/replay.md tells more.

Exit codes: 0 all decisions are alike; 1 the recording or a setting is wrong; 2 the command line is wrong; 3 some
differ.";

const AFTER_DRAIN: &str = "\
Examples:
  cosmolet drain --wait && reboot                     maintenance: nobody notices
  cosmolet drain --reason 'memory is replaced'        the reason stands in the file
  cosmolet undrain                                    the VIPs come back
  kubectl taint node NODE cosmolet.io/drain=:NoSchedule   the same in Kubernetes (services.drain_taints)

In Dynamic mode the VIPs get the community graceful-shutdown first (RFC 8326): peers move to other nodes, while this one
still answers. Each is withdrawn once its traffic is gone, after bgp.drain_seconds at the latest. In Connected mode they
are withdrawn at once. The drain outlives the daemon, and a reboot where the file does.

Exit codes: 0 drained, and with --wait no VIP is left; 1 the file cannot be made, or no daemon answers; 2 the command
line is wrong; 3 VIPs are left when the time is over.";

const AFTER_DOCTOR: &str = "\
Examples:
  cosmolet doctor                                      on a node, beside the daemon or before there is one
  cosmolet doctor --config ./cosmolet.yaml             FRR's sockets and what is wanted, from this file
  cosmolet doctor -o json | jq '.[] | select(.verdict == \"wrong\") | {check, seen, fix}'
  cosmolet doctor --list                               every check, and why it matters

It asks FRR, the kernel and the daemon, and changes nothing. Run it as the daemon's user to see what that one may do.

Exit codes: 0 all is well; 1 it failed; 2 the command line is wrong; 3 something is wrong; 4 there is advice, or
something could not be looked at.";

const AFTER_METRICS: &str = "\
Examples:
  cosmolet metrics                                     all of them
  cosmolet metrics followed                            what does cosmolet_vip_followed_total count?
  curl -s 127.0.0.1:9470/metrics                       what they are now

Exit codes: 0 printed; 1 no metric has such a name; 2 the command line is wrong.";

const AFTER_BUNDLE: &str = "\
Examples:
  cosmolet bundle                                      cosmolet-NODE-TIME.tar.gz, to go with an issue
  kubectl -n cosmolet-system exec POD -- cosmolet bundle - > node1.tar.gz
  cosmolet bundle - | tar tz                           what is in it

Status, decisions, metrics, configuration, the doctor's findings, FRR's view (passwords left out) and kernel facts. It
has no secrets, but names and addresses of the cluster. What cannot be had is said in missing.txt.

Exit codes: 0 written; 1 it cannot be written; 2 the command line is wrong.";

const AFTER_COMPLETION: &str = "\
Examples:
  cosmolet completion bash > /etc/bash_completion.d/cosmolet
  cosmolet completion zsh > \"${fpath[1]}/_cosmolet\"
  cosmolet completion fish > ~/.config/fish/completions/cosmolet.fish

Exit codes: 0 printed; 1 it could not be written; 2 there is no such shell.";

const AFTER_MAN: &str = "\
Examples:
  cosmolet man /usr/local/share/man/man1    cosmolet.1, and one for each command, such as cosmolet-status.1
  cosmolet man man && man man/cosmolet.1

Exit codes: 0 written; 1 they could not be written; 2 the command line is wrong.";

/// The commands.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    #[command(after_help = AFTER_RUN)]
    Run {
        /// The configuration file
        ///
        /// Any key can be overridden by a variable: bgp.asn by COSMOLET_BGP_ASN.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
    },
    /// Say whether a configuration file is right, and what it means.
    #[command(after_help = AFTER_CHECK_CONFIG)]
    CheckConfig {
        /// The configuration file.
        #[arg(default_value = DEFAULT_CONFIG)]
        file: PathBuf,
        /// Print every key instead: type, default, meaning, rule and variable
        #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "text", conflicts_with = "file")]
        keys: Option<Reference>,
    },
    /// Show each VIP of this node: state, reason, mode, in RIB, traffic.
    #[command(after_help = AFTER_STATUS)]
    Status {
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = StatusOutput::Table)]
        output: StatusOutput,
        /// Show it anew each second, until Ctrl-C; over restarts of the daemon too.
        #[arg(long, short)]
        watch: bool,
    },
    /// Watch this node's VIPs in the terminal: handshakes, refusals, states, and why.
    #[command(after_help = AFTER_TOP)]
    Top {
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
    },
    /// Say why a VIP is advertised or not, and what would change that.
    #[command(after_help = AFTER_EXPLAIN)]
    Explain {
        /// The VIP.
        vip: std::net::IpAddr,
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Show the last decisions: which VIPs came and went, when and why.
    #[command(after_help = AFTER_EVENTS)]
    Events {
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// Go on with those to come, until Ctrl-C; over restarts of the daemon too.
        #[arg(long, short)]
        follow: bool,
        /// How to print it: JSON is one object a line.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Record what the traffic verdict is told and what it decides, a JSON object a line.
    #[command(after_help = AFTER_RECORD)]
    Record {
        /// For how many seconds; until Ctrl-C if none is given.
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
        /// Where to write it; standard output if none is named.
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Where the daemon listens (http.listen).
        #[arg(long, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
    },
    /// Replay a recording, with the recorded settings or others, and say which decisions differ.
    #[command(after_help = AFTER_REPLAY)]
    Replay {
        /// The recording; `-` is standard input.
        file: PathBuf,
        /// Settings from a configuration file instead of the recorded ones.
        #[arg(long, short)]
        config: Option<PathBuf>,
        /// One setting instead, such as traffic.rule.threshold=20; may be repeated.
        #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
        set: Vec<(String, String)>,
        /// Only this VIP, with the course of its verdict.
        #[arg(long)]
        vip: Option<std::net::IpAddr>,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
    },
    /// Look for what operators get wrong in FRR, the kernel and the daemon, and say how to mend it.
    #[command(after_help = AFTER_DOCTOR)]
    Doctor {
        /// The daemon's configuration file.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Output::Table)]
        output: Output,
        /// Print every check there is, and why it matters, instead
        #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "text")]
        list: Option<Reference>,
    },
    /// Take every VIP off this node, without a failed connection, until `undrain`.
    #[command(after_help = AFTER_DRAIN)]
    Drain {
        /// The daemon's configuration file
        ///
        /// Its services.drain_file names the file that drains.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
        /// Why, for whoever finds the file.
        #[arg(long, default_value = "cosmolet drain")]
        reason: String,
        /// Wait until the node carries no VIP any more, and say how far it is.
        #[arg(long)]
        wait: bool,
        /// How many seconds to wait at most.
        #[arg(long, default_value_t = 120, requires = "wait")]
        timeout: u64,
    },
    /// Bring a node back that was drained.
    Undrain {
        /// The daemon's configuration file
        ///
        /// Its services.drain_file names the file that drains.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
    },
    /// Print what every metric means, with a query to begin with.
    #[command(after_help = AFTER_METRICS)]
    Metrics {
        /// Only those whose names have this word in them.
        #[arg(default_value = "", hide_default_value = true)]
        word: String,
        /// How to print it.
        #[arg(long, short, value_enum, default_value_t = Reference::Text, conflicts_with = "word")]
        output: Reference,
    },
    /// Gather status, configuration, FRR's view and kernel facts into one archive for an issue.
    #[command(after_help = AFTER_BUNDLE)]
    Bundle {
        /// The archive; `-` is standard output; cosmolet-NODE-TIME.tar.gz if none is named.
        file: Option<PathBuf>,
        /// The daemon's configuration file.
        #[arg(long, short, default_value = DEFAULT_CONFIG, env = "COSMOLET_CONFIG")]
        config: PathBuf,
        /// Where the daemon listens (http.listen).
        #[arg(long, short, default_value = "127.0.0.1:9470", env = "COSMOLET_SERVER")]
        server: String,
    },
    /// Print the completion script of a shell.
    #[command(after_help = AFTER_COMPLETION)]
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write the man pages.
    #[command(after_help = AFTER_MAN)]
    Man {
        /// Where to write them; it is made if it is not there.
        directory: PathBuf,
    },
}

/// How a reference is printed: of the checks, the keys, the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Reference {
    /// For a terminal.
    Text,
    /// The table of the page in docs/.
    Markdown,
}

/// How `status` prints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StatusOutput {
    /// For a person.
    Table,
    /// The same with what the kernel and FRR hold, the lease, the verdict of the traffic and the last probe.
    Wide,
    /// The JSON of /api/v1/status.
    Json,
    /// The same as YAML.
    Yaml,
}

/// How `explain`, `events`, `replay` and `doctor` print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For a person.
    Table,
    /// JSON, as below /api/v1.
    Json,
}

fn setting(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').ok_or("it is not written KEY=VALUE, such as traffic.rule.threshold=20")?;
    Ok((parts.0.to_owned(), parts.1.to_owned()))
}
