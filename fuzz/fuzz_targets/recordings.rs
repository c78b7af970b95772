//! Recordings: read to the end and replayed, whoever has written them.
#![no_main]

use cosmolet::recording::{Reader, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    let Ok(mut reader) = Reader::open(text) else { return };
    if let Ok(settings) = reader.header().settings.settings() {
        drop(replay::replay(&mut reader, settings, None));
    }
});
