//! Manifests, annotations included: read, projected, and the same again changes nothing.
#![no_main]

use cosmolet::kubernetes::project::{Projector, Selection, check_advertise, check_terminating};
use cosmolet::manifests::read_yaml;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = (check_advertise(text), check_terminating(text));
    let selection = Selection::new("node-1");
    match read_yaml(text.as_bytes(), &selection) {
        Err(problem) => assert!(!problem.reason.is_empty()),
        Ok(objects) => {
            let mut projector = Projector::new(selection);
            drop(projector.change(objects.clone()));
            let views: Vec<_> = projector.views().collect();
            drop(projector.change(objects));
            assert_eq!(views, projector.views().collect::<Vec<_>>(), "the same file again changed a Service");
        }
    }
});
