// EL2 vectors, and entering a guest as a function call that returns when the guest traps.

    .equ FRAME_X30, 240
    .equ FRAME_PC, 248
    .equ FRAME_PSTATE, 256

    .section .text.vectors, "ax"
    .balign 2048
    .globl hyp_vectors
    .type hyp_vectors, %function
hyp_vectors:
    // From EL2 with SP_EL0: never used.
    .rept 4
    b       hyp_unexpected
    .balign 128
    .endr
    // From EL2.
    b       hyp_sync
    .balign 128
    b       hyp_unexpected
    .balign 128
    b       hyp_unexpected
    .balign 128
    b       hyp_serror
    .balign 128
    // From a guest: AArch64, then AArch32.
    .rept 2
    stp     x0, x1, [sp, #-16]!
    mov     x1, #0
    b       guest_exit
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #1
    b       guest_exit
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #2
    b       guest_exit
    .balign 128
    stp     x0, x1, [sp, #-16]!
    mov     x1, #3
    b       guest_exit
    .balign 128
    .endr
    .size hyp_vectors, . - hyp_vectors

// u32 enter_guest(frame: *mut GuestFrame)
// Runs the guest whose registers `frame` holds until it traps; returns why (ExitKind). The frame pointer waits on top of
// the stack. Interrupts stay masked at EL2, so nothing else comes in between.
    .globl enter_guest
    .type enter_guest, %function
enter_guest:
    stp     x29, x30, [sp, #-112]!
    stp     x19, x20, [sp, #32]
    stp     x21, x22, [sp, #48]
    stp     x23, x24, [sp, #64]
    stp     x25, x26, [sp, #80]
    stp     x27, x28, [sp, #96]
    str     x0, [sp, #16]
    ldp     x2, x3, [x0, #FRAME_PC]
    ldr     x30, [x0, #FRAME_X30]
    msr     elr_el2, x2
    msr     spsr_el2, x3
    ldp     x2, x3, [x0, #16]
    ldp     x4, x5, [x0, #32]
    ldp     x6, x7, [x0, #48]
    ldp     x8, x9, [x0, #64]
    ldp     x10, x11, [x0, #80]
    ldp     x12, x13, [x0, #96]
    ldp     x14, x15, [x0, #112]
    ldp     x16, x17, [x0, #128]
    ldp     x18, x19, [x0, #144]
    ldp     x20, x21, [x0, #160]
    ldp     x22, x23, [x0, #176]
    ldp     x24, x25, [x0, #192]
    ldp     x26, x27, [x0, #208]
    ldp     x28, x29, [x0, #224]
    ldp     x0, x1, [x0]
    eret
    dsb     nsh
    isb
    .size enter_guest, . - enter_guest

// Saves the guest's registers and returns from enter_guest with x1; the guest's x0 and x1 are on the stack.
guest_exit:
    ldr     x0, [sp, #32]
    stp     x2, x3, [x0, #16]
    stp     x4, x5, [x0, #32]
    stp     x6, x7, [x0, #48]
    stp     x8, x9, [x0, #64]
    stp     x10, x11, [x0, #80]
    stp     x12, x13, [x0, #96]
    stp     x14, x15, [x0, #112]
    stp     x16, x17, [x0, #128]
    stp     x18, x19, [x0, #144]
    stp     x20, x21, [x0, #160]
    stp     x22, x23, [x0, #176]
    stp     x24, x25, [x0, #192]
    stp     x26, x27, [x0, #208]
    stp     x28, x29, [x0, #224]
    str     x30, [x0, #FRAME_X30]
    ldp     x2, x3, [sp], #16
    stp     x2, x3, [x0]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [x0, #FRAME_PC]
    mov     x0, x1
    ldp     x19, x20, [sp, #32]
    ldp     x21, x22, [sp, #48]
    ldp     x23, x24, [sp, #64]
    ldp     x25, x26, [sp, #80]
    ldp     x27, x28, [sp, #96]
    ldp     x29, x30, [sp], #112
    ret

// A fault of the hypervisor itself: save everything, report, never return. Nothing may be pushed before it is known that
// there is a stack: the linker script says where stacks lie. TPIDR_EL1 as scratch: the guest does not run again.
    .macro hyp_fault kind
    msr     tpidr_el1, x0
    mov     x0, sp
    tbz     x0, #16, stack_overflow
    mrs     x0, tpidr_el1
    sub     sp, sp, #272
    stp     x0, x1, [sp]
    add     x0, sp, #272
    mov     x1, #\kind
    b       report_fault
    .endm

hyp_sync:
    hyp_fault 0
hyp_serror:
    hyp_fault 1
hyp_unexpected:
    hyp_fault 2
stack_overflow:
    ldr     x0, =__fault_stack_top
    sub     x0, x0, #272
    stp     xzr, x1, [x0]
    mov     x1, sp
    mov     sp, x0
    mov     x0, x1
    mov     x1, #3
// In: x0 = stack pointer before the fault, x1 = kind; x0 and x1 of the fault are stored.
report_fault:
    stp     x2, x3, [sp, #16]
    stp     x4, x5, [sp, #32]
    stp     x6, x7, [sp, #48]
    stp     x8, x9, [sp, #64]
    stp     x10, x11, [sp, #80]
    stp     x12, x13, [sp, #96]
    stp     x14, x15, [sp, #112]
    stp     x16, x17, [sp, #128]
    stp     x18, x19, [sp, #144]
    stp     x20, x21, [sp, #160]
    stp     x22, x23, [sp, #176]
    stp     x24, x25, [sp, #192]
    stp     x26, x27, [sp, #208]
    stp     x28, x29, [sp, #224]
    stp     x30, x0, [sp, #240]
    mrs     x2, elr_el2
    mrs     x3, spsr_el2
    stp     x2, x3, [sp, #256]
    mov     x0, sp
    bl      arch_hyp_fault
1:  wfi
    b       1b
    .ltorg
