//! nf_tables as typed values: text form, netlink form, listing, diff, and an in-memory double
