// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Registers of configuration space that the board keeps from the host.

use tsm_platform::Rid;

use crate::filters::ConfigRule;

/// Returns whether the host may write `bytes` bytes at `offset`.
pub fn may_write(rules: &[ConfigRule], rid: Rid, offset: u16, bytes: u8) -> bool {
    let last = offset.saturating_add(u16::from(bytes).saturating_sub(1));
    let Some(rule) = rules.iter().find(|rule| rule.rid == rid) else {
        return true;
    };
    let mut ranges = rule.writable.iter();
    ranges.any(|(first, end)| *first <= offset && last <= *end)
}

#[cfg(test)]
mod tests {
    use super::may_write;
    use crate::filters::ConfigRule;
    use tsm_platform::Rid;

    const RULES: &[ConfigRule] = &[
        ConfigRule {
            rid: Rid(0),
            writable: &[],
        },
        ConfigRule {
            rid: Rid(0xf8),
            writable: &[(4, 7), (0x60, 0x6b)],
        },
    ];

    #[test]
    fn a_function_with_a_rule_is_written_where_the_rule_says() {
        let allowed = |offset, bytes| may_write(RULES, Rid(0xf8), offset, bytes);
        assert!(allowed(4, 4) && allowed(0x60, 1) && allowed(0x68, 4));
        assert!(!allowed(0x40, 4) && !allowed(0x6a, 4) && !allowed(2, 4) && !allowed(0xf0, 1));
        assert!(!may_write(RULES, Rid(0), 0x60, 4));
        assert!(may_write(RULES, Rid(8), 0x60, 4));
    }
}
