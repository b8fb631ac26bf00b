// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The macro behind the shared structures.

/// Where a field of a shared structure lies, for documents.
#[derive(Clone, Copy, Debug)]
pub struct WireField {
    /// Name of the field.
    pub name: &'static str,
    /// Distance from the start of the structure, in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// Makes a structure of little-endian fields whose offsets and size the compiler checks.
///
/// Reserved bytes are fields whose name starts with an underscore; make values with
/// `FromZeros::new_zeroed`, which leaves them zero.
macro_rules! wire {
    (
        $(#[$meta:meta])*
        $name:ident, $size:literal bytes {
            $($(#[$field_meta:meta])* $offset:literal $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(
            Clone,
            zerocopy::FromBytes,
            zerocopy::IntoBytes,
            zerocopy::KnownLayout,
            zerocopy::Immutable,
            zerocopy::Unaligned,
        )]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type,)*
        }

        const _: () = assert!(size_of::<$name>() == $size);
        $(const _: () = assert!(core::mem::offset_of!($name, $field) == $offset);)*

        impl $name {
            /// Every field, reserved ones included.
            pub const LAYOUT: &'static [$crate::WireField] = &[
                $($crate::WireField {
                    name: stringify!($field),
                    offset: $offset,
                    size: size_of::<$type>(),
                },)*
            ];
        }
    };
}
pub(crate) use wire;
