//! The configuration file: validated, or an error that can be shown.
#![no_main]

use cosmolet::config::Config;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text, |_| None, "node-1") {
        Ok(config) => assert!(!config.node_name.is_empty(), "a node without a name passed"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
