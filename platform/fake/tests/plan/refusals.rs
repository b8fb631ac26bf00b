// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! A device that answers ERROR, at each step: B08.

use crate::Outcome::{Completes, Interface, Refused, Session};
use crate::flow::Step::{Discover, Establish, Lock, Measure, Poll, Report, Start, Stream};
use crate::rows;

rows! {
    /// B08
    busy_for_ever_at_the_first_request:
        "{at = 'GET_VERSION', every = 1, what = 'busy'}" => Refused(Discover);
    /// B08
    busy_for_ever_at_the_algorithms:
        "{at = 'NEGOTIATE_ALGORITHMS', every = 1, what = 'busy'}" => Refused(Discover);
    /// B08
    busy_for_ever_at_the_certificates:
        "{at = 'GET_CERTIFICATE', every = 1, what = 'busy'}" => Refused(Discover);
    /// B08
    busy_for_ever_at_the_key_exchange:
        "{at = 'KEY_EXCHANGE', every = 1, what = 'busy'}" => Refused(Establish);
    /// B08
    busy_for_ever_at_the_measurements:
        "{at = 'GET_MEASUREMENTS', every = 1, what = 'busy'}" => Session(Measure);
    /// B08
    busy_for_ever_at_the_lock:
        "{at = 'LOCK_INTERFACE_REQUEST', every = 1, what = 'busy'}" => Session(Lock);
    /// B08
    busy_for_ever_at_a_key: "{at = 'KEY_PROG', every = 1, what = 'busy'}" => Refused(Stream);
    /// B08
    not_ready_for_ever_at_the_capabilities:
        "{at = 'GET_CAPABILITIES', every = 1, what = 'not-ready', exponent = 4}"
        => Refused(Discover);
    /// B08
    not_ready_for_ever_at_the_key_exchange:
        "{at = 'KEY_EXCHANGE', every = 1, what = 'not-ready', exponent = 4}" => Refused(Establish);
    /// B08
    not_ready_for_ever_at_the_measurements:
        "{at = 'GET_MEASUREMENTS', every = 1, what = 'not-ready', exponent = 4}" => Session(Measure);
    /// B08
    ready_after_longer_than_anybody_waits:
        "{at = 'GET_CERTIFICATE', what = 'not-ready', exponent = 255}" => Refused(Discover);
    /// B08
    resynchronisation_at_the_certificates:
        "{at = 'GET_CERTIFICATE', every = 1, what = 'error', code = 0x43}" => Refused(Discover);
    /// B08
    resynchronisation_at_the_key_exchange:
        "{at = 'KEY_EXCHANGE', every = 1, what = 'error', code = 0x43}" => Refused(Establish);
    /// B08
    resynchronisation_in_a_session:
        "{at = 'START_INTERFACE_REQUEST', what = 'error', code = 0x43}" => Session(Start);
    /// B08
    an_error_without_a_reason_at_the_digests:
        "{at = 'GET_DIGESTS', what = 'error', code = 5}" => Refused(Discover);
    /// B08
    an_error_without_a_reason_at_the_finish:
        "{at = 'FINISH', what = 'error', code = 5}" => Refused(Establish);
    /// B08
    an_error_without_a_reason_in_a_session:
        "{at = 'GET_DEVICE_INTERFACE_REPORT', what = 'error', code = 5}" => Interface(Report);
    /// B08
    a_record_that_the_device_claims_not_to_open:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'error', code = 6}" => Session(Poll);
    /// B08
    a_large_answer_that_never_comes:
        "{at = 'GET_CERTIFICATE', every = 1, what = 'error', code = 15, extended = '01'}"
        => Refused(Discover);
    /// B08
    a_version_that_does_not_match:
        "{at = 'GET_CAPABILITIES', what = 'error', code = 0x41}" => Refused(Discover);
    /// B08
    a_session_that_is_one_too_many:
        "{at = 'KEY_EXCHANGE', what = 'error', code = 10}" => Refused(Establish);
    /// B08
    an_error_that_is_cut_short:
        "{at = 'GET_DIGESTS', what = 'busy'}, {at = 'ERROR', what = 'truncate', keep = 2}"
        => Refused(Discover);
    /// B08
    busy_once_at_the_capabilities: "{at = 'GET_CAPABILITIES', what = 'busy'}" => Completes;
    /// B08
    busy_once_at_the_key_exchange: "{at = 'KEY_EXCHANGE', what = 'busy'}" => Completes;
    /// B08
    busy_once_at_the_finish: "{at = 'FINISH', what = 'busy'}" => Completes;
    /// B08
    busy_once_at_each_request_in_turn: "{at = 'SECURED_REQUEST', every = 2, what = 'busy'}" => Completes;
    /// B08
    not_ready_once_at_the_key_exchange:
        "{at = 'KEY_EXCHANGE', what = 'not-ready', exponent = 4}" => Completes;
    /// B08
    not_ready_once_at_the_measurements:
        "{at = 'GET_MEASUREMENTS', what = 'not-ready', exponent = 4}" => Completes;
    /// B08
    not_ready_once_at_the_lock:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'not-ready', exponent = 4}" => Completes;
    /// B08
    an_unknown_error: "{at = 'GET_DIGESTS', what = 'error', code = 200}" => Refused(Discover);
}
