//! The kernel's wire form of a key or a datum, inline and without a heap: every component padded to 4 bytes.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A concatenation of field values as nf_tables stores it in registers, at most 40 bytes, `Copy`.
///
/// ```
/// use nft::Packed;
/// let key = Packed::new().ipv4([10, 96, 0, 1].into()).proto(6).port(80);
/// assert_eq!(key.as_bytes(), [10, 96, 0, 1, 6, 0, 0, 0, 0, 80, 0, 0]);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Packed {
    bytes: [u8; Packed::MAX],
    len: u8,
}

impl Packed {
    /// The longest key: two IPv6 addresses, a protocol and a port.
    pub const MAX: usize = 40;

    /// The empty concatenation.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: [0; Self::MAX], len: 0 }
    }

    /// The value whose wire form is `bytes`; `None` when that is longer than [`Packed::MAX`].
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let mut packed = Self::new();
        packed.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        packed.len = bytes.len() as u8;
        Some(packed)
    }

    /// Appends a component, padded to a multiple of 4 bytes.
    ///
    /// # Panics
    /// When the whole would be longer than [`Packed::MAX`]: the components are chosen by the program, not by data.
    #[must_use]
    pub fn raw(mut self, component: &[u8]) -> Self {
        let start = usize::from(self.len);
        let end = start + component.len().next_multiple_of(4);
        assert!(end <= Self::MAX, "a concatenation of {end} bytes, at most {} fit", Self::MAX);
        self.bytes[start..start + component.len()].copy_from_slice(component);
        self.len = end as u8;
        self
    }

    /// Appends an IPv4 address.
    #[must_use]
    pub fn ipv4(self, address: Ipv4Addr) -> Self {
        self.raw(&address.octets())
    }

    /// Appends an IPv6 address.
    #[must_use]
    pub fn ipv6(self, address: Ipv6Addr) -> Self {
        self.raw(&address.octets())
    }

    /// Appends an IP protocol number (6 TCP, 17 UDP, 132 SCTP), or any other one-byte field.
    #[must_use]
    pub fn proto(self, number: u8) -> Self {
        self.raw(&[number])
    }

    /// Appends a port.
    #[must_use]
    pub fn port(self, port: u16) -> Self {
        self.raw(&port.to_be_bytes())
    }

    /// Appends a slot number: what `numgen` and `jhash` put in a register (host byte order).
    #[must_use]
    pub fn index(self, index: u32) -> Self {
        self.raw(&index.to_ne_bytes())
    }

    /// Appends a packet or connection mark (host byte order).
    #[must_use]
    pub fn mark(self, mark: u32) -> Self {
        self.raw(&mark.to_ne_bytes())
    }

    /// Appends an interface name (16 bytes, NUL padded); a longer name is cut to 15 bytes as the kernel does.
    #[must_use]
    pub fn ifname(self, name: &str) -> Self {
        let mut bytes = [0; 16];
        let length = name.len().min(15);
        bytes[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.raw(&bytes)
    }

    /// Appends all components of another value.
    #[must_use]
    pub fn then(self, other: &Self) -> Self {
        self.raw(other.as_bytes())
    }

    /// The wire form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Length of the wire form in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        usize::from(self.len)
    }

    /// Whether nothing was appended yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// This value with every bit below the first `prefix` ones set to one: the last address of a CIDR.
    #[must_use]
    pub fn last_of_prefix(mut self, prefix: u32) -> Self {
        for bit in prefix as usize..self.len() * 8 {
            self.bytes[bit / 8] |= 0x80 >> (bit % 8);
        }
        self
    }
}

impl Default for Packed {
    fn default() -> Self {
        Self::new()
    }
}

impl Ord for Packed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

impl PartialOrd for Packed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0x")?;
        for (at, byte) in self.as_bytes().iter().enumerate() {
            if at > 0 && at % 4 == 0 {
                f.write_str(".")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}
