//! cosmolet's tasks.

use clap::Parser;

mod build_ebpf;

#[derive(Parser)]
enum Task {
    /// Compile the eBPF programs
    BuildEbpf(build_ebpf::Options),
}

fn main() -> anyhow::Result<()> {
    match Task::parse() {
        Task::BuildEbpf(options) => build_ebpf::run(&options),
    }
}
