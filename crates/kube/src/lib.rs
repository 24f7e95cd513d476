//! Watches of a Kubernetes API turned into a Snapshot; statuses and leases written back
