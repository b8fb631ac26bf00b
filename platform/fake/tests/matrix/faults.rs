// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! Hardware that fails at each step of each call.

use std::collections::BTreeMap;

use crate::meddling::where_it_works;
use crate::{answered, ask, table};

/// Calls of which a step is out of the TSM's hands when hardware fails: what they do then is the
/// matter of other tests. An exchange ends its session, and a cut that is not confirmed is tried again
/// before anything else.
const OTHERS: [&str; 4] = [
    "RMI_PDEV_COMMUNICATE",
    "RMI_VDEV_COMMUNICATE",
    "RMI_VDEV_ABORT",
    "RMI_REC_ENTER",
];

/// A08.
#[test]
fn a_call_that_fails_at_any_step_of_the_hardware_leaves_everything_as_it_was() {
    let mut failures: BTreeMap<&str, u64> = BTreeMap::new();
    for row in answered().filter(|row| !OTHERS.contains(&row.name)) {
        let Some(make) = where_it_works(table::row(row.name)) else {
            continue;
        };
        for passed in 0.. {
            let stage = make();
            let host = &stage.rig.host;
            let arguments = stage.arguments(row.name).expect("the call is known");
            let before = host.snapshot();
            host.fake.fail_after(passed);
            let answer = ask(&stage, row, &arguments);
            let Some(point) = host.fake.disarm() else {
                break;
            };
            assert!(!".+".contains(answer), "{} at {point:?} {passed}", row.name);
            let after = host.snapshot();
            assert!(before == after, "{} at {point:?} {passed}", row.name);
            *failures.entry(row.name).or_default() += 1;
            // The failure is over: now it works.
            let again = ask(&stage, row, &arguments);
            assert!(".+".contains(again), "{} again: {again}", row.name);
        }
    }
    println!("failures by call: {failures:?}");
    assert!(failures.len() > 15);
}
