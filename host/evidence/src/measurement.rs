// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The signed MEASUREMENTS message.

use serde::Serialize;

use crate::key::Key;
use crate::negotiation::Negotiation;
use crate::{Evidence, hex};

const GET_MEASUREMENTS: u8 = 0xe0;
const MEASUREMENTS: u8 = 0x60;
/// Attributes of the request: sign, and raw values.
const SIGN: u8 = 1;
const RAW: u8 = 2;
const ALL_BLOCKS: u8 = 0xff;
/// Bytes of the requester's context, since 1.3.
const CONTEXT_BYTES: usize = 8;
/// What the signature is for.
const SIGNING_CONTEXT: &[u8] = b"responder-measurements signing";

/// One measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Block {
    /// Its index.
    pub index: u8,
    /// What it is of (DSP0274, DMTF measurement value types).
    pub kind: &'static str,
    /// Whether the value is raw and not a digest.
    pub raw: bool,
    /// The value in hexadecimal.
    pub value: String,
}

/// A message whose form is right.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) blocks: Vec<Block>,
    /// Everything before the signature.
    signed: Vec<u8>,
    nonce: Vec<u8>,
    context: Vec<u8>,
    slot: u8,
    signature: Vec<u8>,
}

const fn kind(kind: u8) -> &'static str {
    match kind & 0x7f {
        0 => "immutable ROM",
        1 => "mutable firmware",
        2 => "hardware configuration",
        3 => "firmware configuration",
        4 => "measurement manifest",
        5 => "device mode",
        6 => "version",
        7 => "security version",
        8 => "hash-extended measurement",
        9 => "informational",
        10 => "structured manifest",
        _ => "of an unknown kind",
    }
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (first, rest) = bytes
        .split_at_checked(length)
        .ok_or("the message is cut short")?;
    *bytes = rest;
    Ok(first)
}

fn half(bytes: &mut &[u8]) -> Result<usize, String> {
    let field = take(bytes, 2)?;
    Ok(usize::from(field[0]) | usize::from(field[1]) << 8)
}

fn block(record: &mut &[u8]) -> Result<Block, String> {
    let head = take(record, 2)?;
    let (index, specification) = (head[0], head[1]);
    if specification != 1 {
        return Err(format!("block {index} is not in DMTF form"));
    }
    let size = half(record)?;
    let mut body = take(record, size)?;
    let type_byte = take(&mut body, 1)?[0];
    if half(&mut body)? != body.len() {
        return Err(format!(
            "the lengths of block {index} contradict each other"
        ));
    }
    Ok(Block {
        index,
        kind: kind(type_byte),
        raw: type_byte & 0x80 != 0,
        value: hex(body),
    })
}

pub(crate) fn parse(bytes: &[u8], negotiated: &Negotiation) -> Result<Message, String> {
    let cut = bytes.len().checked_sub(negotiated.signature.length());
    let (signed, signature) = bytes.split_at(cut.ok_or("the message has no signature")?);
    let mut rest = signed;
    let head = take(&mut rest, 8)?;
    if head[..2] != [negotiated.version, MEASUREMENTS] {
        return Err("this is no MEASUREMENTS of the agreed version".into());
    }
    let length = u32::from_le_bytes([head[5], head[6], head[7], 0]);
    let mut record = take(&mut rest, length as usize)?;
    let mut blocks = Vec::new();
    while !record.is_empty() {
        blocks.push(block(&mut record)?);
    }
    if blocks.len() != usize::from(head[4]) {
        return Err(format!(
            "{} blocks were announced, {} came",
            head[4],
            blocks.len()
        ));
    }
    let nonce = take(&mut rest, 32)?.to_vec();
    let opaque = half(&mut rest)?;
    take(&mut rest, opaque)?;
    let context = if negotiated.version >= 0x13 {
        take(&mut rest, CONTEXT_BYTES)?.to_vec()
    } else {
        Vec::new()
    };
    if !rest.is_empty() {
        return Err(format!("{} bytes are left over", rest.len()));
    }
    Ok(Message {
        blocks,
        signed: signed.to_vec(),
        nonce,
        context,
        slot: head[3] & 0x0f,
        signature: signature.to_vec(),
    })
}

impl Message {
    /// Checks the device's signature over the exchange. The request is the one for all blocks with
    /// the guest's nonce, so the message was made after the guest chose it.
    pub(crate) fn verify(
        &self,
        evidence: &Evidence,
        negotiated: &Negotiation,
        key: &Key,
    ) -> Result<(), String> {
        if self.slot != evidence.slot {
            return Err(format!("slot {} signed, not {}", self.slot, evidence.slot));
        }
        if self.nonce.iter().all(|byte| *byte == 0) {
            return Err("the device's nonce is zero".into());
        }
        let attributes = SIGN | if evidence.raw { RAW } else { 0 };
        let mut transcript = negotiated.bytes.clone();
        transcript.extend([negotiated.version, GET_MEASUREMENTS, attributes, ALL_BLOCKS]);
        transcript.extend(evidence.nonce);
        transcript.push(evidence.slot);
        transcript.extend(&self.context);
        transcript.extend(&self.signed);
        let digest = negotiated.hash.digest(&transcript);
        let message = signing_input(negotiated.version, &digest);
        if key.verifies(&message, SIGNING_CONTEXT, &self.signature) {
            Ok(())
        } else {
            Err("it is not the device's over this message and the guest's nonce".into())
        }
    }

    /// Checks that block `index` has `value`.
    pub(crate) fn expect(&self, index: u8, value: &[u8]) -> Result<(), String> {
        let block = self.blocks.iter().find(|block| block.index == index);
        let block = block.ok_or_else(|| format!("there is no block {index}"))?;
        if block.value == hex(value) {
            Ok(())
        } else {
            Err(format!("block {index} is {}", block.value))
        }
    }
}

/// Returns what is signed for `digest`: the prefix four times, the context at the end of its field
/// of 36 bytes, the digest.
fn signing_input(version: u8, digest: &[u8]) -> Vec<u8> {
    let prefix = format!("dmtf-spdm-v1.{}.*", version & 0x0f);
    let mut input = prefix.repeat(4).into_bytes();
    input.resize(100 - SIGNING_CONTEXT.len(), 0);
    input.extend(SIGNING_CONTEXT);
    input.extend(digest);
    input
}
