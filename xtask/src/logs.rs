// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The logs of monitor and TSM: two defmt streams that share one serial port in small frames.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use defmt_decoder::{DecodeError, Table};

use crate::images::IMAGES;

/// Splits the bytes of the port into the two streams: tag, little-endian length, bytes.
pub fn split(bytes: &[u8]) -> BTreeMap<u8, Vec<u8>> {
    let mut streams: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    let mut rest = bytes;
    while let [tag, low, high, tail @ ..] = rest {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let Some(body) = tail.get(..length) else {
            break;
        };
        streams.entry(*tag).or_default().extend_from_slice(body);
        rest = &tail[length..];
    }
    streams
}

/// Decodes what the firmware logged; one string a line.
pub fn decode(port: &[u8]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (tag, bytes) in split(port) {
        let name = match tag {
            b'M' => "monitor",
            b'T' => "tsm",
            other => {
                lines.push(format!("a log frame with the unknown tag {other:#x}"));
                continue;
            }
        };
        let image = IMAGES
            .iter()
            .find(|image| image.name == name)
            .context("no such image")?;
        let elf = fs::read(image.elf())?;
        let Some(table) = Table::parse(&elf)? else {
            continue;
        };
        let mut decoder = table.new_stream_decoder();
        decoder.received(&bytes);
        loop {
            match decoder.decode() {
                Ok(frame) => lines.push(format!("{name}: {}", frame.display(false))),
                Err(DecodeError::UnexpectedEof) => break,
                Err(DecodeError::Malformed) => {
                    lines.push(format!("{name}: a malformed log frame"));
                    break;
                }
            }
        }
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn frames_are_sorted_by_tag_and_a_cut_frame_is_left_out() {
        let streams = split(b"M\x02\x00abT\x01\x00xM\x01\x00cT\x09\x00y");
        assert_eq!(streams[&b'M'], b"abc");
        assert_eq!(streams[&b'T'], b"x");
    }
}
