//! Routes between nodes
