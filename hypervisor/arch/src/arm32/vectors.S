@ Hyp vectors, and entering a guest as a function call that returns when the guest traps.

    .arch_extension virt
    .syntax unified
    .arm

    .equ FRAME_LR, 52
    .equ FRAME_PC, 56

    .section .text.vectors, "ax"
    .align 5
    .globl hyp_vectors
    .type hyp_vectors, %function
hyp_vectors:
    b       hyp_reset
    b       hyp_undefined
    b       hyp_svc
    b       hyp_prefetch_abort
    b       data_abort
    b       guest_trap
    b       guest_irq
    b       guest_fiq

@ u32 enter_guest(frame: *mut GuestFrame)
@ Runs the guest whose registers `frame` holds until it traps; returns why (ExitKind). The frame pointer waits on top of
@ the stack. Interrupts stay masked in Hyp mode, so nothing else comes in between.
    .globl enter_guest
    .type enter_guest, %function
enter_guest:
    push    {r0, r4-r11, lr}
    ldr     lr, [r0, #FRAME_LR]
    ldrd    r2, r3, [r0, #FRAME_PC]
    msr     ELR_hyp, r2
    msr     SPSR_hyp, r3
    ldm     r0, {r0-r12}
    clrex                           @ another vCPU's exclusive access, or ours, is not this one's (A3.4)
    eret
    .size enter_guest, . - enter_guest

@ Saves the guest's registers and returns from enter_guest with \kind.
    .macro guest_exit kind
    push    {r0}
    ldr     r0, [sp, #4]
    stmib   r0, {r1-r12}
    pop     {r1}
    str     r1, [r0]
    str     lr, [r0, #FRAME_LR]
    mrs     r2, ELR_hyp
    mrs     r3, SPSR_hyp
    strd    r2, r3, [r0, #FRAME_PC]
    mov     r0, #\kind
    add     sp, sp, #4
    pop     {r4-r11, pc}
    .endm

guest_trap:
    guest_exit 0
guest_irq:
    guest_exit 1
guest_fiq:
    guest_exit 2

@ u32 smc32(u32 function, u32 a, u32 b, u32 c): a call into the firmware (SMCCC: r4 and up are kept for us).
    .globl smc32
    .type smc32, %function
smc32:
    .arch_extension sec
    smc     #0
    bx      lr
    .size smc32, . - smc32

@ The data abort vector is shared: an asynchronous abort of the guest (HCR.AMO), or a fault of our own. Nothing may be
@ pushed before it is known that there is a stack: the linker script says where stacks lie.
data_abort:
    tst     sp, #0x8000
    beq     stack_overflow
    push    {r0}
    mrs     r0, SPSR_hyp
    and     r0, r0, #0x1f
    cmp     r0, #0x1a
    pop     {r0}
    beq     hyp_data_abort
    guest_exit 3

@ A fault of the hypervisor itself: save everything, report, never return.
    .macro hyp_fault kind
    sub     sp, sp, #72
    stm     sp, {r0-r12}
    add     r0, sp, #72
    str     r0, [sp, #52]
    report_fault \kind
    .endm

    .macro report_fault kind
    str     lr, [sp, #56]
    mrs     r1, ELR_hyp
    mrs     r2, SPSR_hyp
    str     r1, [sp, #60]
    str     r2, [sp, #64]
    mov     r1, #\kind
    mov     r0, sp
    bl      arch_hyp_fault
1:  wfi
    b       1b
    .endm

hyp_reset:
    hyp_fault 0
hyp_undefined:
    hyp_fault 1
hyp_svc:
    hyp_fault 2
hyp_prefetch_abort:
    hyp_fault 3
hyp_data_abort:
    hyp_fault 4
@ All CPUs have one stack for the report: the first to come takes it for good, and another, or the same again, stays here.
@ The thread registers are scratch: the guest does not run again.
stack_overflow:
    mcr     p15, 0, r0, c13, c0, 4
    mcr     p15, 0, r1, c13, c0, 2
    mcr     p15, 0, r2, c13, c0, 3
    ldr     r0, =fault_stack_taken
1:  ldrex   r1, [r0]
    cmp     r1, #0
2:  wfene
    bne     2b
    mov     r1, #1
    strex   r2, r1, [r0]
    cmp     r2, #0
    bne     1b
    mrc     p15, 0, r1, c13, c0, 2
    mrc     p15, 0, r2, c13, c0, 3
    mov     r0, sp
    ldr     sp, =__fault_stack_top
    sub     sp, sp, #72
    str     r0, [sp, #52]
    mrc     p15, 0, r0, c13, c0, 4
    stm     sp, {r0-r12}
    report_fault 5
    .ltorg

    .section .bss.fault_stack_taken, "aw", %nobits
    .align 2
fault_stack_taken:
    .space 4
