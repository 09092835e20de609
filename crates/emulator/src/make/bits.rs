//! Bits into bytes, the highest first.

#[derive(Debug, Default)]
pub(super) struct Bits {
    bytes: Vec<u8>,
    /// Bits of the last byte that are used; 0 when it is full.
    used: u32,
}

impl Bits {
    /// The low `count` bits of `value`.
    pub(super) fn put(&mut self, value: u32, count: u32) -> &mut Self {
        for nth in (0..count).rev() {
            if self.used == 0 {
                self.bytes.push(0);
            }
            if let Some(last) = self.bytes.last_mut() {
                *last |= (((value >> nth) & 1) as u8) << (7 - self.used);
            }
            self.used = (self.used + 1) % 8;
        }
        self
    }

    /// Exp-Golomb, unsigned (H.264 9.1).
    pub(super) fn ue(&mut self, value: u32) -> &mut Self {
        let bits = 32 - (value + 1).leading_zeros();
        self.put(0, bits - 1).put(value + 1, bits)
    }

    /// Exp-Golomb, signed.
    pub(super) fn se(&mut self, value: i32) -> &mut Self {
        let magnitude = value.unsigned_abs() * 2;
        self.ue(if value > 0 { magnitude - 1 } else { magnitude })
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> u32 {
        let whole = self.bytes.len() as u32 * 8;
        if self.used == 0 { whole } else { whole - 8 + self.used }
    }

    /// The bytes, the last filled up with zeros.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_and_golomb_codes() {
        let mut bits = Bits::default();
        bits.put(0b101, 3).ue(0).ue(3).se(1).se(-1).se(0);
        // 101 1 00100 010 011 1
        assert_eq!(bits.len(), 16);
        assert_eq!(bits.into_bytes(), [0b1011_0010, 0b0010_0111]);
    }
}
