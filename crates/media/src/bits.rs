//! Bits of a header, most significant first, and the two fields of an `AudioSpecificConfig` that more
//! than one place reads.

/// A position in a run of bits.
pub(crate) struct Bits<'a> {
    pub(crate) bytes: &'a [u8],
    /// The next bit.
    pub(crate) at: usize,
}

impl<'a> Bits<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Up to 32 bits; `None` past the end.
    pub(crate) fn take(&mut self, width: usize) -> Option<u32> {
        let mut value = 0;
        for _ in 0..width {
            let byte = self.bytes.get(self.at / 8)?;
            value = (value << 1) | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Some(value)
    }

    /// An audio object type (ISO 14496-3 §1.6.2.1); 31 is an escape.
    pub(crate) fn aac_object_type(&mut self) -> Option<u32> {
        match self.take(5)? {
            31 => Some(32 + self.take(6)?),
            object => Some(object),
        }
    }

    /// A sampling frequency (ISO 14496-3 §1.6.3.4): its index and the rate in Hz. Index 15 is
    /// followed by the rate itself.
    pub(crate) fn aac_rate(&mut self) -> Option<(u32, u32)> {
        const RATES_HZ: [u32; 13] = [
            96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
            8000, 7350,
        ];
        match self.take(4)? {
            15 => Some((15, self.take(24)?)),
            index => Some((index, *RATES_HZ.get(index as usize)?)),
        }
    }
}
