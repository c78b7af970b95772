//! cosmolet.
fn main() {}
