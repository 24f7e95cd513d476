//! Names, addresses, ports and the immutable facts a node works from
