//! ClusterIP and NodePort allocation.
