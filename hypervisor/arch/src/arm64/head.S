// Entry from the boot loader: Image header, checks, first page tables, MMU on, Rust.
//
// In:  EL2 (or not: then we say so), MMU and data cache off, x0 = physical address of the device tree.
//      Any 4 KiB-aligned load address below 512 GiB. Position independent until the MMU is on.
// Boot tables (4 KiB each, at __boot_tables): +0 L1 final, +1 L2 final, +2 L3 image, +3 L3 fixmap, +4 L1 temporary,
// +5 L2 temporary. The formats are those of arm32, and so is the way; 39 bits of virtual addresses, of which all but the
// first GiB serve the way to there only.

    .equ PAGE_RW, 0x74b             // valid page, attr 2 (normal WB), AP[1], inner shareable, AF
    .equ PAGE_RO, 0x7cb             // the same, read-only
    .equ BLOCK_RO, 0x7c9            // a 2 MiB block, read-only
    .equ BLOCK_DEVICE, 0x441        // a block of device memory, AP[1], AF
    .equ XN_SHIFT, 54               // execute-never
    .equ MAIR_VALUE, 0xff4404       // 0 device, 1 normal non-cacheable, 2 normal write-back

    // \reg = physical minus virtual address of the image.
    .macro offset_of_image reg, tmp
    adr     \reg, _start
    ldr     \tmp, =_start
    sub     \reg, \reg, \tmp
    .endm

    // \reg = physical address of \symbol; x20 is the offset of the image.
    .macro phys reg, symbol
    ldr     \reg, =\symbol
    add     \reg, \reg, x20
    .endm

    .section .text.head, "ax"
    .globl _start
_start:
    b       boot
    .long   0
    .quad   0                       // text offset
    .quad   _end - _start           // memory needed, zero-initialised part included
    .quad   0xa                     // little-endian, 4 KiB pages, anywhere
    .quad   0
    .quad   0
    .quad   0
    .ascii  "ARM\x64"
    .long   0

boot:
    msr     DAIFSet, #0xf
    mov     x18, x0                 // x18 = device tree (physical)
    adr     x19, _start             // x19 = load address (physical)
    offset_of_image x20, x1         // x20 = physical minus virtual

    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.ne    not_hyp

    // Zero the boot tables.
    phys    x0, __boot_tables
    phys    x1, __boot_tables_end
1:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    1b

    phys    x4, __boot_tables       // x4 = L1 final
    add     x5, x4, #0x1000         // x5 = L2 final
    add     x6, x4, #0x2000         // x6 = L3 image
    add     x7, x4, #0x3000         // x7 = L3 fixmap
    bl      map_image

    // Temporary tables: this code at its physical address and at a third address T, in another GiB than both the physical
    // and the linked one, so that the switch works for every load address.
    add     x0, x4, #0x4000         // x0 = L1 temporary
    add     x1, x4, #0x5000         // x1 = L2 temporary
    adr     x11, boot
    bl      third_gib
    orr     x2, x1, #3
    lsr     x13, x11, #30           // GiB of the physical address
    str     x2, [x0, x13, lsl #3]
    str     x2, [x0, x12, lsl #3]
    str     x2, [x4, x12, lsl #3]   // also in the final L1 until we have left T
    lsr     x2, x11, #21
    and     x13, x2, #0x1ff
    lsl     x2, x2, #21
    mov     x3, #BLOCK_RO
    orr     x2, x2, x3
    str     x2, [x1, x13, lsl #3]

    // The tables were written past the cache: drop what it may hold of them.
    mov     x1, x4
    add     x2, x4, #0x6000
    bl      drop_lines

    mov     x21, x12
    ldr     x22, =at_linked_address

// MMU on. In: x0 = temporary L1, x4 = final L1 (physical), x12 = T's GiB, x22 = where to go on (linked address).
mmu_on:
    mov     x1, #(1 << 31)          // no virtualization host extensions; guests are AArch64 ones
    msr     hcr_el2, x1
    isb
    ldr     x1, =MAIR_VALUE
    msr     mair_el2, x1
    ldr     x1, =0x80803519         // TCR_EL2: 39 bits, inner shareable write-back walks, 4 KiB
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #7              // physical address size: 48 bits at most
    cmp     x2, #5
    mov     x3, #5
    csel    x2, x2, x3, ls
    orr     x1, x1, x2, lsl #16
    msr     tcr_el2, x1
    msr     ttbr0_el2, x0
    isb
    tlbi    alle2
    ic      iallu
    dsb     sy
    isb
    ldr     x1, =0x30cd183d         // SCTLR_EL2: M, C, SA, I, WXN, and what is reserved as one
    msr     sctlr_el2, x1
    isb
    adr     x0, at_third_address
    and     x0, x0, #0x3fffffff
    orr     x0, x0, x12, lsl #30
    br      x0
at_third_address:
    msr     ttbr0_el2, x4
    isb
    tlbi    alle2
    dsb     sy
    isb
    br      x22

// x12 = the GiB of T for code at x11: 1, or 2 where the physical one is 1.
third_gib:
    lsr     x12, x11, #30
    cmp     x12, #1
    mov     x12, #1
    cinc    x12, x12, eq
    ret

// Maps the image: L1[0] -> L2; L2[1] -> L3 image (0x200000); L2[2] -> L3 fixmap (0x400000). Pages: text RX, rodata R, the
// rest RW; the guard page not at all. In: x4-x7 tables, x20. Clobbers x0-x3, x8-x11.
map_image:
    orr     x2, x5, #3
    str     x2, [x4]
    orr     x2, x6, #3
    str     x2, [x5, #8]
    orr     x2, x7, #3
    str     x2, [x5, #16]
    ldr     x0, =_start             // virtual cursor
    ldr     x1, =_end
    ldr     x8, =__text_end
    ldr     x9, =__rodata_end
    ldr     x10, =__stack_guard
    mov     x11, x6                 // entry cursor
2:  add     x2, x0, x20
    cmp     x0, x10
    b.eq    5f
    mov     x3, #PAGE_RO
    cmp     x0, x8
    b.lo    4f
    cmp     x0, x9
    b.lo    3f
    mov     x3, #PAGE_RW
3:  orr     x3, x3, #(1 << XN_SHIFT)
4:  orr     x2, x2, x3
    str     x2, [x11]
5:  add     x11, x11, #8
    add     x0, x0, #0x1000
    cmp     x0, x1
    b.lo    2b
    ret

// Drops the cache lines from x1 up to x2, both multiples of a line.
drop_lines:
    mrs     x3, ctr_el0
    ubfx    x3, x3, #16, #4
    mov     x9, #4
    lsl     x3, x9, x3
1:  dc      ivac, x1
    add     x1, x1, x3
    cmp     x1, x2
    b.lo    1b
    dsb     sy
    ret

// Entry of a secondary CPU: EL2, MMU and caches off, at the physical address of this label. The tables are ready, and the
// boot CPU has put T back into the final L1 (HypTables::open_secondary_path). A CPU that is not in EL2 stays here: the boot
// CPU reports that it did not come.
    .globl secondary_start
secondary_start:
    msr     DAIFSet, #0xf
    mrs     x0, CurrentEL
    cmp     x0, #(2 << 2)
    b.eq    2f
1:  wfe
    b       1b
2:  offset_of_image x20, x1
    phys    x4, __boot_tables
    add     x0, x4, #0x4000
    adr     x11, boot
    bl      third_gib
    ldr     x22, =secondary_at_linked_address
    b       mmu_on
secondary_at_linked_address:
    mrs     x2, mpidr_el1           // several may share the address that releases them: each waits for its turn
    and     x2, x2, #0xffffff       // as affinity() in mod.rs
    ldr     x0, =SECONDARY_AFFINITY
4:  ldar    x1, [x0]
    cmp     x1, x2
    b.eq    5f
    wfe
    b       4b
5:  ldr     x0, =SECONDARY_STACK    // taken once: a CPU that comes when nobody waits for it finds none
1:  ldaxr   x1, [x0]
    stxr    w3, xzr, [x0]
    cbnz    w3, 1b
2:  cbnz    x1, 3f
    wfe
    b       2b
3:  mov     sp, x1
    mov     x29, xzr
    mov     x30, xzr
    ldr     x0, =hyp_vectors
    msr     vbar_el2, x0
    msr     tpidr_el2, xzr          // no CpuLocal yet
    isb
    mov     x0, xzr                 // never from Secure state
    bl      arch_secondary_start
8:  wfi
    b       8b

at_linked_address:
    ldr     x3, =__boot_tables      // away with T
    str     xzr, [x3, x21, lsl #3]
    dsb     sy
    tlbi    alle2
    dsb     sy
    isb

    bl      zero_bss
    ldr     x0, =__stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    ldr     x0, =hyp_vectors
    msr     vbar_el2, x0
    msr     tpidr_el2, xzr          // no CpuLocal yet
    isb
    mov     x0, x18
    mov     x1, x19
    mov     x2, xzr                 // never from Secure state
    bl      arch_start
8:  wfi
    b       8b

zero_bss:
    ldr     x0, =__bss_start
    ldr     x1, =__bss_end
1:  cmp     x0, x1
    b.hs    2f
    str     xzr, [x0], #8
    b       1b
2:  ret

// Entered at EL1 (or EL3): nothing can run here, but the device tree can still name a console. At EL1: all of memory flat
// and device-like, and the image at its linked address, so that Rust can look for the UART and say what is wrong. The first
// 512 GiB are mapped; of the first GiB all but the place of the image.
not_hyp:
    cmp     x0, #(1 << 2)
1:  b.eq    2f
    wfe                             // EL3: no boot loader does that
    b       1b
2:  phys    x4, __boot_tables
    add     x5, x4, #0x1000
    add     x6, x4, #0x2000
    add     x7, x4, #0x3000
    mov     x2, #BLOCK_DEVICE
    orr     x2, x2, #(1 << XN_SHIFT)
    mov     x0, x4                  // L1: blocks of a GiB
    add     x1, x4, #0x1000
    mov     x3, x2
    mov     x9, #0x40000000
3:  str     x3, [x0], #8
    add     x3, x3, x9
    cmp     x0, x1
    b.lo    3b
    add     x1, x5, #0x1000         // L2: blocks of 2 MiB
    mov     x3, x2
4:  str     x3, [x0], #8
    add     x3, x3, #0x200000
    cmp     x0, x1
    b.lo    4b
    bl      map_image
    str     xzr, [x5, #16]          // no fixmap
    // The code that switches the MMU on, where it runs: its GiB is executable.
    adr     x11, boot
    lsr     x12, x11, #30
    cbz     x12, 5f
    ldr     x2, [x4, x12, lsl #3]
    and     x2, x2, #~(1 << XN_SHIFT)
    orr     x2, x2, #0x80           // read-only, or EL1 could not execute what EL0 may write
    str     x2, [x4, x12, lsl #3]
    b       6f
5:  lsr     x12, x11, #21
    ldr     x2, [x5, x12, lsl #3]
    and     x2, x2, #~(1 << XN_SHIFT)
    orr     x2, x2, #0x80
    str     x2, [x5, x12, lsl #3]
6:  mov     x1, x4
    add     x2, x4, #0x4000
    bl      drop_lines
    ldr     x1, =MAIR_VALUE
    msr     mair_el1, x1
    ldr     x1, =0x00803519         // TCR_EL1: 39 bits, no walks of TTBR1
    mrs     x2, id_aa64mmfr0_el1
    and     x2, x2, #7
    orr     x1, x1, x2, lsl #32
    msr     tcr_el1, x1
    msr     ttbr0_el1, x4
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x1, =0x30d00801         // SCTLR_EL1: M, and what is reserved as one; caches off
    ldr     x2, =not_hyp_linked
    msr     sctlr_el1, x1
    isb
    br      x2
not_hyp_linked:
    bl      zero_bss
    ldr     x0, =__stack_top
    mov     sp, x0
    mov     x29, xzr
    mov     x30, xzr
    mov     x0, x18
    mov     x1, x19
    bl      arch_not_hyp
8:  wfi
    b       8b

    .ltorg
