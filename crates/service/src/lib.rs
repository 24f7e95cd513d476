//! Services and EndpointSlices, seen from one node, as a constant nf_tables program and its elements
