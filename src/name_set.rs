//! Sets of names: which are taken, which come twice. A server may have thousands, and names are its own: nobody chooses
//! them so that they collide. So the hash is FNV-1a, a few instructions for a byte, and has no random keys, which a process
//! that has just started would have to ask the kernel for.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

/// Names, owned or borrowed.
pub type NameSet<T> = HashSet<T, BuildHasherDefault<Fnv>>;

/// <http://www.isthe.com/chongo/tech/comp/fnv/>, 64 bits.
pub struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn mix(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x0000_0100_0000_01b3);
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    /// The length, which comes before the bytes of a slice.
    fn write_usize(&mut self, length: usize) {
        self.mix(length as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_published_hash() {
        let hash = |bytes: &[u8]| {
            let mut fnv = Fnv::default();
            fnv.write(bytes);
            fnv.finish()
        };
        assert_eq!(hash(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(hash(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(hash(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn ten_thousand_names_of_a_kind_are_told_apart() {
        let names: NameSet<String> = (0..10_000).map(|n| format!("tcp://127.0.0.1:{n}")).collect();
        assert_eq!(names.len(), 10_000);
        assert!(names.contains("tcp://127.0.0.1:9999") && !names.contains("tcp://127.0.0.1:10000"));
    }
}
