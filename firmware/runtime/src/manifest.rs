// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The boot manifest that the monitor leaves in the page it shares with the TSM.
//!
//! Layout: TF-A `docs/components/rmm-el3-comms-spec.rst`, boot manifest 0.5. Pointers in it are
//! physical addresses and must stay inside the page. Everything is copied out, so that a later use
//! of the page cannot change what was checked.

use heapless::Vec;
use tsm_abi::el3::BootStatus;
use tsm_platform::{GRANULE_SIZE, GranuleRange};

/// Size of the page that holds the manifest, in bytes.
pub const PAGE: usize = 4096;
/// Most memory banks, device regions of one kind, SMMUs or root complexes that are taken.
pub const MOST: usize = 8;

const VERSION: usize = 0;
const DRAM: usize = 16;
const CONSOLES: usize = 40;
const NON_COHERENT: usize = 64;
const COHERENT: usize = 88;
const SMMUS: usize = 112;
const ROOT_COMPLEXES: usize = 136;

/// What the machine has.
#[derive(Debug, Default)]
pub struct Manifest {
    /// Memory of the host.
    pub dram: Vec<GranuleRange, MOST>,
    /// Device registers and memory, not coherent and coherent.
    pub devices: Vec<GranuleRange, MOST>,
    /// Physical addresses of SMMU register pages.
    pub smmus: Vec<u64, MOST>,
    /// Physical addresses of PCI configuration windows of segment 0, 256 MiB each.
    pub ecams: Vec<u64, MOST>,
}

/// The bytes of the page and where they came from.
struct Page<'a> {
    bytes: &'a [u8; PAGE],
    address: u64,
}

impl Page<'_> {
    fn word(&self, offset: usize) -> Result<u64, BootStatus> {
        let end = offset.checked_add(8).ok_or(BootStatus::ManifestDataError)?;
        let bytes = self
            .bytes
            .get(offset..end)
            .ok_or(BootStatus::ManifestDataError)?;
        let bytes = bytes
            .try_into()
            .map_err(|_| BootStatus::ManifestDataError)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Returns the offset of the array that `pointer` names.
    fn offset(&self, pointer: u64) -> Result<usize, BootStatus> {
        let offset = pointer
            .checked_sub(self.address)
            .filter(|offset| offset.is_multiple_of(8) && *offset < PAGE as u64)
            .ok_or(BootStatus::ManifestDataError)?;
        usize::try_from(offset).map_err(|_| BootStatus::ManifestDataError)
    }

    /// Reads a list `{ count, pointer, checksum }` of entries of `words` quadwords each. The
    /// checksum makes the sum of all quadwords zero.
    fn list(
        &self,
        at: usize,
        words: usize,
        mut entry: impl FnMut(&[u64]) -> Result<(), BootStatus>,
    ) -> Result<(), BootStatus> {
        let count = self.word(at)?;
        if count == 0 {
            return Ok(());
        }
        let pointer = self.word(at + 8)?;
        let mut sum = count
            .wrapping_add(pointer)
            .wrapping_add(self.word(at + 16)?);
        if count > MOST as u64 {
            return Err(BootStatus::ManifestDataError);
        }
        let mut offset = self.offset(pointer)?;
        for _ in 0..count {
            let mut values = [0; 8];
            for value in values.iter_mut().take(words) {
                *value = self.word(offset)?;
                sum = sum.wrapping_add(*value);
                offset += 8;
            }
            entry(values.get(..words).ok_or(BootStatus::ManifestDataError)?)?;
        }
        if sum == 0 {
            Ok(())
        } else {
            Err(BootStatus::ManifestDataError)
        }
    }

    fn banks(&self, at: usize, out: &mut Vec<GranuleRange, MOST>) -> Result<(), BootStatus> {
        self.list(at, 2, |entry| {
            let [base, size] = *entry else {
                return Err(BootStatus::ManifestDataError);
            };
            let top = base
                .checked_add(size)
                .ok_or(BootStatus::ManifestDataError)?;
            let range = GranuleRange::new(base, top).ok_or(BootStatus::ManifestDataError)?;
            out.push(range).map_err(|_| BootStatus::ManifestDataError)
        })
    }

    /// Reads the root complexes. Their checksum also covers root ports, which the TSM does not
    /// need: it identifies ports by their requester ids in configuration space.
    fn root_complexes(&self, out: &mut Vec<u64, MOST>) -> Result<(), BootStatus> {
        let count = self.word(ROOT_COMPLEXES)?;
        if count > MOST as u64 {
            return Err(BootStatus::ManifestDataError);
        }
        if count == 0 {
            return Ok(());
        }
        let mut offset = self.offset(self.word(ROOT_COMPLEXES + 16)?)?;
        for _ in 0..count {
            let base = self.word(offset)?;
            let segment = self.word(offset + 8)? & 0xff;
            if !base.is_multiple_of(GRANULE_SIZE) {
                return Err(BootStatus::ManifestDataError);
            }
            if segment == 0 {
                out.push(base).map_err(|_| BootStatus::ManifestDataError)?;
            }
            offset += 24;
        }
        Ok(())
    }
}

/// Parses the manifest in `bytes`, which were at physical `address`. No bank or region may overlap
/// another one or `reserved`.
///
/// # Errors
///
/// [`BootStatus::ManifestVersionNotSupported`] or [`BootStatus::ManifestDataError`].
pub fn parse(
    bytes: &[u8; PAGE],
    address: u64,
    reserved: GranuleRange,
) -> Result<Manifest, BootStatus> {
    let page = Page { bytes, address };
    let version = page.word(VERSION)? & 0xffff_ffff;
    if version >> 16 != 0 || version & 0xffff < 5 {
        return Err(BootStatus::ManifestVersionNotSupported);
    }
    let mut manifest = Manifest::default();
    page.banks(DRAM, &mut manifest.dram)?;
    page.list(CONSOLES, 6, |_| Ok(()))?;
    page.banks(NON_COHERENT, &mut manifest.devices)?;
    page.banks(COHERENT, &mut manifest.devices)?;
    page.list(SMMUS, 2, |entry| {
        let base = *entry.first().ok_or(BootStatus::ManifestDataError)?;
        if !base.is_multiple_of(GRANULE_SIZE) {
            return Err(BootStatus::ManifestDataError);
        }
        manifest
            .smmus
            .push(base)
            .map_err(|_| BootStatus::ManifestDataError)
    })?;
    page.root_complexes(&mut manifest.ecams)?;
    if manifest.dram.is_empty() {
        return Err(BootStatus::ManifestDataError);
    }
    let mut seen: Vec<GranuleRange, { 2 * MOST + 1 }> = Vec::new();
    for range in manifest.dram.iter().chain(&manifest.devices) {
        if range.overlaps(reserved) || seen.iter().any(|other| other.overlaps(*range)) {
            return Err(BootStatus::ManifestDataError);
        }
        seen.push(*range)
            .map_err(|_| BootStatus::ManifestDataError)?;
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::{BootStatus, PAGE, parse};
    use tsm_platform::GranuleRange;

    const AT: u64 = 0x7fff_f000;

    fn reserved() -> GranuleRange {
        GranuleRange::new(0x7f00_0000, 0x8000_0000).unwrap()
    }

    struct Builder([u8; PAGE]);

    impl Builder {
        fn new() -> Self {
            let mut builder = Self([0; PAGE]);
            builder.set(0, 5);
            builder
        }

        fn set(&mut self, offset: usize, value: u64) -> &mut Self {
            self.0[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
            self
        }

        fn list(&mut self, at: usize, place: usize, words: &[u64], count: u64) -> &mut Self {
            let pointer = AT + place as u64;
            let mut sum = count.wrapping_add(pointer);
            for (index, word) in words.iter().enumerate() {
                self.set(place + 8 * index, *word);
                sum = sum.wrapping_add(*word);
            }
            self.set(at, count)
                .set(at + 8, pointer)
                .set(at + 16, sum.wrapping_neg())
        }

        fn good() -> Self {
            let mut builder = Self::new();
            builder
                .list(16, 0x200, &[0x4000_0000, 0x3f00_0000], 1)
                .list(64, 0x300, &[0x1000_0000, 0x2eff_0000], 1)
                .list(112, 0x400, &[0x0905_0000, 0], 1);
            builder
                .set(136, 1)
                .set(152, AT + 0x500)
                .set(0x500, 0x40_1000_0000);
            builder
        }
    }

    #[test]
    fn a_good_manifest_tells_memory_devices_smmu_and_ecam() {
        let manifest = parse(&Builder::good().0, AT, reserved()).unwrap();
        assert_eq!(manifest.dram[0].base(), 0x4000_0000);
        assert_eq!(manifest.devices[0].top(), 0x3eff_0000);
        assert_eq!(manifest.smmus[0], 0x0905_0000);
        assert_eq!(manifest.ecams[0], 0x40_1000_0000);
    }

    #[test]
    fn an_older_or_newer_major_version_is_refused() {
        for version in [4, 1 << 16 | 5] {
            let mut builder = Builder::good();
            builder.set(0, version);
            let outcome = parse(&builder.0, AT, reserved());
            assert_eq!(
                outcome.unwrap_err(),
                BootStatus::ManifestVersionNotSupported
            );
        }
    }

    #[test]
    fn a_wrong_checksum_is_refused() {
        let mut builder = Builder::good();
        builder.set(32, 0);
        let outcome = parse(&builder.0, AT, reserved());
        assert_eq!(outcome.unwrap_err(), BootStatus::ManifestDataError);
    }

    #[test]
    fn a_pointer_outside_the_page_is_refused() {
        for pointer in [AT - 8, AT + PAGE as u64, AT + 4, u64::MAX] {
            let mut builder = Builder::good();
            builder.set(24, pointer);
            assert!(parse(&builder.0, AT, reserved()).is_err());
        }
        // The list starts inside and ends outside.
        let mut builder = Builder::good();
        builder.list(16, PAGE - 16, &[0x4000_0000, 0x1000_0000], 1);
        builder.set(16, 2);
        assert!(parse(&builder.0, AT, reserved()).is_err());
    }

    #[test]
    fn nonsense_banks_are_refused() {
        let banks: [&[u64]; 5] = [
            &[0x4000_0000, 0],
            &[0x4000_0800, 0x1000],
            &[u64::MAX - 0xfff, 0x2000],
            &[0x7f80_0000, 0x1000],
            &[0x3000_0000, 0x1000_1000],
        ];
        for bank in banks {
            let mut builder = Builder::good();
            builder.list(16, 0x200, bank, 1);
            let outcome = parse(&builder.0, AT, reserved());
            assert_eq!(
                outcome.unwrap_err(),
                BootStatus::ManifestDataError,
                "{bank:x?}"
            );
        }
        let mut builder = Builder::good();
        builder.set(16, 0);
        assert!(parse(&builder.0, AT, reserved()).is_err());
    }
}
