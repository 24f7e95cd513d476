//! Strategic merge and apply.
