// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Mailbox, negotiation, key exchange and secured messages: groups B and C06.

use crate::Outcome::{Completes, Refused, Session};
use crate::flow::Step::{Discover, Establish, Lock, Measure, Poll, Refresh, Start, Stream};
use crate::rows;

rows! {
    /// B02
    a_mailbox_that_is_busy_for_ever: "{at = 'GET_CAPABILITIES', what = 'hang'}" => Refused(Discover);
    /// B02
    a_mailbox_that_loses_one_answer: "{at = 'CERTIFICATE', what = 'drop'}" => Refused(Discover);
    /// B02
    a_mailbox_that_answers_too_late:
        "{at = 'GET_VERSION', what = 'delay', ms = 60000}" => Refused(Discover);
    /// B02
    a_mailbox_that_answers_slowly:
        "{at = 'ANY_REQUEST', every = 1, what = 'delay', ms = 20}" => Completes;
    /// B02
    an_object_of_length_zero:
        "{at = 'VERSION', what = 'set', view = 'wire', offset = 4, bytes = '00000000'}"
        => Refused(Discover);
    /// B02
    an_object_that_claims_the_largest_length:
        "{at = 'ALGORITHMS', what = 'set', view = 'wire', offset = 4, bytes = 'ffff0300'}"
        => Refused(Discover);
    /// B02
    an_object_that_ends_early:
        "{at = 'CERTIFICATE', what = 'truncate', view = 'wire', keep = 100}" => Refused(Discover);
    /// B02
    an_object_without_content:
        "{at = 'CERTIFICATE', what = 'truncate', view = 'wire', keep = 8}" => Refused(Discover);
    /// B02
    an_object_of_another_type:
        "{at = 'DIGESTS', what = 'set', view = 'wire', offset = 2, bytes = '05'}"
        => Refused(Discover);
    /// B02
    an_answer_that_is_stale: "{at = 'CAPABILITIES', what = 'stale'}" => Refused(Discover);
    /// B02
    an_answer_that_is_stale_in_a_session:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'stale'}" => Session(Lock);
    /// B02
    an_object_that_nobody_asked_for:
        "{at = 'KEY_EXCHANGE', what = 'unsolicited', bytes = '12640000'}" => Refused(Establish);
    /// B02
    an_object_that_is_much_too_long:
        "{at = 'KEY_EXCHANGE_RSP', what = 'extend', view = 'wire', by = 8192}"
        => Refused(Establish);

    /// B05
    a_version_list_that_is_empty:
        "{at = 'VERSION', what = 'set', offset = 5, bytes = '00'}" => Refused(Discover);
    /// B05
    a_version_list_with_old_versions_only:
        "{at = 'VERSION', what = 'set', offset = 6, bytes = '0011'}" => Refused(Discover);
    /// B05
    a_version_list_that_is_longer_than_its_message:
        "{at = 'VERSION', what = 'lying-length', by = 200}" => Refused(Discover);
    /// B05
    a_device_without_encryption:
        "{at = 'CAPABILITIES', what = 'flip', offset = 8, bit = 6}" => Refused(Discover);
    /// B05
    a_device_without_authentication:
        "{at = 'CAPABILITIES', what = 'flip', offset = 8, bit = 7}" => Refused(Discover);
    /// B05
    a_device_without_key_exchange:
        "{at = 'CAPABILITIES', what = 'flip', offset = 9, bit = 1}" => Refused(Discover);
    /// B05
    a_device_without_certificates:
        "{at = 'CAPABILITIES', what = 'flip', offset = 8, bit = 1}" => Refused(Discover);

    /// B06
    a_hash_that_was_not_offered:
        "{at = 'ALGORITHMS', what = 'set', offset = 16, bytes = '04000000'}" => Refused(Discover);
    /// B06
    two_signature_algorithms_at_once:
        "{at = 'ALGORITHMS', what = 'set', offset = 12, bytes = '90000000'}" => Refused(Discover);
    /// B06
    no_signature_algorithm:
        "{at = 'ALGORITHMS', what = 'set', offset = 12, bytes = '00000000'}" => Refused(Discover);
    /// B06
    algorithms_whose_length_lies:
        "{at = 'ALGORITHMS', what = 'lying-length', by = 4}" => Refused(Discover);

    /// B09
    a_key_exchange_with_a_wrong_signature:
        "{at = 'KEY_EXCHANGE_RSP', what = 'wrong-signature'}" => Refused(Establish);
    /// B09
    a_key_exchange_with_a_wrong_verification_value:
        "{at = 'KEY_EXCHANGE_RSP', what = 'flip', offset = -1, bit = 0}" => Refused(Establish);
    /// B09
    a_share_that_is_not_on_the_curve:
        "{at = 'KEY_EXCHANGE_RSP', what = 'flip', offset = 60, bit = 3}" => Refused(Establish);
    /// B09
    a_share_of_zeros:
        "{at = 'KEY_EXCHANGE_RSP', what = 'set', offset = 40, bytes = '0000000000000000'}"
        => Refused(Establish);
    /// B09
    a_session_id_that_was_changed:
        "{at = 'KEY_EXCHANGE_RSP', what = 'flip', offset = 4, bit = 0}" => Refused(Establish);
    /// B09
    a_random_value_that_was_changed:
        "{at = 'KEY_EXCHANGE_RSP', what = 'wrong-nonce'}" => Refused(Establish);
    /// B09
    a_measurement_summary_that_was_changed:
        "{at = 'KEY_EXCHANGE_RSP', what = 'flip', offset = 140, bit = 0}" => Refused(Establish);
    /// B09
    mutual_authentication_on_demand:
        "{at = 'KEY_EXCHANGE_RSP', what = 'set', offset = 6, bytes = '01'}" => Refused(Establish);
    /// B09
    a_key_exchange_that_ends_early:
        "{at = 'KEY_EXCHANGE_RSP', what = 'truncate', keep = 150}" => Refused(Establish);
    /// B09
    a_finish_that_is_not_answered: "{at = 'FINISH_RSP', what = 'drop'}" => Refused(Establish);
    /// B09
    a_finish_that_is_answered_by_something_else:
        "{at = 'FINISH_RSP', what = 'swap', with = 'VERSION'}" => Refused(Establish);
    /// B10
    a_finish_that_is_answered_for_another_mode:
        "{at = 'FINISH_RSP', what = 'set', offset = 1, bytes = '67'}" => Refused(Establish);

    /// B11
    a_record_with_a_wrong_tag:
        "{at = 'KP_ACK', what = 'flip', view = 'wire', offset = -5, bit = 0}" => Refused(Stream);
    /// B11
    a_record_with_a_wrong_tag_while_the_guest_works:
        "{at = 'KP_ACK', nth = 7, what = 'flip', view = 'wire', offset = 20, bit = 0}"
        => Session(Refresh);
    /// B11
    a_record_that_comes_again:
        "{at = 'START_INTERFACE_RESPONSE', what = 'replay', view = 'wire'}" => Session(Start);
    /// B11
    a_record_of_another_session:
        "{at = 'MEASUREMENTS', what = 'flip', view = 'wire', offset = 8, bit = 0}"
        => Session(Measure);
    /// B11
    a_record_whose_length_lies:
        "{at = 'MEASUREMENTS', what = 'flip', view = 'wire', offset = 12, bit = 0}"
        => Session(Measure);
    /// B11
    a_record_whose_order_changed:
        "{at = 'MEASUREMENTS', nth = 2, what = 'stale'}" => Session(Poll);
    /// B11
    plain_text_where_a_record_is_due:
        "{at = 'DEVICE_INTERFACE_STATE', what = 'set', view = 'wire', offset = 8, bytes = '127f0500'}"
        => Session(Lock);
    /// B11
    a_finish_that_was_changed_on_its_way:
        "{at = 'SECURED_REQUEST', what = 'flip', view = 'wire', offset = -5, bit = 0}"
        => Refused(Establish);
    /// B11
    a_request_that_was_changed_on_its_way:
        "{at = 'SECURED_REQUEST', nth = 2, what = 'flip', view = 'wire', offset = -5, bit = 0}"
        => Refused(Stream);

    /// C06
    a_session_that_is_lost_before_the_lock:
        "{at = 'LOCK_INTERFACE_REQUEST', what = 'lose-session'}" => Session(Lock);
    /// C06
    a_session_that_is_lost_after_the_lock:
        "{at = 'LOCK_INTERFACE_RESPONSE', what = 'lose-session'}" => Session(Lock);
    /// C06
    a_session_that_is_lost_at_the_start:
        "{at = 'START_INTERFACE_REQUEST', what = 'lose-session'}" => Session(Start);
    /// C06
    a_session_that_is_lost_while_the_guest_works:
        "{at = 'GET_MEASUREMENTS', nth = 2, what = 'lose-session'}" => Session(Poll);
    /// C06
    a_session_that_is_lost_while_keys_change:
        "{at = 'KEY_PROG', nth = 10, what = 'lose-session'}" => Session(Refresh);
}
