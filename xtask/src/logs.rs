// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The logs of the firmware: defmt streams, several of which may share one port in small frames.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result};
use defmt_decoder::{DecodeError, Table};

use crate::board::{Board, Log};

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

/// Returns the streams that the log port of `board` carried, by the name of an image.
fn streams(board: &Board, port: &[u8]) -> Vec<(String, Vec<u8>)> {
    let tags = match board.log {
        Log::Plain(name) => return vec![(name.into(), port.to_vec())],
        Log::Frames(tags) => tags,
    };
    let name = |tag: u8| tags.iter().find(|known| known.0 == tag);
    split(port)
        .into_iter()
        .map(|(tag, bytes)| {
            let unknown = || format!("frames {tag:#x}");
            (
                name(tag).map_or_else(unknown, |known| known.1.into()),
                bytes,
            )
        })
        .collect()
}

/// Returns everything that the log port of `board` carried, in each form, with a name.
///
/// # Errors
///
/// If an image cannot be read.
pub fn forms(board: &Board, port: &[u8]) -> Result<Vec<(String, Vec<u8>)>> {
    let decoded = decode(board, port)?.join("\n").into_bytes();
    let mut forms = vec![("firmware log, decoded".to_owned(), decoded)];
    for (name, bytes) in streams(board, port) {
        forms.push((format!("firmware log, {name}"), bytes));
    }
    Ok(forms)
}

/// Decodes what the firmware of `board` logged; one string a line.
///
/// # Errors
///
/// If an image cannot be read.
pub fn decode(board: &Board, port: &[u8]) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for (name, bytes) in streams(board, port) {
        let Some(image) = board.image(&name) else {
            lines.push(format!("the log has {name}, which are of no image"));
            continue;
        };
        let elf = fs::read(board.elf(image)).context("the image of a log")?;
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
    use super::{split, streams};
    use crate::board::{QEMU_Q35, QEMU_VIRT};

    #[test]
    fn frames_are_sorted_by_tag_and_a_cut_frame_is_left_out() {
        let streams = split(b"M\x02\x00abT\x01\x00xM\x01\x00cT\x09\x00y");
        assert_eq!(streams[&b'M'], b"abc");
        assert_eq!(streams[&b'T'], b"x");
    }

    #[test]
    fn a_port_without_frames_is_one_stream() {
        let bytes = b"M\x02\x00ab";
        let named = |name: &str, bytes: &[u8]| vec![(name.to_owned(), bytes.to_vec())];
        assert_eq!(streams(&QEMU_Q35, bytes), named("tsm", bytes));
        assert_eq!(streams(&QEMU_VIRT, bytes), named("monitor", b"ab"));
        assert_eq!(
            streams(&QEMU_VIRT, b"X\x01\x00a"),
            named("frames 0x58", b"a")
        );
    }
}
