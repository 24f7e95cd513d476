//! The loops of one node, its health and its metrics
