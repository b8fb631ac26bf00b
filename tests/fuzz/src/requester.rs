// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The SPDM requester in a conversation with a device that says what it likes.

use tsm_devices::{Config as DeviceConfig, Dsm, FunctionView};
use tsm_spdm::{
    Config, Error, Input, Operation, Outcome, Output, Protocol, PublicKey, Requester, Workspace,
};

use crate::{part, put};

/// Most answers of one conversation.
const MOST_ANSWERS: usize = 200;

/// What the requester is asked to do, in order.
fn operations(key: Option<PublicKey>) -> Vec<Operation> {
    let mut operations = vec![Operation::Discover];
    if let Some(key) = key {
        operations.extend([
            Operation::Establish { key },
            Operation::Measure {
                nonce: [9; 32],
                raw: false,
            },
            Operation::Heartbeat,
            Operation::UpdateKeys,
            Operation::Measure {
                nonce: [8; 32],
                raw: true,
            },
            Operation::End,
        ]);
    }
    operations
}

/// Goes through the operations; `carry` brings the answer to what was sent.
fn converse(
    key: impl Fn() -> Option<PublicKey>,
    mut carry: impl FnMut(&[u8], Protocol) -> Option<Vec<u8>>,
) -> Result<(), Error> {
    // The same in every run, so that a recorded conversation can be had again.
    let mut state = 1_u8;
    let mut random = |out: &mut [u8]| {
        for byte in out {
            state = state.wrapping_mul(5).wrapping_add(1);
            *byte = state;
        }
        Ok(())
    };
    let mut requester = Requester::new(Config::new(1));
    let mut workspace = Workspace::new();
    let mut out = vec![0; 4096];
    let mut answers = 0;
    let mut index = 0;
    loop {
        let Some(operation) = operations(key()).get(index).copied() else {
            return Ok(());
        };
        index += 1;
        requester.start(operation)?;
        let mut output = requester.step(Input::Begin, &mut out, &mut workspace, &mut random)?;
        while let Output::Send { len, protocol, .. } = output {
            answers += 1;
            assert!(answers < MOST_ANSWERS * 2, "the conversation does not end");
            let Some(mut answer) = carry(&out[..len], protocol) else {
                return Ok(());
            };
            output = requester.step(
                Input::Response(&mut answer),
                &mut out,
                &mut workspace,
                &mut random,
            )?;
        }
        if let Output::Done {
            outcome: Outcome::Ended,
            ..
        } = output
        {
            return Ok(());
        }
    }
}

/// Answers with the parts of `data`, after a first one that is the device's key.
pub fn run(mut data: &[u8]) {
    let key = PublicKey::new(part(&mut data)).ok();
    let _ = converse(
        || key,
        |_, _| (!data.is_empty()).then(|| part(&mut data).to_vec()),
    );
}

/// Records a conversation with a device that tells the truth.
pub fn seeds() -> Vec<Vec<u8>> {
    let function = FunctionView {
        rid: Some(0x0100),
        bars: Vec::new(),
    };
    let Ok(config) = DeviceConfig::new(b"what the device runs", function) else {
        return Vec::new();
    };
    let mut dsm = Dsm::new(config);
    let point = leaf_point(dsm.identity().chain());
    let mut answers = Vec::new();
    let key = || PublicKey::new(&point).ok();
    let _ = converse(key, |request, protocol| {
        let kind = match protocol {
            Protocol::Spdm => 1,
            Protocol::Secured => 2,
        };
        let padded = request.len().next_multiple_of(4);
        let mut object = vec![1, 0, kind, 0];
        object.extend(u32::try_from(2 + padded / 4).unwrap_or(0).to_le_bytes());
        object.extend(request);
        object.resize(8 + padded, 0);
        let answer = dsm.handle_doe(&object)?[8..].to_vec();
        answers.push(answer.clone());
        Some(answer)
    });
    // The whole conversation, and its beginnings.
    let ends = [answers.len(), answers.len() / 2, 4, 1];
    let seed = |end: usize| {
        let mut seed = Vec::new();
        put(&mut seed, &point);
        for answer in answers.iter().take(end) {
            put(&mut seed, answer);
        }
        seed
    };
    ends.map(seed).to_vec()
}

/// Returns the uncompressed point of the last certificate of a chain whose keys are P-384.
fn leaf_point(chain: &[u8]) -> Vec<u8> {
    let bit_string = [0x03, 0x62, 0x00, 0x04];
    let mut starts = chain.windows(4).enumerate();
    let last = starts
        .by_ref()
        .filter(|(_, bytes)| *bytes == bit_string)
        .last();
    let start = last.map_or(0, |(at, _)| at + 3);
    chain.get(start..start + 97).unwrap_or(&[]).to_vec()
}
