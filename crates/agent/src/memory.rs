//! Keeping the process small: one malloc arena, and giving back what a full compile needed.
#![allow(unsafe_code, reason = "mallopt and malloc_trim are C functions without a safe wrapper")]

/// Limits malloc to one arena; call before other threads start.
pub(crate) fn one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and has no other precondition.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        // Large blocks go back to the kernel as soon as they are freed; the default threshold grows with use.
        libc::mallopt(libc::M_MMAP_THRESHOLD, 256 * 1024);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 512 * 1024);
    }
}

/// Gives free memory back to the kernel.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Resident memory in bytes; 0 where `/proc` does not say.
pub(crate) fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<i64>().ok());
    pages.unwrap_or(0) * 4096
}
