// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The IDE extended capability (PCIe 6.0, 7.9.26).

/// What a port can do: the IDE Capability register, the first that `QUERY_RESP` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// Selective streams are supported.
    pub selective: bool,
    /// Keys can be programmed by IDE_KM messages.
    pub key_management: bool,
    /// AES-GCM with 256-bit keys and 96-bit MAC is supported.
    pub aes_gcm_256: bool,
    /// TEE-limited streams are supported.
    pub tee_limited: bool,
}

impl Capability {
    /// Decodes the register.
    #[must_use]
    pub const fn decode(register: u32) -> Self {
        let [flags, algorithm, _, high] = register.to_le_bytes();
        Self {
            selective: flags & 1 << 1 != 0,
            key_management: flags & 1 << 6 != 0,
            aes_gcm_256: algorithm & 0x1f == 0,
            tee_limited: high & 1 != 0,
        }
    }

    /// Returns whether the port takes keys as this crate hands them out.
    #[must_use]
    pub const fn takes_keys(&self) -> bool {
        self.key_management && self.aes_gcm_256
    }
}

#[cfg(test)]
mod tests {
    use super::Capability;

    #[test]
    fn keys_go_to_ports_with_key_management_and_a_known_cipher_only() {
        assert!(Capability::decode(0x0000_0042).takes_keys());
        assert!(!Capability::decode(0x0000_0002).takes_keys());
        assert!(!Capability::decode(0x0000_0142).takes_keys());
    }

    #[test]
    fn each_bit_is_where_the_register_has_it() {
        let capability = Capability::decode(0x0100_0002);
        assert!(capability.selective && capability.tee_limited);
        assert!(!capability.key_management && capability.aes_gcm_256);
    }
}
