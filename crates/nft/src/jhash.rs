//! The kernel's `jhash`, so that whoever holds a table knows which number a packet gets without asking the kernel.
//!
//! Bob Jenkins' lookup3 as in `include/linux/jhash.h`. Like the kernel's it reads words in the machine's own byte order:
//! nodes of different endianness hash differently.

/// `jhash(bytes, bytes.len(), seed)`.
///
/// ```
/// assert_eq!(nft::jhash(b"Four score and seven years ago", 0), 0x1777_0551);
/// ```
#[must_use]
pub fn jhash(bytes: &[u8], seed: u32) -> u32 {
    let start = 0xdead_beef_u32.wrapping_add(bytes.len() as u32).wrapping_add(seed);
    let (mut a, mut b, mut c) = (start, start, start);
    let mut rest = bytes;
    while rest.len() > 12 {
        let (block, after) = rest.split_at(12);
        let word = |at: usize| {
            let four = block[at..at + 4].try_into();
            u32::from_ne_bytes(four.expect("invariant: four bytes of twelve"))
        };
        a = a.wrapping_add(word(0));
        b = b.wrapping_add(word(4));
        c = c.wrapping_add(word(8));
        (a, b, c) = mix(a, b, c);
        rest = after;
    }
    if rest.is_empty() {
        return c;
    }
    // The tail is read byte by byte, little end first on every machine.
    let mut tail = [0; 12];
    tail[..rest.len()].copy_from_slice(rest);
    let word = |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    finish(a.wrapping_add(word(0)), b.wrapping_add(word(4)), c.wrapping_add(word(8)))
}

/// The number `jhash … mod M` yields for a hash: the kernel multiplies and shifts (`reciprocal_scale`), it does not divide.
#[must_use]
pub fn jhash_scale(hash: u32, modulus: u32) -> u32 {
    ((u64::from(hash) * u64::from(modulus)) >> 32) as u32
}

/// `__jhash_mix`.
fn mix(mut a: u32, mut b: u32, mut c: u32) -> (u32, u32, u32) {
    let step = |x: &mut u32, y: &mut u32, z: u32, by: u32| {
        *x = x.wrapping_sub(*y) ^ y.rotate_left(by);
        *y = y.wrapping_add(z);
    };
    step(&mut a, &mut c, b, 4);
    step(&mut b, &mut a, c, 6);
    step(&mut c, &mut b, a, 8);
    step(&mut a, &mut c, b, 16);
    step(&mut b, &mut a, c, 19);
    step(&mut c, &mut b, a, 4);
    (a, b, c)
}

/// `__jhash_final`; the hash is the last word.
fn finish(mut a: u32, mut b: u32, mut c: u32) -> u32 {
    let step = |x: &mut u32, y: u32, by: u32| *x = (*x ^ y).wrapping_sub(y.rotate_left(by));
    step(&mut c, b, 14);
    step(&mut a, c, 11);
    step(&mut b, a, 25);
    step(&mut c, b, 16);
    step(&mut a, c, 4);
    step(&mut b, a, 14);
    step(&mut c, b, 24);
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The published vectors of lookup3 (`driver5`); the kernel's function is its `hashlittle`.
    #[test]
    fn the_published_vectors() {
        assert_eq!(jhash(b"", 0), 0xdead_beef);
        assert_eq!(jhash(b"", 0xdead_beef), 0xbd5b_7dde);
        assert_eq!(jhash(b"Four score and seven years ago", 0), 0x1777_0551);
        assert_eq!(jhash(b"Four score and seven years ago", 1), 0xcd62_8161);
    }

    #[test]
    fn numbers_are_scaled_not_divided() {
        assert_eq!(jhash_scale(u32::MAX, 251), 250);
        assert_eq!(jhash_scale(0, 251), 0);
        assert_eq!(jhash_scale(1 << 31, 10), 5);
    }
}
