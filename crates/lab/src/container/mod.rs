//! One container: its shim, its namespaces and root, its init, its log.
//!
//! ```text
//! runner ──spawn──▶ shim (host namespaces; owns the log, stdio, the exit status; outlives the runner)
//!                     └─clone(NEWPID|NEWNS|NEWUTS|NEWIPC)─▶ init (pid 1: mounts, reaps, forwards signals)
//!                                                             └─fork/exec─▶ the container's program
//! runner ──spawn──▶ container-exec (joins the container's namespaces) ─▶ a probe's, hook's or `kubectl exec`'s command
//! ```
//! Every mount lives in the container's own mount namespace and goes away with its processes. The network namespace is
//! the pod's and is entered by the shim; it is made by `runner::netns`.
//!
//! | module | room |
//! |---|---|
//! | [`spec`] | what a container is, and the files that say how it is doing |
//! | [`process`] | edge: a process by pid and start time |
//! | [`sys`] | edge: the system calls, the only `unsafe` |
//! | [`rootfs`], [`init`], [`shim`], [`exec`] | edges: the four parts this binary plays |
//! | [`log`], [`attach`] | the log format and the attach protocol |

pub mod attach;
pub mod exec;
pub mod init;
pub mod log;
pub mod process;
pub mod rootfs;
pub mod shim;
pub mod spec;
pub mod sys;

use std::path::Path;

/// Must be the first call of `main`, before arguments are parsed or anything is started: plays the parts this binary
/// has inside containers (`lab container-shim …`, `lab container-exec …`, `lab image NAME …`, or a multi-call name such
/// as `nslookup` in `argv[0]`). Returns the exit code when it was such a call, `None` when `main` should go on.
pub fn early() -> Option<i32> {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    dispatch(&args)
}

/// [`early`] for the given arguments.
pub fn dispatch(args: &[String]) -> Option<i32> {
    let name = Path::new(args.first()?).file_name()?.to_string_lossy().into_owned();
    if crate::images::is_program(&name) {
        return Some(crate::images::run(&name, &args[1..]));
    }
    match (args.get(1).map(String::as_str), args.get(2).map(String::as_str)) {
        (Some("lab"), Some("container-shim")) => Some(shim::main(&args[3..])),
        (Some("lab"), Some("container-exec")) => Some(exec::main(&args[3..])),
        (Some("lab"), Some("image")) => {
            let name = args.get(3).map_or("", String::as_str);
            Some(crate::images::run(name, args.get(4..).unwrap_or_default()))
        }
        _ => None,
    }
}
