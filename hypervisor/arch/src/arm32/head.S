@ Entry from the boot loader: zImage header, checks, first page tables, MMU on, Rust.
@
@ In:  Hyp mode, or Secure state (then we go to Hyp mode ourselves: enter_hyp); in another mode we say so. MMU and data
@      cache off, r2 = physical address of the device tree.
@      Any 4 KiB-aligned load address. Position independent until the MMU is on.
@ Boot tables (4 KiB each, at __boot_tables): +0 L1 final, +1 L2 final, +2 L3 image, +3 L3 fixmap, +4 L1 temporary,
@ +5 L2 temporary. The not-Hyp path has short-descriptor tables there instead.

    .arch_extension virt
    .arch_extension sec
    .syntax unified
    .arm

    .equ PAGE_RW, 0x74b             @ valid page, attr 2 (normal WB), AP[1], inner shareable, AF
    .equ PAGE_RO, 0x7cb             @ the same, read-only
    .equ BLOCK_RO, 0x7c9            @ a 2 MiB block, read-only
    .equ XN_HIGH, 0x00400000        @ execute-never, in the descriptor's upper word

    .section .text.head, "ax"
    .globl _start
_start:
    .rept 8
    mov     r0, r0
    .endr
    b       boot
    .word   0x016f2818              @ zImage magic
    .word   0                       @ start address: position independent
    .word   _end - _start           @ memory needed, zero-initialised part included

boot:
    cpsid   aif
    mov     r8, r2                  @ r8 = device tree (physical)
    adr     r9, _start              @ r9 = load address (physical)
    ldr     r10, =_start
    sub     r10, r9, r10            @ r10 = physical minus virtual

    mrs     r0, cpsr
    and     r0, r0, #0x1f
    cmp     r0, #0x1a
    bne     1f
    mov     r0, #0
    mcr     p15, 4, r0, c13, c0, 2  @ HTPIDR: entered in Hyp mode
    b       2f
1:  ldr     r1, =not_hyp
    add     r1, r1, r10
    bl      enter_hyp
2:  mrc     p15, 0, r0, c0, c1, 1   @ ID_PFR1
    and     r0, r0, #0xf000
    cmp     r0, #0x1000
    bne     not_hyp

    @ Zero the boot tables.
    ldr     r0, =__boot_tables
    ldr     r1, =__boot_tables_end
    add     r0, r0, r10
    add     r1, r1, r10
    mov     r2, #0
    mov     r3, #0
1:  strd    r2, r3, [r0], #8
    cmp     r0, r1
    blo     1b

    ldr     r4, =__boot_tables
    add     r4, r4, r10             @ r4 = L1 final (physical)
    add     r5, r4, #0x1000         @ r5 = L2 final
    add     r6, r4, #0x2000         @ r6 = L3 image
    add     r7, r4, #0x3000         @ r7 = L3 fixmap
    mov     r3, #0

    @ L1[0] -> L2; L2[1] -> L3 image (0x200000); L2[2] -> L3 fixmap (0x400000)
    orr     r2, r5, #3
    strd    r2, r3, [r4]
    orr     r2, r6, #3
    strd    r2, r3, [r5, #8]
    orr     r2, r7, #3
    strd    r2, r3, [r5, #16]

    @ Image pages: text RX, rodata R, the rest RW; the guard page not at all.
    ldr     r0, =_start             @ virtual cursor
    ldr     r1, =_end
    mov     r12, r6                 @ entry cursor
2:  add     r2, r0, r10             @ physical page
    ldr     r11, =__text_end
    cmp     r0, r11
    blo     3f
    ldr     r11, =__rodata_end
    cmp     r0, r11
    blo     4f
    ldr     r11, =__stack_guard
    cmp     r0, r11
    beq     6f
    ldr     r11, =PAGE_RW
    b       5f
3:  ldr     r11, =PAGE_RO
    mov     r3, #0
    b       7f
4:  ldr     r11, =PAGE_RO
5:  mov     r3, #XN_HIGH
7:  orr     r2, r2, r11
    strd    r2, r3, [r12]
6:  add     r12, r12, #8
    add     r0, r0, #0x1000
    cmp     r0, r1
    blo     2b

    @ Temporary tables: this code at its physical address and at a third address T that differs from both the physical
    @ and the linked one in the top two bits, so that the switch works for every load address.
    add     r0, r4, #0x4000         @ r0 = L1 temporary
    add     r1, r4, #0x5000         @ r1 = L2 temporary
    adr     r11, boot
    lsr     r11, r11, #30           @ GiB of the physical address
    mov     r12, #1                 @ T's GiB: 1, or 2 where the physical one is 1
    cmp     r11, #1
    moveq   r12, #2
    mov     r3, #0
    orr     r2, r1, #3
    add     r11, r0, r11, lsl #3
    strd    r2, r3, [r11]
    add     r11, r0, r12, lsl #3
    strd    r2, r3, [r11]
    add     r11, r4, r12, lsl #3    @ also in the final L1 until we have left T
    strd    r2, r3, [r11]
    adr     r2, boot
    lsr     r2, r2, #21
    ldr     r11, =0x1ff
    and     r11, r2, r11
    add     r11, r1, r11, lsl #3
    lsl     r2, r2, #21
    ldr     r1, =BLOCK_RO
    orr     r2, r2, r1
    strd    r2, r3, [r11]

    @ The tables were written past the cache: drop what it may hold of them.
    mov     r1, r4
    add     r2, r4, #0x6000
3:  mcr     p15, 0, r1, c7, c6, 1   @ DCIMVAC
    add     r1, r1, #32
    cmp     r1, r2
    blo     3b
    dsb

    add     r3, r4, r12, lsl #3     @ kept: physical address of the entry to remove (turned virtual below)
    ldr     r7, =at_linked_address

@ MMU on. In: r0 = temporary L1, r4 = final L1 (physical), r12 = T's GiB, r7 = where to go on (linked address).
@ Keeps r3 and r8-r10.
mmu_on:
    ldr     r1, =0x00ff4404         @ HMAIR0: 0 device, 1 normal non-cacheable, 2 normal write-back
    mcr     p15, 4, r1, c10, c2, 0
    mov     r1, #0
    mcr     p15, 4, r1, c10, c2, 1
    ldr     r1, =0x80803500         @ HTCR: 4 GiB, inner shareable write-back walks
    mcr     p15, 4, r1, c2, c0, 2
    mov     r1, #0
    mcrr    p15, 4, r0, r1, c2      @ HTTBR = temporary
    isb
    mcr     p15, 4, r0, c8, c7, 0   @ TLBIALLH
    mcr     p15, 0, r0, c7, c5, 0   @ ICIALLU
    mcr     p15, 0, r0, c7, c5, 6   @ BPIALL
    dsb
    isb
    ldr     r1, =0x30cd187d         @ HSCTLR: M, C, I, WXN
    mcr     p15, 4, r1, c1, c0, 0
    isb
    adr     r0, at_third_address
    bic     r0, r0, #0xc0000000
    orr     r0, r0, r12, lsl #30
    mov     r2, #0
    bx      r0
at_third_address:
    mcrr    p15, 4, r4, r2, c2      @ HTTBR = final
    isb
    mcr     p15, 4, r0, c8, c7, 0   @ TLBIALLH
    dsb
    isb
    bx      r7

@ Entry of a secondary CPU: Hyp mode or Secure state, MMU and caches off, at the physical address of this label. The tables
@ are ready, and the boot CPU has put T back into the final L1 (HypTables::open_secondary_path). A CPU in another mode stays
@ here: the boot CPU reports that it did not come.
    .globl secondary_start
secondary_start:
    cpsid   aif
    mrs     r0, cpsr
    and     r0, r0, #0x1f
    cmp     r0, #0x1a
    bne     1f
    mov     r0, #0
    mcr     p15, 4, r0, c13, c0, 2  @ HTPIDR: entered in Hyp mode
    b       2f
1:  adr     r1, stay
    bl      enter_hyp
2:  adr     r9, _start
    ldr     r10, =_start
    sub     r10, r9, r10
    ldr     r4, =__boot_tables
    add     r4, r4, r10
    add     r0, r4, #0x4000
    adr     r11, boot
    lsr     r11, r11, #30
    mov     r12, #1
    cmp     r11, #1
    moveq   r12, #2
    ldr     r7, =secondary_at_linked_address
    b       mmu_on
secondary_at_linked_address:
    ldr     r0, =SECONDARY_STACK    @ taken once: a CPU that comes when nobody waits for it finds none
    mov     r2, #0
1:  ldrex   r1, [r0]
    strex   r3, r2, [r0]
    cmp     r3, #0
    bne     1b
    cmp     r1, #0
2:  wfeeq
    beq     2b
    dmb
    mov     sp, r1
    ldr     r0, =hyp_vectors
    mcr     p15, 4, r0, c12, c0, 0  @ HVBAR
    mrc     p15, 4, r0, c13, c0, 2  @ HTPIDR: how it was entered
    mov     r1, #0
    mcr     p15, 4, r1, c13, c0, 2  @ HTPIDR: no CpuLocal yet
    isb
    bl      arch_secondary_start
8:  wfi
    b       8b
stay:
    wfe
    b       stay

at_linked_address:
    sub     r3, r3, r10
    mov     r0, #0
    mov     r1, #0
    strd    r0, r1, [r3]
    dsb
    mcr     p15, 4, r0, c8, c7, 0   @ TLBIALLH
    dsb
    isb

    bl      zero_bss
    ldr     sp, =__stack_top
    ldr     r0, =hyp_vectors
    mcr     p15, 4, r0, c12, c0, 0  @ HVBAR
    mrc     p15, 4, r2, c13, c0, 2  @ HTPIDR: how it was entered
    mov     r0, #0
    mcr     p15, 4, r0, c13, c0, 2  @ HTPIDR: no CpuLocal yet
    isb
    mov     r0, r8
    mov     r1, r9
    bl      arch_start
8:  wfi
    b       8b

@ Goes from a privileged mode of Secure state to Hyp mode. This CPU's firmware left that to us, so there is none, and the
@ monitor below stays as what little of it we need. Returns to lr in Hyp mode with 1 in HTPIDR; branches to r1 if the CPU
@ is in Non-secure state (from Undefined mode perhaps) or lacks an extension. Changes r0-r3.
enter_hyp:
    mrc     p15, 0, r0, c0, c1, 1   @ ID_PFR1: Security and Virtualization Extensions
    tst     r0, #0xf0
    bxeq    r1
    tst     r0, #0xf000
    bxeq    r1
    mov     r2, lr
    @ Which state we are in can only be tried: in Non-secure state reading SCR is undefined (B4.1.129).
    mrc     p15, 0, r0, c1, c0, 0   @ SCTLR: vectors at VBAR, exceptions in Arm code
    bic     r0, r0, #(1 << 13)
    bic     r0, r0, #(1 << 30)
    mcr     p15, 0, r0, c1, c0, 0
    adr     r3, probe_vectors
    mcr     p15, 0, r3, c12, c0, 0  @ VBAR
    isb
    mrc     p15, 0, r0, c1, c1, 0   @ SCR
    cps     #0x16                   @ Monitor mode: Secure whatever SCR.NS says
    mov     lr, r2
    mrc     p15, 0, r0, c0, c0, 0   @ MIDR
    ubfx    r2, r0, #4, #12
    lsr     r0, r0, #24
    cmp     r0, #0x41
    bne     1f
    ldr     r0, =0xc07              @ Cortex-A7, A12, A15, A17: in coherency before its caches are used; only Secure may
    cmp     r2, r0
    ldrne   r0, =0xc0d
    cmpne   r2, r0
    ldrne   r0, =0xc0e
    cmpne   r2, r0
    ldrne   r0, =0xc0f
    cmpne   r2, r0
    bne     1f
    mrc     p15, 0, r0, c1, c0, 1   @ ACTLR
    orr     r0, r0, #0x40           @ SMP
    mcr     p15, 0, r0, c1, c0, 1
1:  adr     r0, monitor_vectors
    mcr     p15, 0, r0, c12, c0, 1  @ MVBAR
    ldr     r0, =0x3fff
    mcr     p15, 0, r0, c1, c1, 2   @ NSACR: all coprocessors, VFP and NEON among them
    ldr     r0, =0x131              @ SCR: NS, HCE; A and F are Non-secure state's to mask; none comes to Monitor mode
    mcr     p15, 0, r0, c1, c1, 0
    isb
    @ Hyp mode's registers, which a reset leaves unknown.
    mov     r0, #0
    mcr     p15, 4, r0, c1, c1, 0   @ HCR
    mcrr    p15, 4, r0, r0, c14     @ CNTVOFF
    ldr     r2, =0x30c50830         @ HSCTLR: MMU and caches off
    mcr     p15, 4, r2, c1, c0, 0
    mov     r0, #1
    mcr     p15, 4, r0, c13, c0, 2  @ HTPIDR
    mov     r0, #0xda
    orr     r0, r0, #0x100          @ Hyp mode; A, I and F masked
    msr     spsr_cxsf, r0
    isb
    movs    pc, lr

    .balign 32
probe_vectors:
    b       .
    bx      r1                      @ undefined instruction
    b       .
    b       .
    b       .
    b       .
    b       .
    b       .
monitor_vectors:
    b       .
    b       .
    b       monitor_call            @ SMC
    b       .
    b       .
    b       .
    b       .
    b       .
@ What Hyp mode cannot do itself; guests do not get here, as their SMC traps. The MMU is off in Secure state.
@ r0 = 0x8300ff00: writes r2 to the device register at the physical address r1. 0x8300ff01: sets CNTFRQ to r1. r0 is then 0;
@ -1 for another function.
monitor_call:
    mov     r3, r0
    mvn     r0, #0
    sub     r3, r3, #0x83000000
    sub     r3, r3, #0xff00
    cmp     r3, #1
    mcreq   p15, 0, r1, c14, c0, 0  @ CNTFRQ
    moveq   r0, #0
    cmp     r3, #0
    streq   r2, [r1]
    dsb
    moveq   r0, #0
    movs    pc, lr

zero_bss:
    ldr     r0, =__bss_start
    ldr     r1, =__bss_end
    mov     r2, #0
    mov     r3, #0
1:  cmp     r0, r1
    strdlo  r2, r3, [r0], #8
    blo     1b
    bx      lr

@ Entered in another mode than non-secure Hyp, or on a CPU without the Virtualization Extensions: nothing can run here,
@ but the device tree can still name a console. Short-descriptor tables work on every ARMv7: all of memory flat and
@ device-like, and the image at its linked address, so that Rust can look for the UART and say what is wrong.
@ The 16 KiB first-level table and two 1 KiB second-level tables take the place of the boot tables, which are not made
@ here: at the next physical 16 KiB border, 12 KiB further at most. They end before the boot CPU's stack begins, 32 KiB
@ behind __boot_tables.
not_hyp:
    cps     #0x13                   @ SVC; from Hyp this would be an exception return, but then we are not in Hyp
    cpsid   aif
    ldr     r4, =__boot_tables
    add     r4, r4, r10
    add     r4, r4, #0x3000         @ it is a multiple of 4 KiB
    bic     r4, r4, #0x3000         @ r4 = first-level table, 16 KiB
    add     r5, r4, #0x4000         @ r5 = second-level tables
    ldr     r0, =0x00000c16         @ section, device, AP = full access, execute-never
    mov     r1, r4
    mov     r2, #4096
1:  str     r0, [r1], #4
    add     r0, r0, #0x100000
    subs    r2, r2, #1
    bne     1b
    @ The section we run in must be executable.
    adr     r0, boot
    lsr     r1, r0, #20
    ldr     r0, [r4, r1, lsl #2]
    bic     r0, r0, #0x10
    str     r0, [r4, r1, lsl #2]
    @ 0x200000..0x400000: the image, by pages.
    orr     r0, r5, #1
    str     r0, [r4, #8]
    add     r0, r0, #0x400
    str     r0, [r4, #12]
    mov     r1, r5
    mov     r2, #512
    orr     r0, r9, #0x72           @ small page, normal non-cacheable (TEX 1), AP = full access
1:  str     r0, [r1], #4
    add     r0, r0, #0x1000
    subs    r2, r2, #1
    bne     1b
    dsb
    mov     r0, #0
    mcr     p15, 0, r0, c2, c0, 2   @ TTBCR = 0: short descriptors, TTBR0 only
    mcr     p15, 0, r4, c2, c0, 0   @ TTBR0
    mov     r0, #1
    mcr     p15, 0, r0, c3, c0, 0   @ DACR: domain 0 client
    mcr     p15, 0, r0, c8, c7, 0   @ TLBIALL
    mcr     p15, 0, r0, c7, c5, 0   @ ICIALLU
    dsb
    isb
    mrc     p15, 0, r0, c1, c0, 0
    bic     r0, r0, #(1 << 28)      @ no TEX remap
    bic     r0, r0, #(1 << 29)      @ no access flag
    bic     r0, r0, #6              @ data cache off, no alignment faults
    orr     r0, r0, #1
    ldr     r1, =2f
    mcr     p15, 0, r0, c1, c0, 0
    isb
    bx      r1
2:  bl      zero_bss
    ldr     sp, =__stack_top
    mov     r0, r8
    mov     r1, r9
    bl      arch_not_hyp
8:  wfi
    b       8b

    .ltorg
