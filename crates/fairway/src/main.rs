//! fairway: arguments to one call.
fn main() {}
