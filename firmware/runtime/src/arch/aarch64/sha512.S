// Copyright The Portcullis authors
// SPDX-License-Identifier: Apache-2.0 OR MIT

// SHA-512 (FIPS 180-4, 6.4.2) with FEAT_SHA512, in registers V0 to V15. Two rounds at a time.

    .arch_extension fp
    .arch_extension simd
    .arch_extension sha3

    // The state is in pairs of words: a and b, c and d, e and f, g and h. After two rounds \gh
    // holds the new a and b, \new the new e and f, and the old pairs have moved on.
    .macro prepare512 cd, ef, gh, m0
    ldr     q5, [x3], #16
    add     v5.2d, v5.2d, v\m0\().2d
    ext     v5.16b, v5.16b, v5.16b, #8
    ext     v6.16b, v\ef\().16b, v\gh\().16b, #8
    ext     v7.16b, v\cd\().16b, v\ef\().16b, #8
    add     v\gh\().2d, v\gh\().2d, v5.2d
    .endm
    .macro apply512 ab, cd, gh, new
    sha512h q\gh, q6, v7.2d
    add     v\new\().2d, v\cd\().2d, v\gh\().2d
    sha512h2 q\gh, q\cd, v\ab\().2d
    .endm

    // \m0 becomes the words of 16 rounds later.
    .macro rounds512 ab, cd, ef, gh, new, m0, m1, m4, m5, m7
    prepare512 \cd, \ef, \gh, \m0
    sha512su0 v\m0\().2d, v\m1\().2d
    ext     v5.16b, v\m4\().16b, v\m5\().16b, #8
    sha512su1 v\m0\().2d, v\m7\().2d, v5.2d
    apply512 \ab, \cd, \gh, \new
    .endm
    .macro last512 ab, cd, ef, gh, new, m0
    prepare512 \cd, \ef, \gh, \m0
    apply512 \ab, \cd, \gh, \new
    .endm

    .section .text.sha512, "ax"

// extern "C" fn sha512_blocks(state: *mut [u64; 8], blocks: *const [u8; 128], count: usize)
// `count` is not zero.
    .global sha512_blocks
sha512_blocks:
    ldp     q0, q1, [x0]
    ldp     q2, q3, [x0, #32]
1:  adrp    x3, sha512_constants
    add     x3, x3, :lo12:sha512_constants
    ldp     q8, q9, [x1], #32
    ldp     q10, q11, [x1], #32
    ldp     q12, q13, [x1], #32
    ldp     q14, q15, [x1], #32
    .irp n, 8, 9, 10, 11, 12, 13, 14, 15
    rev64   v\n\().16b, v\n\().16b
    .endr
    rounds512 0, 1, 2, 3, 4, 8, 9, 12, 13, 15
    rounds512 3, 0, 4, 2, 1, 9, 10, 13, 14, 8
    rounds512 2, 3, 1, 4, 0, 10, 11, 14, 15, 9
    rounds512 4, 2, 0, 1, 3, 11, 12, 15, 8, 10
    rounds512 1, 4, 3, 0, 2, 12, 13, 8, 9, 11
    rounds512 0, 1, 2, 3, 4, 13, 14, 9, 10, 12
    rounds512 3, 0, 4, 2, 1, 14, 15, 10, 11, 13
    rounds512 2, 3, 1, 4, 0, 15, 8, 11, 12, 14
    rounds512 4, 2, 0, 1, 3, 8, 9, 12, 13, 15
    rounds512 1, 4, 3, 0, 2, 9, 10, 13, 14, 8
    rounds512 0, 1, 2, 3, 4, 10, 11, 14, 15, 9
    rounds512 3, 0, 4, 2, 1, 11, 12, 15, 8, 10
    rounds512 2, 3, 1, 4, 0, 12, 13, 8, 9, 11
    rounds512 4, 2, 0, 1, 3, 13, 14, 9, 10, 12
    rounds512 1, 4, 3, 0, 2, 14, 15, 10, 11, 13
    rounds512 0, 1, 2, 3, 4, 15, 8, 11, 12, 14
    rounds512 3, 0, 4, 2, 1, 8, 9, 12, 13, 15
    rounds512 2, 3, 1, 4, 0, 9, 10, 13, 14, 8
    rounds512 4, 2, 0, 1, 3, 10, 11, 14, 15, 9
    rounds512 1, 4, 3, 0, 2, 11, 12, 15, 8, 10
    rounds512 0, 1, 2, 3, 4, 12, 13, 8, 9, 11
    rounds512 3, 0, 4, 2, 1, 13, 14, 9, 10, 12
    rounds512 2, 3, 1, 4, 0, 14, 15, 10, 11, 13
    rounds512 4, 2, 0, 1, 3, 15, 8, 11, 12, 14
    rounds512 1, 4, 3, 0, 2, 8, 9, 12, 13, 15
    rounds512 0, 1, 2, 3, 4, 9, 10, 13, 14, 8
    rounds512 3, 0, 4, 2, 1, 10, 11, 14, 15, 9
    rounds512 2, 3, 1, 4, 0, 11, 12, 15, 8, 10
    rounds512 4, 2, 0, 1, 3, 12, 13, 8, 9, 11
    rounds512 1, 4, 3, 0, 2, 13, 14, 9, 10, 12
    rounds512 0, 1, 2, 3, 4, 14, 15, 10, 11, 13
    rounds512 3, 0, 4, 2, 1, 15, 8, 11, 12, 14
    last512 2, 3, 1, 4, 0, 8
    last512 4, 2, 0, 1, 3, 9
    last512 1, 4, 3, 0, 2, 10
    last512 0, 1, 2, 3, 4, 11
    last512 3, 0, 4, 2, 1, 12
    last512 2, 3, 1, 4, 0, 13
    last512 4, 2, 0, 1, 3, 14
    last512 1, 4, 3, 0, 2, 15
    // After 40 pairs of rounds every pair is in its place again.
    ldp     q5, q6, [x0]
    ldp     q7, q8, [x0, #32]
    add     v0.2d, v0.2d, v5.2d
    add     v1.2d, v1.2d, v6.2d
    add     v2.2d, v2.2d, v7.2d
    add     v3.2d, v3.2d, v8.2d
    stp     q0, q1, [x0]
    stp     q2, q3, [x0, #32]
    subs    x2, x2, #1
    b.ne    1b
    ret

    .section .rodata.sha512, "a"
    .balign 16
sha512_constants:
    .quad   0x428a2f98d728ae22, 0x7137449123ef65cd
    .quad   0xb5c0fbcfec4d3b2f, 0xe9b5dba58189dbbc
    .quad   0x3956c25bf348b538, 0x59f111f1b605d019
    .quad   0x923f82a4af194f9b, 0xab1c5ed5da6d8118
    .quad   0xd807aa98a3030242, 0x12835b0145706fbe
    .quad   0x243185be4ee4b28c, 0x550c7dc3d5ffb4e2
    .quad   0x72be5d74f27b896f, 0x80deb1fe3b1696b1
    .quad   0x9bdc06a725c71235, 0xc19bf174cf692694
    .quad   0xe49b69c19ef14ad2, 0xefbe4786384f25e3
    .quad   0x0fc19dc68b8cd5b5, 0x240ca1cc77ac9c65
    .quad   0x2de92c6f592b0275, 0x4a7484aa6ea6e483
    .quad   0x5cb0a9dcbd41fbd4, 0x76f988da831153b5
    .quad   0x983e5152ee66dfab, 0xa831c66d2db43210
    .quad   0xb00327c898fb213f, 0xbf597fc7beef0ee4
    .quad   0xc6e00bf33da88fc2, 0xd5a79147930aa725
    .quad   0x06ca6351e003826f, 0x142929670a0e6e70
    .quad   0x27b70a8546d22ffc, 0x2e1b21385c26c926
    .quad   0x4d2c6dfc5ac42aed, 0x53380d139d95b3df
    .quad   0x650a73548baf63de, 0x766a0abb3c77b2a8
    .quad   0x81c2c92e47edaee6, 0x92722c851482353b
    .quad   0xa2bfe8a14cf10364, 0xa81a664bbc423001
    .quad   0xc24b8b70d0f89791, 0xc76c51a30654be30
    .quad   0xd192e819d6ef5218, 0xd69906245565a910
    .quad   0xf40e35855771202a, 0x106aa07032bbd1b8
    .quad   0x19a4c116b8d2d0c8, 0x1e376c085141ab53
    .quad   0x2748774cdf8eeb99, 0x34b0bcb5e19b48a8
    .quad   0x391c0cb3c5c95a63, 0x4ed8aa4ae3418acb
    .quad   0x5b9cca4f7763e373, 0x682e6ff3d6b2b8a3
    .quad   0x748f82ee5defb2fc, 0x78a5636f43172f60
    .quad   0x84c87814a1f0ab72, 0x8cc702081a6439ec
    .quad   0x90befffa23631e28, 0xa4506cebde82bde9
    .quad   0xbef9a3f7b2c67915, 0xc67178f2e372532b
    .quad   0xca273eceea26619c, 0xd186b8c721c0c207
    .quad   0xeada7dd6cde0eb1e, 0xf57d4f7fee6ed178
    .quad   0x06f067aa72176fba, 0x0a637dc5a2c898a6
    .quad   0x113f9804bef90dae, 0x1b710b35131c471b
    .quad   0x28db77f523047d84, 0x32caab7b40c72493
    .quad   0x3c9ebe0a15c9bebc, 0x431d67c49c100d4c
    .quad   0x4cc5d4becb3e42b6, 0x597f299cfc657e2a
    .quad   0x5fcb6fab3ad6faec, 0x6c44198c4a475817
