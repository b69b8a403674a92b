//! Octets that are written piece by piece and wiped when dropped. A `Zeroizing<Vec>` alone leaves a copy behind
//! whenever it grows.

use std::io;

use zeroize::Zeroizing;

/// Grows like a `Vec`, and wipes what it moves away from.
pub(crate) struct WipedBuffer(Zeroizing<Vec<u8>>);

impl WipedBuffer {
    pub(crate) fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(4_096)))
    }

    pub(crate) fn octets(&self) -> &[u8] {
        &self.0
    }
}

impl io::Write for WipedBuffer {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let needed = self.0.len() + octets.len();
        if needed > self.0.capacity() {
            let mut larger = Zeroizing::new(Vec::with_capacity(needed.max(self.0.capacity() * 2)));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
        self.0.extend_from_slice(octets);
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn what_was_written_stays_in_order_while_it_grows() {
        let mut buffer = WipedBuffer::new();
        let piece = b"0123456789".repeat(50);
        for _ in 0..100 {
            buffer.write_all(&piece).unwrap();
        }
        assert_eq!(buffer.octets(), piece.repeat(100));
    }
}
