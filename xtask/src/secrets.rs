// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The search for secrets in everything that a run prints and keeps.
//!
//! A secret counts as told if any eight bytes of it are found, in any form in which a program would
//! print them: as they are, in hexadecimal, in decimal, in base64, in registers of 32 or 64 bits.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where the device writes its secrets.
pub const KEY_LOG: &str = "keys.log";
/// Name of the check.
const CHECK: &str = "no-log-tells-a-secret";
/// What a run keeps besides logs: the secrets, the root port's key registers, the disks.
const NO_LOGS: [&str; 4] = [KEY_LOG, "keys.shm", "disk.img", "plain.img"];
/// Bytes of a secret that must not be found.
const WINDOW: usize = 8;
/// Most characters between two numbers of one sequence: a comma, a new line and its indent.
const GAP: usize = 20;
/// Least digits of what is taken for a register that a text names.
const REGISTER_DIGITS: usize = 7;

/// Something that no log may hold.
pub struct Secret {
    /// What to call it.
    pub name: String,
    bytes: Vec<u8>,
}

impl Secret {
    /// Names `bytes`, of which there are at least eight.
    pub fn new(name: &str, bytes: &[u8]) -> Self {
        Self {
            name: name.into(),
            bytes: bytes.to_vec(),
        }
    }

    /// Lists the orders that the bytes may come in: as they are, from registers of 32 and 64 bits,
    /// and each of these with the last byte or register first.
    fn orders(&self) -> impl Iterator<Item = Vec<u8>> {
        let backwards: Vec<u8> = self.bytes.iter().rev().copied().collect();
        [self.bytes.clone(), backwards]
            .into_iter()
            .flat_map(|bytes| {
                [1, 4, 8].map(|size| {
                    let words = bytes.chunks(size);
                    words.flat_map(|word| word.iter().rev().copied()).collect()
                })
            })
    }
}

/// Reads the file that the device writes.
///
/// # Errors
///
/// If there is none, it is empty, or a line is not `name hexadecimal`.
pub fn read(path: &Path) -> Result<Vec<Secret>> {
    let text = fs::read_to_string(path).context("the device told no secrets")?;
    let secrets: Option<Vec<Secret>> = text.lines().map(secret).collect();
    match secrets {
        Some(secrets) if !secrets.is_empty() => Ok(secrets),
        _ => bail!("{} is no list of secrets", path.display()),
    }
}

fn secret(line: &str) -> Option<Secret> {
    let (name, digits) = line.split_once(' ')?;
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else {
        return None;
    };
    let bytes = pairs.iter().map(|[high, low]| {
        let nibble = |digit: u8| char::from(digit).to_digit(16);
        Some((nibble(*high)? << 4 | nibble(*low)?) as u8)
    });
    let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
    (bytes.len() >= WINDOW).then(|| Secret::new(name, &bytes))
}

/// Returns everything in `folder` that is a log, by name.
///
/// # Errors
///
/// If a file cannot be read.
pub fn logs_in(folder: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let mut logs = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() {
            logs.extend(logs_in(&entry.path())?);
        } else if kind.is_file() && !NO_LOGS.contains(&&*name) {
            logs.push((name, fs::read(entry.path())?));
        }
    }
    Ok(logs)
}

/// Returns the line of a check that fails for `reason`.
pub fn failure(reason: &str) -> String {
    format!("CHECK {CHECK} | {reason} | FAIL")
}

/// Searches `logs` for `secrets` and returns the line of a check. It names no secret's bytes.
pub fn check(logs: &[(String, Vec<u8>)], secrets: &[Secret]) -> String {
    let found = search(logs, secrets);
    if !found.is_empty() {
        return failure(&Vec::from_iter(found).join(", "));
    }
    // What finds nothing must be able to find something: each log's own end is in it.
    for (name, bytes) in logs {
        let Some(end) = bytes.last_chunk::<WINDOW>() else {
            continue;
        };
        let planted = [Secret::new("own end", end)];
        if search(&[(name.clone(), bytes.clone())], &planted).is_empty() {
            return failure(&format!("the search is blind in {name}"));
        }
    }
    let sizes: usize = logs.iter().map(|(_, bytes)| bytes.len()).sum();
    format!(
        "CHECK {CHECK} | {} secrets, none in {} logs of {sizes} bytes | PASS",
        secrets.len(),
        logs.len()
    )
}

/// Returns what was found, as `secret in log`.
fn search(logs: &[(String, Vec<u8>)], secrets: &[Secret]) -> BTreeSet<String> {
    let mut windows = HashMap::new();
    for secret in secrets {
        for bytes in secret.orders() {
            for window in bytes.array_windows::<WINDOW>() {
                windows.insert(u64::from_be_bytes(*window), &*secret.name);
            }
        }
    }
    let mut found = BTreeSet::new();
    for (log, bytes) in logs {
        visit(bytes, &mut |window| {
            if let Some(secret) = windows.get(&window) {
                found.insert(format!("{secret} in {log}"));
            }
        });
    }
    found
}

/// Visits any eight bytes that a log holds in any form.
fn visit(log: &[u8], look: &mut dyn FnMut(u64)) {
    slide(log.iter().copied(), 8, look);
    for run in log.split(|byte| base64(*byte).is_none()) {
        // Where a value begins within the run is not known.
        let sextets = run.iter().filter_map(|byte| base64(*byte));
        slide_sextets(sextets, look);
    }
    let sequences = sequences(log);
    let registers = sequences.iter().flatten();
    let registers = registers.filter(|number| number.len() >= REGISTER_DIGITS);
    slide(registers.flat_map(|number| padded(number)), 4, look);
    for sequence in sequences {
        let digits = sequence.iter().flat_map(|number| number.iter());
        slide(digits.filter_map(nibble), 4, look);
        let registers = sequence.iter().flat_map(|number| padded(number));
        slide(registers, 4, look);
        let decimal = sequence.iter().flat_map(|number| decimal(number));
        slide(decimal, 8, look);
    }
}

/// Visits each 64 bits of a stream of units of `bits` bits.
fn slide(units: impl Iterator<Item = u8>, bits: usize, look: &mut dyn FnMut(u64)) {
    let mut window = 0;
    for (index, unit) in units.enumerate() {
        window = window << bits | u64::from(unit);
        if (index + 1) * bits >= 64 {
            look(window);
        }
    }
}

/// Visits each 64 bits of a stream of six bits each that begin at a multiple of two bits.
fn slide_sextets(sextets: impl Iterator<Item = u8>, look: &mut dyn FnMut(u64)) {
    let mut window = 0_u128;
    for (index, sextet) in sextets.enumerate() {
        window = window << 6 | u128::from(sextet);
        for spare in [0, 2, 4] {
            if (index + 1) * 6 >= 64 + spare {
                look((window >> spare) as u64);
            }
        }
    }
}

fn base64(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

fn nibble(digit: &u8) -> Option<u8> {
    let value = char::from(*digit).to_digit(16)?;
    u8::try_from(value).ok()
}

/// Splits a log into sequences of numbers, each number as its digits without `0x` and `_`.
fn sequences(log: &[u8]) -> Vec<Vec<Vec<u8>>> {
    let mut all = vec![vec![vec![]]];
    let mut gap = 0;
    for byte in log {
        let (Some(sequence), separator) = (all.last_mut(), !byte.is_ascii_alphanumeric()) else {
            continue;
        };
        let Some(number) = sequence.last_mut() else {
            continue;
        };
        if byte.is_ascii_hexdigit() {
            number.push(*byte);
            gap = 0;
        } else if matches!(byte, b'x' | b'X') && number == b"0" {
            number.clear();
        } else if *byte == b'_' {
            // Between the digits of one number.
        } else if separator && gap < GAP {
            gap += 1;
            if !number.is_empty() {
                sequence.push(vec![]);
            }
        } else {
            all.push(vec![vec![]]);
            gap = 0;
        }
    }
    all
}

/// Returns the nibbles of a hexadecimal number as wide as the register that it is from.
fn padded(number: &[u8]) -> impl Iterator<Item = u8> {
    let width = match number.len() {
        0 => 0,
        1..=2 => 2,
        3..=8 => 8,
        9..=16 => 16,
        more => more,
    };
    let zeros = std::iter::repeat_n(0, width - number.len());
    zeros.chain(number.iter().filter_map(nibble))
}

/// Returns the bytes of a decimal number that is a byte or from a register; none of any other.
fn decimal(number: &[u8]) -> Vec<u8> {
    let value = str::from_utf8(number)
        .ok()
        .and_then(|text| text.parse().ok());
    let Some(value): Option<u64> = value else {
        return Vec::new();
    };
    match (u8::try_from(value), u32::try_from(value)) {
        (Ok(byte), _) => vec![byte],
        (_, Ok(word)) => word.to_be_bytes().to_vec(),
        _ => value.to_be_bytes().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{KEY_LOG, Secret, check, logs_in, read, secret};

    /// Twenty bytes of which no eight are alike; some have a leading zero digit.
    fn bytes() -> Vec<u8> {
        (1..=20_u8).map(|n| n.wrapping_mul(73) ^ 0x4d).collect()
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn words(bytes: &[u8]) -> Vec<u32> {
        let (words, _) = bytes.as_chunks();
        words.iter().map(|word| u32::from_le_bytes(*word)).collect()
    }

    fn long_words(bytes: &[u8]) -> Vec<u64> {
        let (words, _) = bytes.as_chunks();
        words.iter().map(|word| u64::from_le_bytes(*word)).collect()
    }

    /// Encodes without padding, as the alphabet of RFC 4648 has it.
    fn base64(bytes: &[u8]) -> String {
        let alphabet: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').collect();
        let bits = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (7 - at % 8) & 1);
        (0..bytes.len() * 8)
            .step_by(6)
            .map(|at| {
                let index = (0..6).fold(0, |sum, bit| sum << 1 | bits(at + bit));
                *alphabet
                    .get(usize::from(index))
                    .unwrap_or(if index == 62 { &'+' } else { &'/' })
            })
            .collect()
    }

    fn told(log: &[u8], secret: &[u8]) -> bool {
        let logs = [("console.log".to_owned(), log.to_vec())];
        let line = check(&logs, &[Secret::new("planted", secret)]);
        let found = line.contains("| planted in console.log | FAIL");
        assert_ne!(found, line.ends_with("PASS"), "{line}");
        found
    }

    #[test]
    fn a_secret_is_found_in_every_form() {
        let secret = bytes();
        let backwards: Vec<u8> = secret.iter().rev().copied().collect();
        let forms = [
            hex(&secret),
            hex(&secret).to_uppercase(),
            hex(&backwards),
            base64(&secret),
            format!("key {:?} end", secret),
            format!("key {:x?} end", secret),
            format!("key {:#04x?} end", secret),
            secret.iter().map(|byte| format!("{byte:02X}:")).collect(),
            format!("{:x?}", words(&secret)),
            format!("{:08X?}", words(&secret)),
            format!("{:?}", words(&secret)),
            format!("{:#x?}", words(&backwards)),
            format!("{:x?}", long_words(&secret)),
            format!("{:?}", long_words(&secret)),
            words(&secret)
                .iter()
                .map(|word| format!("tsm: key word is {word:#x}\n"))
                .collect(),
            format!("x0={:#018x} x1={:#018x}", 1, long_words(&secret)[1]),
            format!("{:#018x?}", long_words(&backwards)),
        ];
        for form in forms {
            let log = format!("STEP 1 | host | c | d\n{form}\nVERDICT PASS all\n");
            assert!(told(log.as_bytes(), &secret), "{form}");
        }
        assert!(told(
            &[b"ordinary ", &secret[..], b" output"].concat(),
            &secret
        ));
    }

    #[test]
    fn eight_bytes_of_a_secret_are_enough_and_seven_are_not() {
        let secret = bytes();
        for start in 0..=secret.len() - 8 {
            let part = &secret[start..start + 8];
            for log in [part.to_vec(), hex(part).into(), base64(part).into()] {
                assert!(told(&log, &secret), "{start}");
            }
            let less = [b"output#", &part[..7]].concat();
            assert!(!told(&less, &secret) && !told(hex(&part[..7]).as_bytes(), &secret));
        }
    }

    #[test]
    fn base64_is_found_wherever_it_begins() {
        let secret = bytes();
        for shift in 0..4 {
            let before = vec![b'#'; shift];
            let log = base64(&[&before[..], &secret[4..14]].concat());
            assert!(told(format!("k={log}").as_bytes(), &secret), "{shift}");
        }
    }

    #[test]
    fn ordinary_output_tells_nothing() {
        let log = "STEP 12 | host | RMI_PDEV_CREATE 0x48000000 | 0x0 [1, 2, 3] 00000000 deadbeef\n";
        assert!(!told(log.repeat(50).as_bytes(), &bytes()));
    }

    #[test]
    fn a_run_whose_console_shows_what_the_device_calls_secret_fails() {
        let folder =
            std::env::temp_dir().join(format!("portcullis-secrets-{}", std::process::id()));
        fs::create_dir_all(folder.join("evidence")).unwrap();
        fs::write(
            folder.join("console.log"),
            "CHECK a | b | PASS\nVERDICT PASS all\n",
        )
        .unwrap();
        fs::write(folder.join("evidence/report"), [7; 64]).unwrap();
        fs::write(folder.join("keys.shm"), bytes()).unwrap();
        let run = |secret: &[u8]| {
            let line = format!("link-key {}\n", hex(secret));
            fs::write(folder.join(KEY_LOG), line).unwrap();
            check(
                &logs_in(&folder).unwrap(),
                &read(&folder.join(KEY_LOG)).unwrap(),
            )
        };
        let quiet = run(&bytes());
        let loud = run(b"..VERDICT PASS..");
        let kept = run(&[&bytes()[..4], &[7; 12]].concat());
        fs::remove_dir_all(&folder).unwrap();
        assert!(quiet.contains("1 secrets, none in 2 logs") && quiet.ends_with("PASS"));
        assert_eq!(
            loud,
            "CHECK no-log-tells-a-secret | link-key in console.log | FAIL"
        );
        assert!(kept.contains("link-key in report | FAIL"));
    }

    #[test]
    fn a_list_of_secrets_is_read_whole_or_not_at_all() {
        assert!(secret("link-key 0001020304050607").is_some());
        for line in [
            "",
            "link-key",
            "link-key 000102030405060",
            "link-key 00010203040506",
            "link-key 000102030405060g",
        ] {
            assert!(secret(line).is_none(), "{line}");
        }
        assert!(read("/no/such/file".as_ref()).is_err());
    }
}
