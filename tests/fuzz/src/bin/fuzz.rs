// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! One target under the engine. `PORTCULLIS_FUZZ_TARGET` names it; with `PORTCULLIS_FUZZ_SEEDS`,
//! its seeds are written into that folder instead.

#![no_main]

use std::sync::OnceLock;

use tsm_fuzz::{Target, find};

fn target() -> &'static Target {
    static TARGET: OnceLock<&Target> = OnceLock::new();
    TARGET.get_or_init(|| {
        let name = std::env::var("PORTCULLIS_FUZZ_TARGET").unwrap_or_default();
        find(&name).expect("PORTCULLIS_FUZZ_TARGET names a target")
    })
}

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("PORTCULLIS_FUZZ_SEEDS") {
            for (index, seed) in (target().seeds)().into_iter().enumerate() {
                let file = std::path::Path::new(&folder).join(format!("seed-{index}"));
                std::fs::write(file, seed).expect("the folder can be written");
            }
        }
    },
    |data: &[u8]| (target().run)(data)
);
