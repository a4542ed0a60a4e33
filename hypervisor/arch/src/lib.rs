//! What an architecture provides: entry, vectors, system registers, MMU, GIC, context switch.
#![no_std]
