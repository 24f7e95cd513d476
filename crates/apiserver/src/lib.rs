//! The embedded Kubernetes API: generic over kinds, faithful in what it serves
