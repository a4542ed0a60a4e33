@ zImage header, entry, first-level table, MMU on; exception vectors.
@
@ In: SVC mode, MMU and caches off, r2 = physical address of the device tree, image at any 1 MiB-aligned address.
@ Short-descriptor sections: everything flat and device-like, but normal memory for the image (flat and at its link
@ address) and for the device tree. Rust then makes the RAM banks normal memory, too.

    .arch_extension virt
    .syntax unified
    .arm

    .equ SECTION_DEVICE, 0x00000c16 @ device, full access, execute never
    .equ SECTION_NORMAL, 0x00011c0e @ write-back write-allocate, shareable, full access

    .section .text.head, "ax"
    .globl _start
_start:
    .rept 8
    mov     r0, r0
    .endr
    b       boot
    .word   0x016f2818              @ zImage magic
    .word   0                       @ start: position independent
    .word   __file_end - _start     @ end: bytes to copy

boot:
    mrrc    p15, 0, r4, r5, c14     @ CNTPCT: the time of our first instructions
    cpsid   aif
    mov     r8, r2
    adr     r9, _start              @ physical
    ldr     r10, =_start
    sub     r10, r9, r10            @ r10 = physical minus virtual

    @ Zero-initialised data: past the cache, so nothing of it may be in the cache.
    ldr     r0, =__bss_start
    ldr     r1, =__bss_end
    add     r0, r0, r10
    add     r1, r1, r10
    mov     r2, #0
    mov     r3, #0
1:  mcr     p15, 0, r0, c7, c14, 1  @ DCCIMVAC
    add     r0, r0, #32
    cmp     r0, r1
    blo     1b
    dsb
    ldr     r0, =__bss_start
    add     r0, r0, r10
2:  strd    r2, r3, [r0], #8
    cmp     r0, r1
    blo     2b

    ldr     r6, =__level1
    add     r6, r6, r10
    ldr     r0, =SECTION_DEVICE
    mov     r1, r6
    mov     r2, #4096
3:  str     r0, [r1], #4
    add     r0, r0, #0x100000
    subs    r2, r2, #1
    bne     3b
    ldr     r1, =SECTION_NORMAL
    lsr     r0, r8, #20             @ the device tree: at most 2 MiB, so 3 sections
    orr     r2, r1, r0, lsl #20
    add     r3, r6, r0, lsl #2
    str     r2, [r3]
    add     r2, r2, #0x100000
    str     r2, [r3, #4]
    add     r2, r2, #0x100000
    str     r2, [r3, #8]
    lsr     r0, r9, #20             @ the image, flat
    orr     r2, r1, r0, lsl #20
    add     r3, r6, r0, lsl #2
    add     r7, r2, #0x100000
    str     r2, [r3]
    str     r7, [r3, #4]
    str     r2, [r6, #8]            @ and at 0x00200000
    str     r7, [r6, #12]
    dsb

    mov     r0, #0
    mcr     p15, 0, r0, c2, c0, 2   @ TTBCR: short descriptors, TTBR0 only
    orr     r0, r6, #0x4a           @ walks: write-back write-allocate, shareable
    mcr     p15, 0, r0, c2, c0, 0   @ TTBR0
    mov     r0, #1
    mcr     p15, 0, r0, c3, c0, 0   @ DACR: domain 0 client
    mcr     p15, 0, r0, c8, c7, 0   @ TLBIALL
    mcr     p15, 0, r0, c7, c5, 0   @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6   @ BPIALL
    dsb
    isb
    mrc     p15, 0, r0, c1, c0, 0   @ SCTLR
    ldr     r1, =0x72002002         @ off: Thumb exceptions, access flag, TEX remap, big endian, high vectors, A
    bic     r0, r0, r1
    ldr     r1, =0x00001805         @ on: I, Z, C, M
    orr     r0, r0, r1
    mcr     p15, 0, r0, c1, c0, 0
    isb
    ldr     pc, =at_link_address
at_link_address:
    ldr     sp, =__stack_top
    ldr     r0, =vectors
    mcr     p15, 0, r0, c12, c0, 0  @ VBAR
    isb
    mov     r0, r8
    mov     r1, r10
    mov     r2, r4
    mov     r3, r5
    bl      guest_start
4:  wfi
    b       4b
    .ltorg

@ Another processor, started by PSCI: r0 = its number (1 to 7). MMU and caches off, as above; the tables are ready.
    .section .text.head, "ax"
    .globl secondary_entry
secondary_entry:
    cpsid   aif
    mov     r8, r0
    adr     r9, secondary_entry
    ldr     r10, =secondary_entry
    sub     r10, r9, r10
    ldr     r6, =__level1
    add     r6, r6, r10
    mov     r0, #0
    mcr     p15, 0, r0, c2, c0, 2   @ TTBCR
    orr     r0, r6, #0x4a
    mcr     p15, 0, r0, c2, c0, 0   @ TTBR0
    mov     r0, #1
    mcr     p15, 0, r0, c3, c0, 0   @ DACR
    mcr     p15, 0, r0, c8, c7, 0   @ TLBIALL
    mcr     p15, 0, r0, c7, c5, 0   @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6   @ BPIALL
    dsb
    isb
    mrc     p15, 0, r0, c1, c0, 0   @ SCTLR
    ldr     r1, =0x72002002
    bic     r0, r0, r1
    ldr     r1, =0x00001805
    orr     r0, r0, r1
    mcr     p15, 0, r0, c1, c0, 0
    isb
    ldr     pc, =secondary_linked
secondary_linked:
    ldr     sp, =__secondary_stacks
    add     r1, r8, #1
    add     sp, sp, r1, lsl #14
    ldr     r0, =vectors
    mcr     p15, 0, r0, c12, c0, 0  @ VBAR
    isb
    mov     r0, r8
    bl      guest_secondary
5:  wfi
    b       5b
    .ltorg

@ All handlers run in SVC mode on the stack of their processor. A handler first brings the state to the stack, then takes the time
@ (CNTVCT), so that the number of instructions before is a constant known to Rust: IRQ_PROLOGUE, FAULT_PROLOGUE.
    .section .text.vectors, "ax"
    .balign 32
vectors:
    b       .
    b       undefined
    b       supervisor
    b       prefetch_abort
    b       data_abort
    b       .
    b       irq
    b       .

irq:
    sub     lr, lr, #4
    srsdb   sp!, #0x13
    cps     #0x13
    push    {r0-r3, r12, lr}
    movw    r2, #:lower16:IRQ_DELAY @ 0 to 15 instructions more: gives times a resolution below one tick
    movt    r2, #:upper16:IRQ_DELAY
    ldr     r2, [r2]
    rsb     r2, r2, #15
    add     pc, pc, r2, lsl #2
    nop
    .rept 15
    nop
    .endr
    mrrc    p15, 1, r0, r1, c14
    and     r2, sp, #4
    sub     sp, sp, r2
    push    {r2, r3}
    bl      guest_irq
    pop     {r2, r3}
    add     sp, sp, r2
    pop     {r0-r3, r12, lr}
    rfeia   sp!

    .macro fault kind
    srsdb   sp!, #0x13
    cps     #0x13
    push    {r0-r12, lr}
    mrrc    p15, 1, r2, r3, c14
    mov     r1, #\kind
    b       fault_common
    .endm

undefined:
    fault   1
supervisor:
    fault   2
prefetch_abort:
    fault   3
data_abort:
    fault   4
fault_common:
    mov     r0, sp
    and     r4, sp, #4
    sub     sp, sp, r4
    bl      guest_fault
    add     sp, sp, r4
    pop     {r0-r12, lr}
    rfeia   sp!
