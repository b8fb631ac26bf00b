// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! States, flags and packed words of the host interface.

use crate::values::{BitField, values};

values! {
    /// What a guest address holds.
    Ripas {
        /// Nothing.
        Empty = 0,
        /// Private memory.
        Ram = 1,
        /// Nothing any more, because of the host.
        Destroyed = 2,
        /// Memory of a device that the realm owns.
        Dev = 3,
    }
}

values! {
    /// What a translation table entry maps.
    RttEntryState {
        /// Nothing.
        Unassigned = 0,
        /// Memory.
        Assigned = 1,
        /// A table of the next level.
        Table = 2,
        /// Device memory.
        AssignedDev = 3,
    }
}

values! {
    /// State of a physical device.
    PdevState {
        /// Created.
        New = 0,
        /// Identified; the host has to set the public key.
        NeedsKey = 1,
        /// Public key set.
        HasKey = 2,
        /// In a session.
        Ready = 3,
        /// Session ended.
        Stopped = 4,
        /// Failed.
        Error = 5,
    }
}

values! {
    /// State of an IDE stream.
    StreamState {
        /// Keys in use.
        Connected = 0,
        /// Keys being set.
        Connecting = 1,
        /// Stopped.
        Disconnected = 2,
        /// Being stopped.
        Disconnecting = 3,
        /// Keys being forgotten.
        KeyPurging = 4,
        /// Keys being replaced.
        KeyRefreshing = 5,
    }
}

values! {
    /// State of a device interface.
    VdevState {
        /// Created.
        New = 0,
        /// Known to be unlocked.
        Unlocked = 1,
        /// Locked.
        Locked = 2,
        /// Running for the realm.
        Started = 3,
        /// Failed.
        Error = 4,
        /// Keys being replaced.
        KeyRefresh = 5,
        /// Keys being forgotten.
        KeyPurge = 6,
    }
}

values! {
    /// Whether a device interface may access its realm's memory.
    VdevDmaState {
        /// It may not.
        Disabled = 0,
        /// It may.
        Enabled = 1,
    }
}

values! {
    /// State of an IOMMU.
    PsmmuState {
        /// Not used for realms.
        Inactive = 0,
        /// Changing.
        Busy = 1,
        /// Used for realms.
        Active = 2,
    }
}

values! {
    /// Hash algorithms by number.
    HashAlgorithm {
        /// SHA-256.
        Sha256 = 0,
        /// SHA-512.
        Sha512 = 1,
        /// SHA-384.
        Sha384 = 2,
    }
}

values! {
    /// Signature algorithms by number.
    SignatureAlgorithm {
        /// RSASSA with a key of 3072 bits.
        Rsassa3072 = 0,
        /// ECDSA on P-256.
        EcdsaP256 = 1,
        /// ECDSA on P-384.
        EcdsaP384 = 2,
        /// ML-DSA-65. Ours: the key is given as the SHA-384 digest of its raw form.
        MlDsa65 = 128,
        /// ML-DSA-87. Ours, too.
        MlDsa87 = 129,
    }
}

values! {
    /// Why a virtual CPU stopped running.
    ExitReason {
        /// A synchronous exception that the host has to handle.
        Sync = 0,
        /// An interrupt.
        Irq = 1,
        /// A fast interrupt.
        Fiq = 2,
        /// A power call.
        Psci = 3,
        /// The guest wants memory states changed.
        RipasChange = 4,
        /// The guest calls the host.
        HostCall = 5,
        /// An asynchronous error.
        SError = 6,
        /// The guest wants permissions changed.
        S2apChange = 7,
        /// The TSM needs to know the object of a device id.
        VdevRequest = 8,
        /// The guest wants device memory validated.
        DevMemMap = 9,
        /// The guest wants two devices bound.
        VdevP2pBinding = 10,
    }
}

values! {
    /// Whether the host lets a guest have what it asked for.
    Response {
        /// It does.
        Accept = 0,
        /// It does not.
        Reject = 1,
    }
}

values! {
    /// In which order a host takes a device interface and its memory from a realm.
    TeardownOrder {
        /// Memory is unmapped, then the interface is unlocked: the interface's own order.
        UnmapFirst = 0,
        /// The interface is unlocked, then its memory is unmapped, then it is destroyed.
        StopFirst = 1,
        /// The interface is unlocked and destroyed; its memory is masked and unmapped when the host
        /// likes.
        MaskAndReap = 2,
    }
}

values! {
    /// What the host did about the message it was given.
    CommStatus {
        /// There was none, or it is the first step.
        None = 0,
        /// The response is in the buffer.
        Response = 1,
        /// The transport failed.
        Error = 2,
    }
}

values! {
    /// Objects that the host keeps for guests.
    CommObject {
        /// Version, capabilities and algorithms exchange.
        Vca = 0,
        /// Certificate chain.
        Certificate = 1,
        /// Measurements.
        Measurements = 2,
        /// Interface report.
        InterfaceReport = 3,
    }
}

values! {
    /// How a message is carried.
    CommProtocol {
        /// As a plain SPDM message.
        Spdm = 0,
        /// As a secured SPDM record.
        SecureSpdm = 1,
    }
}

values! {
    /// Kinds of physical devices.
    PdevCategory {
        /// A root port.
        RootPort = 0,
        /// A device on a link.
        EndpointOffChip = 1,
        /// A device inside the chip.
        EndpointOnChip = 2,
    }
}

values! {
    /// Kinds of IDE streams.
    StreamType {
        /// For transactions without T bit.
        NonTee = 0,
        /// For realms, not coherent.
        NonCoherent = 1,
        /// For realms, coherent.
        Coherent = 2,
        /// Of the system, not coherent.
        NonCoherentSystem = 3,
        /// Of the system, coherent.
        CoherentSystem = 4,
    }
}

values! {
    /// How output addresses are given.
    AddressType {
        /// Not at all.
        None = 0,
        /// As one [`RangeDescriptor`] in the register.
        Single = 1,
        /// As the address of a page of descriptors.
        List = 2,
    }
}

values! {
    /// Size of the blocks of a [`RangeDescriptor`].
    BlockSize {
        /// 4 KiB.
        Page = 0,
        /// 2 MiB.
        Block2M = 1,
        /// 1 GiB.
        Block1G = 2,
        /// 512 GiB.
        Block512G = 3,
    }
}

impl BlockSize {
    /// Returns the size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Page => 1 << 12,
            Self::Block2M => 1 << 21,
            Self::Block1G => 1 << 30,
            Self::Block512G => 1 << 39,
        }
    }
}

/// A run of physical blocks in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeDescriptor(pub u64);

impl RangeDescriptor {
    const SIZE: BitField = BitField::new(0, 2);
    const COUNT: BitField = BitField::new(2, 10);
    const ADDRESS: BitField = BitField::new(12, 40);
    const STATE: BitField = BitField::new(63, 1);
    /// Largest number of blocks that one descriptor can hold.
    pub const MAX_COUNT: u64 = 1023;

    /// Returns the descriptor of `count` (at most [`Self::MAX_COUNT`]) blocks at `address`.
    #[must_use]
    pub const fn new(address: u64, size: BlockSize, count: u64) -> Self {
        Self(
            (address & Self::ADDRESS.mask())
                | Self::COUNT.place(count)
                | Self::SIZE.place(size.word()),
        )
    }

    /// Returns the address of the first block.
    #[must_use]
    pub const fn address(self) -> u64 {
        self.0 & Self::ADDRESS.mask()
    }

    /// Returns the number of blocks.
    #[must_use]
    pub const fn count(self) -> u64 {
        Self::COUNT.of(self.0)
    }

    /// Returns the size of each block.
    #[must_use]
    pub const fn size(self) -> BlockSize {
        match Self::SIZE.of(self.0) {
            0 => BlockSize::Page,
            1 => BlockSize::Block2M,
            2 => BlockSize::Block1G,
            _ => BlockSize::Block512G,
        }
    }

    /// Returns the number of bytes described, if it fits into a word.
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        self.count().checked_mul(self.size().bytes())
    }

    /// Sets the state bit: the memory is the host's.
    #[must_use]
    pub const fn undelegated(self) -> Self {
        Self(self.0 | Self::STATE.mask())
    }

    /// Returns whether the state bit says that the memory is the host's.
    #[must_use]
    pub const fn is_undelegated(self) -> bool {
        Self::STATE.of(self.0) == 1
    }

    /// Returns whether bits that have no meaning are set.
    #[must_use]
    pub const fn has_reserved_bits(self) -> bool {
        let known =
            Self::SIZE.mask() | Self::COUNT.mask() | Self::ADDRESS.mask() | Self::STATE.mask();
        self.0 & !known != 0
    }
}

/// What an incomplete operation wants to be given, in one word: delegated blocks in any place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DonateRequest(pub u64);

impl DonateRequest {
    const SIZE: BitField = BitField::new(0, 2);
    const COUNT: BitField = BitField::new(2, 14);

    /// Returns the request for `count` pages.
    #[must_use]
    pub const fn pages(count: u64) -> Self {
        Self(Self::SIZE.place(BlockSize::Page.word()) | Self::COUNT.place(count))
    }

    /// Returns the number of blocks.
    #[must_use]
    pub const fn count(self) -> u64 {
        Self::COUNT.of(self.0)
    }
}

/// The flags of the calls that map and unmap ranges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapFlags(pub u64);

impl MapFlags {
    const ADDRESS_TYPE: BitField = BitField::new(0, 2);
    const LIST_COUNT: BitField = BitField::new(2, 14);
    const MEMORY_ATTRIBUTE: BitField = BitField::new(16, 3);
    const PERMISSIONS: BitField = BitField::new(19, 4);
    /// Permission bit: the guest may write.
    pub const WRITE: u64 = 1;
    /// Permission bit: the guest may read.
    pub const READ: u64 = 2;

    /// Returns flags for one descriptor in the register.
    #[must_use]
    pub const fn single() -> Self {
        Self(Self::ADDRESS_TYPE.place(AddressType::Single.word()))
    }

    /// Returns flags for a list of `count` descriptors.
    #[must_use]
    pub const fn list(count: u64) -> Self {
        Self(Self::ADDRESS_TYPE.place(AddressType::List.word()) | Self::LIST_COUNT.place(count))
    }

    /// Adds the memory attribute and permissions of a mapping in the shared half.
    #[must_use]
    pub const fn with_access(self, attribute: u64, permissions: u64) -> Self {
        Self(
            self.0 | Self::MEMORY_ATTRIBUTE.place(attribute) | Self::PERMISSIONS.place(permissions),
        )
    }

    /// Returns how output addresses are given, if the field holds a known value.
    #[must_use]
    pub const fn address_type(self) -> Option<AddressType> {
        AddressType::from_word(Self::ADDRESS_TYPE.of(self.0))
    }

    /// Returns the number of list entries.
    #[must_use]
    pub const fn list_count(self) -> u64 {
        Self::LIST_COUNT.of(self.0)
    }

    /// Returns the memory attribute field.
    #[must_use]
    pub const fn memory_attribute(self) -> u64 {
        Self::MEMORY_ATTRIBUTE.of(self.0)
    }

    /// Returns the permission field.
    #[must_use]
    pub const fn permissions(self) -> u64 {
        Self::PERMISSIONS.of(self.0)
    }
}

bitflags::bitflags! {
    /// Flags of a realm to create.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RealmFlags0: u64 {
        /// 52-bit addresses.
        const LPA2 = 1 << 0;
        /// Scalable vectors.
        const SVE = 1 << 1;
        /// Performance counters.
        const PMU = 1 << 2;
        /// Devices may be assigned.
        const DA = 1 << 3;
    }
}

bitflags::bitflags! {
    /// Flags of a virtual CPU to create.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RecParamsFlags: u64 {
        /// It can run at once.
        const RUNNABLE = 1 << 0;
    }
}

bitflags::bitflags! {
    /// What the host answers and wants when it enters a virtual CPU.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RecEnterFlags: u64 {
        /// The host emulated the access; register 0 holds what was read.
        const EMULATED_MMIO = 1 << 0;
        /// The access ends in an external abort.
        const INJECT_SEA = 1 << 1;
        /// Exit when the guest waits for an interrupt.
        const TRAP_WFI = 1 << 2;
        /// Exit when the guest waits for an event.
        const TRAP_WFE = 1 << 3;
        /// The host rejects the change of memory state.
        const RIPAS_RESPONSE = 1 << 4;
        /// The host rejects the change of permissions.
        const S2AP_RESPONSE = 1 << 5;
        /// The host rejects the validation of device memory.
        const DEV_MEM_RESPONSE = 1 << 6;
        /// Return to plane 0.
        const FORCE_P0 = 1 << 7;
    }
}

bitflags::bitflags! {
    /// What the host is to do between two steps of an exchange.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DevCommExitFlags: u64 {
        /// Keep a slice of the request.
        const REQ_CACHE = 1 << 0;
        /// Keep a slice of the response.
        const RSP_CACHE = 1 << 1;
        /// Send the request.
        const REQ_SEND = 1 << 2;
        /// Wait for a response.
        const RSP_WAIT = 1 << 3;
        /// Forget what was kept of the object before.
        const RSP_RESET = 1 << 4;
        /// More than one response follows.
        const MULTI = 1 << 5;
        /// The other end of the stream must be advanced first.
        const STREAM_WAIT = 1 << 6;
    }
}

bitflags::bitflags! {
    /// Flags of a physical device to create; bits 2:1 hold the [`PdevCategory`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PdevFlags: u64 {
        /// The device speaks SPDM.
        const SPDM = 1 << 0;
        /// The two bits of the category.
        const CATEGORY = 3 << 1;
    }
}

impl PdevFlags {
    /// Returns flags with `category`.
    #[must_use]
    pub const fn with_category(self, category: PdevCategory) -> Self {
        Self::from_bits_retain(self.bits() | BitField::new(1, 2).place(category.word()))
    }

    /// Returns the category, if the field holds a known value.
    #[must_use]
    pub const fn category(self) -> Option<PdevCategory> {
        PdevCategory::from_word(BitField::new(1, 2).of(self.bits()))
    }
}

bitflags::bitflags! {
    /// Which measurements to fetch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VdevMeasureFlags: u64 {
        /// As raw bit streams where the device has them.
        const RAW = 1 << 0;
    }
}

bitflags::bitflags! {
    /// What a record of refused requests says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct IommuFaultFlags: u64 {
        /// There is a record. Otherwise the other results are zero.
        const VALID = 1 << 0;
        /// The requests were writes.
        const WRITE = 1 << 1;
        /// A guest had the stream: nothing but the number of requests is told.
        const OF_GUEST = 1 << 2;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        AddressType, BlockSize, DonateRequest, MapFlags, PdevCategory, PdevFlags, RangeDescriptor,
    };

    #[test]
    fn a_range_descriptor_packs_address_count_and_size() {
        let range = RangeDescriptor::new(0x8_4000_0000, BlockSize::Block2M, 3);
        assert_eq!(range.0, 0x8_4000_0000 | 3 << 2 | 1);
        assert_eq!((range.address(), range.count()), (0x8_4000_0000, 3));
        assert_eq!(range.bytes(), Some(3 << 21));
        assert!(!range.has_reserved_bits() && !range.is_undelegated());
        assert!(RangeDescriptor(1 << 52).has_reserved_bits());
        assert!(range.undelegated().is_undelegated());
        assert_eq!(range.undelegated().0, range.0 | 1 << 63);
    }

    #[test]
    fn a_request_for_pages_is_a_count_above_a_size() {
        assert_eq!(DonateRequest::pages(4).0, 4 << 2);
        // Contiguous blocks and undelegated ones have bits of their own.
        assert_eq!(DonateRequest(3 << 16 | 9 << 2 | 1).count(), 9);
    }

    #[test]
    fn map_flags_name_the_address_type_and_the_access() {
        let flags = MapFlags::list(5).with_access(7, MapFlags::READ | MapFlags::WRITE);
        assert_eq!(flags.0, 2 | 5 << 2 | 7 << 16 | 3 << 19);
        assert_eq!(flags.address_type(), Some(AddressType::List));
        assert_eq!((flags.list_count(), flags.permissions()), (5, 3));
        assert_eq!(MapFlags(3).address_type(), None);
    }

    #[test]
    fn the_category_of_a_device_is_found_in_its_flags() {
        let flags = PdevFlags::SPDM.with_category(PdevCategory::EndpointOffChip);
        assert_eq!(flags.bits(), 3);
        assert_eq!(flags.category(), Some(PdevCategory::EndpointOffChip));
        assert_eq!(PdevFlags::from_bits_retain(6).category(), None);
    }
}
