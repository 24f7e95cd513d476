//! The program is linked at a fixed address. A container runtime starts it once per plugin and pod,
//! and moving a position-independent one of this size to where it was loaded touches a megabyte of
//! pointers: more than half of what such a short life takes (docs/decisions/0410-cni-plugins.md).
//!
//! A static one is told so by rustc's `relocation-model` (deploy/README.md): with this flag alone it
//! would begin with the start files of a position-independent one, and end there.

fn main() {
    let features = std::env::var("CARGO_CFG_TARGET_FEATURE").unwrap_or_default();
    if !features.split(',').any(|feature| feature == "crt-static") {
        println!("cargo:rustc-link-arg-bins=-no-pie");
    }
    println!("cargo:rerun-if-changed=build.rs");
}
