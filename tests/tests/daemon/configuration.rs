//! What an operator hears of a configuration that cannot work: key, value and rule, and exit code 1.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use cosmolet_tests::Lab;
use cosmolet_tests::daemon::{Daemon, binary};

const LISTEN: &str = "127.0.0.1:9470";

#[test]
fn quick_a_wrong_configuration_names_key_value_and_rule() -> Result<()> {
    let lab = Lab::new()?;
    let path = lab.directory().join("wrong.yaml");
    let cases: [(&str, &[&str]); 9] = [
        ("bpg:\n  enabled: true\n", &["bpg", "unknown field"]),
        ("bgp:\n  asnumber: 1\n", &["bgp.asnumber", "unknown field"]),
        ("bgp:\n  asn: many\n", &["bgp.asn", "many", "u32"]),
        ("traffic:\n  mode: guess\n", &["traffic.mode", "guess", "enforce"]),
        ("services:\n  vip_ranges: [10.0.0.0/33]\n", &["services.vip_ranges[0]", "10.0.0.0/33", "must be a prefix"]),
        ("loopback:\n  lease_seconds: 1\n", &["loopback.lease_seconds", "\"1\"", "3 to 86400"]),
        ("http:\n  listen: localhost\n", &["http.listen", "localhost", "an address and a port"]),
        ("services:\n  types: [ExternalIP]\n", &["services.types", "ExternalIP", "services.vip_ranges"]),
        ("- a\n", &["not a YAML mapping"]),
    ];
    for (text, words) in cases {
        std::fs::write(&path, text)?;
        for command in ["run", "check-config"] {
            let mut program = Command::new(binary()?);
            program.arg(command);
            if command == "run" {
                program.arg("--config");
            }
            let output = program.arg(&path).env("NODE_NAME", "node1").output()?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
            ensure!(output.status.code() == Some(1), "{command} of {text:?} ended with {}: {said}", output.status);
            for word in words {
                ensure!(said.contains(word), "{command} of {text:?} does not say {word:?}: {said}");
            }
        }
    }
    let output = Command::new(binary()?).args(["run", "--config", "/nonexistent/cosmolet.yaml"]).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("/nonexistent/cosmolet.yaml"), "{said}");
    Ok(())
}

#[test]
fn quick_a_listener_address_in_use_ends_the_daemon_with_its_name() -> Result<()> {
    let lab = Lab::new()?;
    let netns = std::sync::Arc::new(lab.netns("node")?);
    let taken = netns.run(|| std::net::TcpListener::bind(LISTEN))??;
    let manifests = lab.subdirectory("manifests")?;
    let config = format!("services:\n  manifests: {}\nhttp:\n  listen: {LISTEN}\n", manifests.display());
    let mut daemon = Daemon::prepare(&lab, &netns, "node1", &config, LISTEN.parse()?, &[])?;
    daemon.launch()?;
    let status = daemon.wait_end(Duration::from_secs(10))?;
    let log = daemon.log()?;
    ensure!(status.code() == Some(1), "it ended with {status}: {log}");
    ensure!(log.contains("http.listen: 127.0.0.1:9470") && log.contains("in use"), "{log}");
    drop(taken);
    Ok(())
}
