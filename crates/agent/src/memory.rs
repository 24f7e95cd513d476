//! Keeping the process small: one malloc arena, and giving back what starting and a full compile needed.
#![allow(
    unsafe_code,
    reason = "mallopt, malloc_trim and madvise are C functions without a safe wrapper"
)]

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

/// Gives free memory back to the kernel, and the pages of code that ran once: what runs again is mapped again from the
/// page cache, a page at a time.
pub(crate) fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim has no precondition.
    unsafe {
        libc::malloc_trim(0);
    }
    for (start, length) in code(&std::fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        // SAFETY: the range is a private mapping of a file with no writable page, so its content comes back from the
        // file unchanged; an outdated range is refused with ENOMEM, which leaves things as they were.
        unsafe {
            libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
}

/// The executable mappings of files in the text of `/proc/self/maps`: start and length. Never a mapping that relocation
/// wrote to: those are readable only.
fn code(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next()?, words.next()?);
        let file = words.nth(3)?;
        let (start, end) = range.split_once('-')?;
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (rights == "r-xp" && file.starts_with('/')).then(|| (start, end.saturating_sub(start)))
    })
}

/// Resident memory in bytes; 0 where `/proc` does not say.
pub(crate) fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<i64>().ok());
    pages.unwrap_or(0) * 4096
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_code_of_files_is_given_back() {
        let maps = "55d0a0000000-55d0a0100000 r--p 00000000 fe:00 12 /usr/bin/fairway\n\
                    55d0a0100000-55d0a0900000 r-xp 00100000 fe:00 12 /usr/bin/fairway\n\
                    55d0a0900000-55d0a0a00000 rw-p 00900000 fe:00 12 /usr/bin/fairway\n\
                    7f0000000000-7f0000001000 r-xp 00000000 00:00 0\n\
                    7ffc00000000-7ffc00001000 r-xp 00000000 00:00 0 [vdso]\n";
        assert_eq!(super::code(maps).collect::<Vec<_>>(), [(0x55d0_a010_0000, 0x80_0000)]);
        super::trim(); // and the process goes on
        assert!(super::resident() > 0);
    }
}
