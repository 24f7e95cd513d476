//! One container: its shim, its namespaces and root, its init, its log.

/// Must be the first call of `main`, before arguments are parsed or anything is started: plays the parts this binary
/// has inside containers (`lab container-shim …`, `lab container-exec …`, `lab image NAME …`, or a multi-call name such
/// as `nslookup` in `argv[0]`). Returns the exit code when it was such a call, `None` when `main` should go on.
pub fn early() -> Option<i32> {
    None
}
