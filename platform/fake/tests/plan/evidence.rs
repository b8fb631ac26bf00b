// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! What a device shows of itself: certificates, measurements, report. Groups B07 and D05.

use crate::Outcome::{Interface, Refused, Session};
use crate::flow::Step::{Accept, Discover, Measure, Poll, Report};
use crate::rows;

rows! {
    /// B07
    a_certificate_portion_of_no_bytes:
        "{at = 'CERTIFICATE', every = 1, what = 'set', offset = 4, bytes = '0000ff00'}"
        => Refused(Discover);
    /// B07
    a_certificate_portion_and_rest_that_overflow:
        "{at = 'CERTIFICATE', what = 'set', offset = 4, bytes = 'ffffffff'}" => Refused(Discover);
    /// B07
    a_certificate_portion_that_is_longer_than_its_message:
        "{at = 'CERTIFICATE', what = 'lying-length', by = 1}" => Refused(Discover);
    /// B07
    a_certificate_chain_that_never_ends:
        "{at = 'CERTIFICATE', every = 1, what = 'set', offset = 6, bytes = 'ffff'}"
        => Refused(Discover);
    /// B07
    a_certificate_of_another_slot:
        "{at = 'CERTIFICATE', what = 'set', offset = 2, bytes = '03'}" => Refused(Discover);
    /// B07
    a_certificate_chain_whose_length_lies:
        "{at = 'CERTIFICATE', what = 'flip', offset = 8, bit = 0}" => Refused(Discover);
    /// B07
    a_certificate_chain_with_another_root_digest:
        "{at = 'CERTIFICATE', what = 'flip', offset = 20, bit = 0}" => Refused(Discover);
    /// B07
    a_certificate_chain_with_a_changed_certificate:
        "{at = 'CERTIFICATE', what = 'flip', offset = 400, bit = 0}" => Refused(Discover);
    /// B07
    a_digest_of_another_chain:
        "{at = 'DIGESTS', what = 'flip', offset = 10, bit = 0}" => Refused(Discover);

    /// B09
    measurements_with_a_wrong_signature:
        "{at = 'MEASUREMENTS', what = 'wrong-signature'}" => Session(Measure);
    /// B09
    measurements_that_were_changed:
        "{at = 'MEASUREMENTS', what = 'flip', offset = 20, bit = 0}" => Session(Measure);
    /// B09
    measurements_whose_length_lies:
        "{at = 'MEASUREMENTS', what = 'lying-length', by = 16}" => Session(Measure);
    /// B09
    measurements_that_come_again:
        "{at = 'MEASUREMENTS', nth = 2, what = 'swap', with = 'MEASUREMENTS'}"
        => Session(Poll);

    /// D05
    a_report_portion_that_is_longer_than_its_message:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'lying-length', by = 1}" => Interface(Report);
    /// D05
    a_report_portion_of_no_bytes:
        "{at = 'DEVICE_INTERFACE_REPORT', every = 1, what = 'set', offset = 16, bytes = '00001000'}"
        => Interface(Report);
    /// D05
    a_report_that_never_ends:
        "{at = 'DEVICE_INTERFACE_REPORT', every = 1, what = 'set', offset = 18, bytes = 'ffff'}"
        => Interface(Report);
    /// D05
    a_report_with_more_ranges_than_it_has:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 32, bytes = '04000000'}"
        => Interface(Report);
    /// D05
    a_report_with_a_range_count_that_overflows:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 32, bytes = 'ffffffff'}"
        => Interface(Report);
    /// D05
    a_report_with_a_range_of_no_pages:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 44, bytes = '00000000'}"
        => Interface(Report);
    /// D05
    a_report_with_a_range_outside_of_the_bar:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 36, bytes = '0000080000000000'}"
        => Interface(Report);
    /// D05
    a_report_with_a_range_that_wraps:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 36, bytes = 'ffffffffffffffff'}"
        => Interface(Report);
    /// D05
    a_report_with_a_range_beyond_the_bar:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 44, bytes = '00100000'}"
        => Interface(Report);
    /// D05
    a_report_with_ranges_that_overlap:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 60, bytes = '02000000'}"
        => Interface(Report);
    /// D05
    a_report_whose_memory_is_not_for_guests:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 48, bytes = '0400'}"
        => Interface(Accept);
    /// D05
    a_report_whose_memory_is_the_vector_table:
        "{at = 'DEVICE_INTERFACE_REPORT', what = 'set', offset = 48, bytes = '0100'}"
        => Interface(Accept);
}
