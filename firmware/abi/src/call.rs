// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

//! The macro behind the call tables.

/// One row of a call table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Function id, as the caller puts it into register 0.
    pub function: u64,
    /// Name in the interface's own spelling.
    pub name: &'static str,
    /// Names of the argument registers, from register 1 on.
    pub arguments: &'static [&'static str],
    /// Names of the result registers, from register 1 on; register 0 is the status.
    pub results: &'static [&'static str],
    /// What the call does, in one line.
    pub about: &'static str,
    /// Whether this release answers the call. Otherwise it answers "not supported".
    pub implemented: bool,
}

impl Row {
    /// Returns the number of registers that the call reads, register 0 not counted.
    #[must_use]
    pub const fn arguments_used(&self) -> usize {
        self.arguments.len()
    }

    /// Returns the number of registers that the call answers in, register 0 included.
    #[must_use]
    pub const fn results_used(&self) -> usize {
        self.results.len().saturating_add(1)
    }
}

/// Function ids of the fast 64-bit calls of the standard service range are this plus a low number.
pub(crate) const STANDARD_SERVICE: u64 = 0xc400_0000;

/// Makes, from one table, the enum of calls, its decoder and encoder, and the constant rows.
///
/// `answered` rows become variants. `absent` rows are numbers that the interface defines and this
/// release does not answer: they decode to the status named in the head, and stay in the table.
macro_rules! calls {
    (
        $(#[$meta:meta])*
        $registers:literal registers, otherwise $status:ty = $unsupported:expr;
        answered {
            $($low:literal $variant:ident $name:literal ($($argument:ident),*) -> ($($result:ident),*) $about:literal;)*
        }
        absent {
            $($absent_low:literal $absent_name:literal ($($absent_argument:ident),*) -> ($($absent_result:ident),*) $absent_about:literal;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Call {
            $(
                #[doc = $about]
                $variant {
                    $(
                        #[doc = concat!("Register argument `", stringify!($argument), "`.")]
                        $argument: u64,
                    )*
                },
            )*
        }

        /// Number of argument registers that a decoder is given, from register 1 on.
        pub const REGISTERS: usize = $registers;

        /// Every call of the interface, in the order of the table.
        pub const ROWS: &[$crate::Row] = &[
            $($crate::Row {
                function: $crate::call::STANDARD_SERVICE | $low,
                name: $name,
                arguments: &[$(stringify!($argument)),*],
                results: &[$(stringify!($result)),*],
                about: $about,
                implemented: true,
            },)*
            $($crate::Row {
                function: $crate::call::STANDARD_SERVICE | $absent_low,
                name: $absent_name,
                arguments: &[$(stringify!($absent_argument)),*],
                results: &[$(stringify!($absent_result)),*],
                about: $absent_about,
                implemented: false,
            },)*
        ];

        impl Call {
            /// Turns registers into a call. Registers that the call does not use are ignored.
            ///
            /// # Errors
            /// The interface's "not supported" status if this release has no such call.
            pub fn decode(
                function: u64,
                arguments: &[u64; REGISTERS],
            ) -> Result<Self, $status> {
                let mut registers = arguments.iter().copied();
                let mut next = || registers.next().unwrap_or(0);
                match function.checked_sub($crate::call::STANDARD_SERVICE) {
                    $(Some($low) => Ok(Self::$variant { $($argument: next()),* }),)*
                    _ => {
                        let _ = next();
                        Err($unsupported)
                    }
                }
            }

            /// Turns the call into its function id and argument registers; unused ones are zero.
            #[must_use]
            pub fn encode(&self) -> (u64, [u64; REGISTERS]) {
                let mut registers = [0; REGISTERS];
                let mut slots = registers.iter_mut();
                let mut put = |value: u64| {
                    if let Some(slot) = slots.next() {
                        *slot = value;
                    }
                };
                let low: u64 = match *self {
                    $(Self::$variant { $($argument),* } => {
                        $(put($argument);)*
                        $low
                    })*
                };
                put(0);
                ($crate::call::STANDARD_SERVICE | low, registers)
            }
        }

        /// Returns the row of `function`, if the interface defines it.
        #[must_use]
        pub fn row(function: u64) -> Option<&'static $crate::Row> {
            ROWS.iter().find(|row| row.function == function)
        }

        /// Returns the name of `function`, or `"?"` if the interface does not define it.
        #[must_use]
        pub fn name(function: u64) -> &'static str {
            row(function).map_or("?", |row| row.name)
        }
    };
}
pub(crate) use calls;
