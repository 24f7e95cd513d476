//! The program is linked at a fixed address. A container runtime starts it once per plugin and pod,
//! and moving a position-independent one of this size to where it was loaded touches a megabyte of
//! pointers: more than half of what such a short life takes (docs/decisions/0410-cni-plugins.md).

fn main() {
    println!("cargo:rustc-link-arg-bins=-no-pie");
    println!("cargo:rerun-if-changed=build.rs");
}
