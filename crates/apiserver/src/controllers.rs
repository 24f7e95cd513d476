//! The controllers of the embedded control plane.
