// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Keys of the link, and the link itself: group C.

use crate::Outcome::{Interface, OldKeys, Refused, Session};
use crate::flow::Step::{Poll, Refresh, Start, Stream};
use crate::rows;

rows! {
    /// C02
    a_key_of_a_wrong_length:
        "{at = 'KEY_PROG', what = 'key-status', status = 1}" => Refused(Stream);
    /// C02
    a_key_for_a_port_that_is_not_there:
        "{at = 'KEY_PROG', nth = 2, what = 'key-status', status = 2}" => Refused(Stream);
    /// C02
    a_key_with_a_value_that_is_not_supported:
        "{at = 'KEY_PROG', nth = 4, what = 'key-status', status = 3}" => Refused(Stream);
    /// C02
    a_key_that_fails: "{at = 'KEY_PROG', nth = 6, what = 'key-status', status = 4}" => Refused(Stream);
    /// C02
    a_key_with_an_unknown_status:
        "{at = 'KP_ACK', nth = 3, what = 'key-status', status = 200}" => Refused(Stream);
    /// C02
    a_key_that_is_acknowledged_for_another_slot:
        "{at = 'KP_ACK', nth = 2, what = 'flip', offset = 5, bit = 4}" => Refused(Stream);
    /// C02
    a_key_that_is_acknowledged_for_another_stream:
        "{at = 'KP_ACK', nth = 2, what = 'flip', offset = 3, bit = 0}" => Refused(Stream);
    /// C02
    a_key_that_is_acknowledged_for_another_port:
        "{at = 'KP_ACK', nth = 2, what = 'flip', offset = 6, bit = 0}" => Refused(Stream);
    /// C02
    a_key_that_the_device_refuses_to_use:
        "{at = 'K_SET_GO', nth = 3, what = 'error', code = 1}" => Refused(Stream);
    /// C02
    a_key_whose_use_is_not_acknowledged:
        "{at = 'K_GOSTOP_ACK', nth = 5, what = 'swap', with = 'KP_ACK'}" => Refused(Stream);
    /// C03
    a_device_that_is_gone_while_keys_are_set:
        "{at = 'KEY_PROG', nth = 4, what = 'remove'}" => Refused(Stream);

    /// C04
    a_refresh_whose_first_key_fails:
        "{at = 'KEY_PROG', nth = 7, what = 'key-status', status = 4}" => OldKeys;
    /// C04
    a_refresh_whose_last_key_fails:
        "{at = 'KEY_PROG', nth = 12, what = 'key-status', status = 4}" => OldKeys;
    /// C04
    a_refresh_whose_first_key_is_not_used:
        "{at = 'K_SET_GO', nth = 7, what = 'error', code = 5}" => Session(Refresh);
    /// C04
    a_refresh_whose_last_key_is_not_used:
        "{at = 'K_SET_GO', nth = 12, what = 'error', code = 5}" => Session(Refresh);
    /// C04
    a_refresh_whose_old_keys_do_not_stop:
        "{at = 'K_SET_STOP', nth = 1, what = 'error', code = 5}" => Session(Refresh);
    /// C04
    a_refresh_back_that_fails:
        "{at = 'KEY_PROG', nth = 15, what = 'key-status', status = 4}" => OldKeys;

    /// C07
    a_link_that_fails_while_the_guest_works:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'link-down'}" => Interface(Poll);
    /// C07
    a_link_that_fails_before_the_start:
        "{at = 'START_INTERFACE_REQUEST', what = 'link-down'}" => Interface(Start);
    /// C07
    a_link_that_fails_once_it_is_up: "{event = 'stream', what = 'link-down'}" => Refused(Stream);
    /// C07
    a_device_that_is_pulled_while_the_guest_works:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'remove'}" => Session(Poll);
    /// C07
    a_device_that_is_pulled_right_after_the_start:
        "{at = 'START_INTERFACE_RESPONSE', what = 'remove'}" => Session(Start);
}
