//! What runner and shim say to each other over `attach.sock`: frames of one kind byte, a big-endian u32 length and that
//! many bytes. Towards the runner: output. Towards the shim: input, its end, terminal size.

/// Longest payload taken; a longer one ends the connection.
pub const MAX_FRAME: usize = 1 << 20;
const HEADER: usize = 5;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes for the program's stdin.
    Stdin(Vec<u8>),
    /// Bytes the program wrote to stdout (or its terminal).
    Stdout(Vec<u8>),
    /// Bytes the program wrote to stderr.
    Stderr(Vec<u8>),
    /// No more stdin from this client.
    CloseStdin,
    /// The terminal's size in characters.
    Resize {
        /// Columns.
        width: u16,
        /// Rows.
        height: u16,
    },
}

impl Frame {
    /// The frame as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload): (u8, Vec<u8>) = match self {
            Frame::Stdin(bytes) => (0, bytes.clone()),
            Frame::Stdout(bytes) => (1, bytes.clone()),
            Frame::Stderr(bytes) => (2, bytes.clone()),
            Frame::CloseStdin => (3, Vec::new()),
            Frame::Resize { width, height } => {
                (4, [width.to_be_bytes(), height.to_be_bytes()].concat())
            }
        };
        let mut out = Vec::with_capacity(HEADER + payload.len());
        out.push(kind);
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes());
        out.extend_from_slice(&payload);
        out
    }
}

/// The other side broke the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("attach frame of kind {kind} and length {len} is not one of the protocol")]
pub struct BadFrame {
    /// The kind byte.
    pub kind: u8,
    /// The length field.
    pub len: usize,
}

/// Takes the first whole frame out of `buffer`; `None` when more bytes are needed.
///
/// # Errors
/// An unknown kind or an impossible length.
pub fn decode(buffer: &mut Vec<u8>) -> Result<Option<Frame>, BadFrame> {
    let Some(header) = buffer.first_chunk::<HEADER>() else { return Ok(None) };
    let [kind, len @ ..] = *header;
    let len = u32::from_be_bytes(len) as usize;
    if len > MAX_FRAME || kind > 4 || (kind == 4 && len != 4) {
        return Err(BadFrame { kind, len });
    }
    if buffer.len() < HEADER + len {
        return Ok(None);
    }
    let rest = buffer.split_off(HEADER + len);
    let payload = std::mem::replace(buffer, rest).split_off(HEADER);
    Ok(Some(match (kind, payload.as_slice()) {
        (0, _) => Frame::Stdin(payload),
        (1, _) => Frame::Stdout(payload),
        (2, _) => Frame::Stderr(payload),
        (4, &[a, b, c, d]) => {
            Frame::Resize { width: u16::from_be_bytes([a, b]), height: u16::from_be_bytes([c, d]) }
        }
        _ => Frame::CloseStdin,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let frames = [
            Frame::Stdin(b"ls\n".to_vec()),
            Frame::Resize { width: 80, height: 24 },
            Frame::CloseStdin,
            Frame::Stdout(vec![]),
            Frame::Stderr(vec![7; 300]),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(Frame::encode).collect();
        let mut got = Vec::new();
        let mut buffer = Vec::new();
        for byte in bytes {
            buffer.push(byte);
            while let Some(frame) = decode(&mut buffer).unwrap() {
                got.push(frame);
            }
        }
        assert_eq!(got, frames);
    }

    #[test]
    fn nonsense_is_refused_not_buffered() {
        assert!(decode(&mut vec![0, 255, 255, 255, 255]).is_err());
        assert!(decode(&mut vec![9, 0, 0, 0, 0]).is_err());
        assert!(decode(&mut vec![4, 0, 0, 0, 1, 0]).is_err());
    }
}
