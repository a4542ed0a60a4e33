// Header of an arm64 Image, entry, translation tables, MMU on; exception vectors.
//
// In: EL1, MMU and caches off, x0 = physical address of the device tree, image at any 2 MiB-aligned address below 4 GiB.
// Tables of level 1 and 2 (39-bit addresses): everything flat and device-like, but normal memory for the image (flat and
// at its link address) and for the device tree. Rust then makes the RAM banks normal memory, too.

    .equ BLOCK_DEVICE_HIGH, 0x0060  // execute never; to be shifted by 48
    .equ BLOCK_DEVICE, 0x401        // accessed, attribute 0
    .equ BLOCK_NORMAL, 0x705        // accessed, inner shareable, attribute 1

    // Blocks of device memory from address 0 on, each of 1 << `shift` bytes. Leaves that size in x5.
    .macro  blocks table, count, shift
    mov     x0, #BLOCK_DEVICE
    movk    x0, #BLOCK_DEVICE_HIGH, lsl #48
    mov     x1, #\count
    mov     x2, \table
    mov     x5, #1 << \shift
9:  str     x0, [x2], #8
    add     x0, x0, x5
    subs    x1, x1, #1
    b.ne    9b
    .endm

    .section .text.head, "ax"
    .globl _start
_start:
    b       boot
    .word   0
    .quad   0                       // text offset
    .quad   __bss_end - _start      // what the loader leaves alone
    .quad   0xa                     // little endian, 4 KiB pages, anywhere
    .quad   0, 0, 0
    .ascii  "ARM\x64"
    .word   0

boot:
    mrs     x20, cntpct_el0         // the time of our first instructions
    msr     daifset, #15
    mov     x19, x0
    adr     x9, _start              // physical
    ldr     x10, =_start
    sub     x21, x9, x10            // physical minus virtual

    // Zero-initialised data: past the cache, so nothing of it may be in the cache.
    ldr     x0, =__bss_start
    ldr     x1, =__bss_end
    add     x0, x0, x21
    add     x1, x1, x21
    mov     x2, x0
1:  dc      civac, x2
    add     x2, x2, #32
    cmp     x2, x1
    b.lo    1b
    dsb     sy
2:  stp     xzr, xzr, [x0], #16
    cmp     x0, x1
    b.lo    2b

    ldr     x22, =__level1
    add     x22, x22, x21
    add     x3, x22, #4096          // level 2, the first 4 GiB
    blocks  x22, 512, 30
    blocks  x3, 2048, 21
    orr     x0, x3, #3              // four tables
    stp     x0, xzr, [x22]
    add     x0, x0, #4096
    str     x0, [x22, #8]
    add     x0, x0, #4096
    str     x0, [x22, #16]
    add     x0, x0, #4096
    str     x0, [x22, #24]
    mov     x1, #BLOCK_NORMAL
    lsr     x0, x19, #21            // the device tree: at most 2 MiB, so 2 blocks
    orr     x2, x1, x0, lsl #21
    add     x4, x3, x0, lsl #3
    add     x6, x2, x5
    stp     x2, x6, [x4]
    lsr     x0, x9, #21             // the image, flat
    orr     x2, x1, x0, lsl #21
    str     x2, [x3, x0, lsl #3]
    str     x2, [x3, #8]            // and at 0x00200000
    dsb     sy
    bl      mmu_on
    ldr     x0, =at_link_address
    br      x0
at_link_address:
    ldr     x0, =__stack_top
    mov     sp, x0
    ldr     x0, =vectors
    msr     vbar_el1, x0
    isb
    mov     x0, x19
    mov     x1, x21
    mov     x2, x20
    bl      guest_start
5:  wfi
    b       5b

// Another processor, started by PSCI: x0 = its number (1 to 7). MMU and caches off, as above; the tables are ready.
    .globl secondary_entry
secondary_entry:
    msr     daifset, #15
    mov     x19, x0
    adr     x9, secondary_entry
    ldr     x10, =secondary_entry
    sub     x10, x9, x10
    ldr     x22, =__level1
    add     x22, x22, x10
    bl      mmu_on
    ldr     x0, =secondary_linked
    br      x0
secondary_linked:
    ldr     x0, =__secondary_stacks
    add     x1, x19, #1
    add     x0, x0, x1, lsl #14
    mov     sp, x0
    ldr     x0, =vectors
    msr     vbar_el1, x0
    isb
    mov     x0, x19
    bl      guest_secondary
6:  wfi
    b       6b

// In: x22 = physical address of the table. Changes x0.
mmu_on:
    ldr     x0, =0xff04             // attributes: 0 device (nGnRE), 1 write-back
    msr     mair_el1, x0
    ldr     x0, =0x200803519        // TCR: 39 bits, walks write-back inner shareable, TTBR0 only, 40 bits out
    msr     tcr_el1, x0
    msr     ttbr0_el1, x22
    isb
    tlbi    vmalle1
    ic      iallu
    dsb     sy
    isb
    ldr     x0, =0x30d01805         // SCTLR: what reads as one; I, C, M
    msr     sctlr_el1, x0
    isb
    ret
    .ltorg

// All handlers run at EL1 on the stack of their processor. A handler takes the time (CNTVCT) a number of instructions after
// the vector that Rust knows: IRQ_PROLOGUE, FAULT_PROLOGUE.
    .section .text.vectors, "ax"
    .macro vector target
    .balign 128
    b       \target
    .endm
    .balign 2048
vectors:
    .rept 4                         // with SP_EL0, which nothing uses
    .balign 128
    b       .
    .endr
    vector  synchronous
    vector  irq
    vector  .
    vector  serror
    .rept 8                         // from EL0, where nothing is
    .balign 128
    b       .
    .endr

    // x4 to x17, which lie in the same place of either frame.
    .macro  middle op
    \op     x4, x5, [sp, #32]
    \op     x6, x7, [sp, #48]
    \op     x8, x9, [sp, #64]
    \op     x10, x11, [sp, #80]
    \op     x12, x13, [sp, #96]
    \op     x14, x15, [sp, #112]
    \op     x16, x17, [sp, #128]
    .endm

    .balign 128
irq:
    sub     sp, sp, #192
    stp     x0, x1, [sp]
    stp     x2, x3, [sp, #16]
    middle  stp
    stp     x18, x30, [sp, #144]
    mrs     x0, elr_el1
    mrs     x1, spsr_el1
    stp     x0, x1, [sp, #160]
    ldr     x2, =IRQ_DELAY          // 0 to 15 instructions more: gives times a resolution below one tick
    ldr     w2, [x2]
    mov     w3, #15
    sub     w2, w3, w2
    adr     x3, 7f
    add     x3, x3, x2, lsl #2
    br      x3
7:  .rept 15
    nop
    .endr
    mrs     x0, cntvct_el0
    bl      guest_irq
    ldp     x0, x1, [sp, #160]
    msr     elr_el1, x0
    msr     spsr_el1, x1
    ldp     x2, x3, [sp, #16]
    middle  ldp
    ldp     x18, x30, [sp, #144]
    ldp     x0, x1, [sp], #192
    eret

// A frame as Rust knows it: x0 to x30, ELR, SPSR.
    .macro fault is_serror
    sub     sp, sp, #272
    stp     x2, x3, [sp, #16]
    mrs     x2, cntvct_el0
    stp     x0, x1, [sp]
    mov     x1, #\is_serror
    b       fault_common
    .endm

synchronous:
    fault   0
serror:
    fault   1
fault_common:
    middle  stp
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    mrs     x3, elr_el1
    stp     x30, x3, [sp, #240]
    mrs     x3, spsr_el1
    str     x3, [sp, #256]
    mov     x0, sp
    bl      guest_fault
    ldp     x30, x3, [sp, #240]
    msr     elr_el1, x3
    ldr     x3, [sp, #256]
    msr     spsr_el1, x3
    ldp     x2, x3, [sp, #16]
    middle  ldp
    ldp     x18, x19, [sp, #144]
    ldp     x20, x21, [sp, #160]
    ldp     x22, x23, [sp, #176]
    ldp     x24, x25, [sp, #192]
    ldp     x26, x27, [sp, #208]
    ldp     x28, x29, [sp, #224]
    ldp     x0, x1, [sp], #272
    eret
    .ltorg
