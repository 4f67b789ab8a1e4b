//! The key of a response: a keyed 128-bit hash of what was asked.
//!
//! The hash is SipHash-1-3 (Aumasson and Bernstein, 2012) with a seed of the fleet, so that nobody outside can aim for
//! collisions; and should two requests collide all the same, the canonical text in the entry tells them apart.

use std::hash::Hasher;

use sha2::{Digest, Sha256};
use siphasher::sip128::{Hasher128, SipHasher13};

/// The hash of a request for one route's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key(pub u128);

/// Makes keys. One for each route: the route's fingerprint is hashed in beforehand.
#[derive(Clone)]
pub struct KeyMaker(SipHasher13);

impl KeyMaker {
    /// A key maker for a route in a namespace. The seed derives from the namespace, which is equal in a fleet and its
    /// failover origin, so that all of them find each other's entries.
    pub fn new(namespace: &str, fingerprint: &[u8; 16]) -> Self {
        let digest: [u8; 32] = Sha256::digest(format!("mainstay key seed:{namespace}")).into();
        let mut seed = [0; 16];
        seed.iter_mut().zip(digest).for_each(|(byte, digest)| *byte = digest);
        let mut hasher = SipHasher13::new_with_key(&seed);
        hasher.write(fingerprint);
        Self(hasher)
    }

    /// The key of a canonical text.
    pub fn key(&self, canonical: &[u8]) -> Key {
        let mut hasher = self.0;
        hasher.write(canonical);
        Key(hasher.finish128().as_u128())
    }
}

/// For maps whose keys are hashes already, so that hashing them again would only cost time.
#[derive(Default)]
pub struct HashIsKey(u64);

impl Hasher for HashIsKey {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            self.0 ^= u64::from(*byte) << (8 * (index % 8));
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn write_u128(&mut self, key: u128) {
        let (high, low) = (key >> 64, key & u128::from(u64::MAX));
        self.0 = u64::try_from(high).unwrap_or(0) ^ u64::try_from(low).unwrap_or(0);
    }
}
