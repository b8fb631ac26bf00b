// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Life of an interface: groups D01 to D04 and D09.

use crate::Outcome::{Completes, Interface, Session};
use crate::flow::Step::{Lock, Measure, Poll, Report, Start, Unlock};
use crate::rows;

rows! {
    /// D02
    a_lock_that_the_device_refuses:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'tdisp-error', code = 1}" => Interface(Lock);
    /// D02
    a_lock_that_finds_the_device_busy:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'tdisp-error', code = 3}" => Completes;
    /// D02
    a_lock_that_finds_the_device_busy_each_time:
        "{at = 'LOCK_INTERFACE_REQUEST', every = 1, what = 'tdisp-error', code = 3}"
        => Interface(Lock);
    /// D02
    a_lock_without_entropy_at_the_device:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'tdisp-error', code = 0x103}" => Interface(Lock);
    /// D02
    a_lock_that_is_refused_by_an_unknown_code:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'tdisp-error', code = 0xdead}" => Interface(Lock);
    /// D01
    a_device_of_another_version:
        "{at = 'TDISP_VERSION', what = 'set', offset = 17, bytes = '20'}" => Interface(Lock);
    /// D01
    a_device_without_a_version:
        "{at = 'TDISP_VERSION', what = 'set', offset = 16, bytes = '00'}" => Interface(Lock);
    /// D01
    an_answer_about_another_interface:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'flip', offset = 4, bit = 3}" => Interface(Lock);
    /// D01
    an_answer_that_is_too_short:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'truncate', keep = 40}" => Session(Lock);
    /// D01
    an_answer_that_is_too_long:
        "{at = 'START_INTERFACE_RESPONSE', what = 'extend', by = 3}" => Session(Start);
    /// D01
    an_answer_to_another_request:
        "{at = 'START_INTERFACE_RESPONSE', what = 'swap', with = 'LOCK_INTERFACE_RESPONSE'}"
        => Interface(Start);
    /// D01
    an_answer_of_another_protocol:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'swap', with = 'KP_ACK'}" => Session(Lock);
    /// D01
    an_answer_that_refuses_with_an_error_of_spdm:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'error', code = 1}" => Interface(Lock);

    /// D03
    a_start_whose_nonce_was_changed:
        "{at = 'START_INTERFACE_REQUEST', what = 'wrong-nonce'}" => Interface(Start);
    /// D03
    a_lock_that_told_another_nonce:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'wrong-nonce'}" => Interface(Start);
    /// D03
    a_start_that_the_device_refuses:
        "{at = 'START_INTERFACE_REQUEST', what = 'tdisp-error', code = 0x102}" => Interface(Start);
    /// D04
    a_device_that_claims_to_run_before_the_lock:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 1, what = 'wrong-state', state = 2}" => Interface(Lock);
    /// D04
    a_device_that_claims_not_to_be_locked:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 2, what = 'wrong-state', state = 0}" => Interface(Lock);
    /// D04
    a_device_that_claims_to_run_early:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 2, what = 'wrong-state', state = 2}" => Interface(Lock);
    /// D04
    a_device_that_claims_an_error_at_the_report:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 3, what = 'wrong-state', state = 3}"
        => Interface(Report);
    /// D04
    a_device_that_claims_a_state_that_is_none:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 3, what = 'wrong-state', state = 255}"
        => Interface(Report);
    /// D04
    a_device_that_claims_to_be_unlocked_before_the_start:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 4, what = 'wrong-state', state = 0}"
        => Interface(Start);
    /// D04
    a_device_that_claims_not_to_run_after_the_start:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 5, what = 'wrong-state', state = 1}"
        => Interface(Start);
    /// D04
    a_device_that_claims_an_error_while_the_guest_works:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 6, what = 'wrong-state', state = 3}"
        => Interface(Poll);
    /// D04
    a_device_that_claims_to_run_after_the_end:
        "{at = 'DEVICE_INTERFACE_STATE', nth = 8, what = 'wrong-state', state = 2}"
        => Interface(Unlock);
    /// D04
    a_stop_that_the_device_refuses:
        "{at = 'STOP_INTERFACE_REQUEST', every = 1, what = 'tdisp-error', code = 4}"
        => Interface(Unlock);

    /// D09
    a_function_reset_after_the_lock:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'flr'}" => Interface(Lock);
    /// D09
    a_function_reset_while_locked:
        "{at = 'GET_DEVICE_INTERFACE_REPORT', what = 'flr'}" => Interface(Report);
    /// D09
    a_function_reset_at_the_start:
        "{at = 'START_INTERFACE_REQUEST', what = 'flr'}" => Interface(Start);
    /// D09
    a_function_reset_right_after_the_start:
        "{at = 'START_INTERFACE_RESPONSE', what = 'flr'}" => Interface(Start);
    /// D09
    a_function_reset_while_the_guest_works:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'flr'}" => Interface(Poll);
    /// D09
    a_reset_while_locked: "{at = 'GET_MEASUREMENTS', what = 'reset'}" => Session(Measure);
    /// D09
    a_reset_at_the_start: "{at = 'START_INTERFACE_RESPONSE', what = 'reset'}" => Session(Start);
    /// D09
    a_reset_while_the_guest_works:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'reset'}" => Session(Poll);
}
