//! The CNI plugin: one pod joined to its node
