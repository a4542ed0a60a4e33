#![no_std]
#![no_main]
//! Benchmarks.
guest_lib::main!(bench);
fn bench(_: &guest_lib::Start) {}
