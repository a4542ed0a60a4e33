//! Delivery through list registers, case by case.

use super::super::Resample;
use super::{Machine, vcpu};
use crate::addr::IntId;
use crate::machine::Trigger;

const TIMER: u16 = 27;
const UPCALL: u16 = 31;

fn with_timer(vcpus: usize, lrs: usize) -> Machine {
    let mut m = Machine::running(vcpus, lrs);
    m.vgic
        .link_hw(
            IntId::new(TIMER),
            IntId::new(TIMER),
            Trigger::Level,
            &mut m.host,
        )
        .unwrap();
    for ppis in &mut m.host.ppis {
        let timer = &mut ppis[usize::from(TIMER)];
        timer.linked = true;
        timer.enabled = true;
        timer.virq = TIMER;
    }
    m
}

fn timer_line(m: &mut Machine, cpu: usize, on: bool) {
    m.host.ppis[cpu][usize::from(TIMER)].line = on;
    m.settle();
}

fn with_upcall(resample: Resample) -> Machine {
    let mut m = Machine::running(1, 4);
    m.vgic.ask_line(IntId::new(UPCALL), resample).unwrap();
    m.write(0, 0x100, 1 << UPCALL);
    m
}

fn upcall(m: &mut Machine, on: bool) {
    let line = &mut m.host.asked[0][usize::from(UPCALL)];
    if !core::mem::replace(line, on) && on {
        m.set_line(0, UPCALL, true);
    }
}

#[test]
fn sgi_names_its_sender_and_each_sender_counts() {
    let mut m = Machine::running(4, 4);
    for cpu in [3, 1, 1, 0] {
        m.write(cpu, 0xf00, 1 << 16 | 9);
    }
    for sender in [0, 1, 3] {
        assert_eq!(m.ack(0), Some((9, sender)));
        m.eoi(0, 9);
    }
    assert_eq!(m.ack(0), None);
    // From the same sender again, while active: once more.
    m.write(0, 0xf00, 2 << 24 | 9);
    assert_eq!(m.ack(0), Some((9, 0)));
    m.write(0, 0xf00, 2 << 24 | 9);
    m.write(2, 0xf00, 1 << 16 | 9);
    m.eoi(0, 9);
    assert_eq!(m.ack(0), Some((9, 0)));
    m.eoi(0, 9);
    assert_eq!(m.ack(0), Some((9, 2)));
}

#[test]
fn idle_entry_costs_no_hardware_access() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0xf00, 2 << 24);
    let before = m.host.accesses.get();
    assert!(!m.vgic.needs_flush(vcpu(0)));
    let _ = m.vgic.flush(vcpu(0), &mut m.host);
    assert_eq!(m.host.accesses.get(), before);
    assert_eq!(m.ack(0), Some((0, 0)));
    m.eoi(0, 0);
    // Again, through the stale list register: one read, one write.
    let before = m.host.accesses.get();
    m.write(0, 0xf00, 2 << 24);
    assert_eq!(m.host.accesses.get(), before + 2);
}

#[test]
fn overflow_drains_by_priority() {
    for lrs in [1, 2, 4, 16] {
        let mut m = Machine::running(1, lrs);
        m.write(0, 0x104, u32::MAX);
        m.write(0, 0x108, u32::MAX);
        for n in 0..64u32 {
            m.write_width(0, 0x420 + n, super::Width::Byte, 0xf8 - (n % 32) * 8);
        }
        for n in 0..64 {
            m.set_pending(0, 32 + n);
        }
        let mut last = 0;
        for _ in 0..64 {
            let (irq, _) = m.ack(0).expect("lost");
            let level = 31 - (irq - 32) % 32;
            assert!(level >= last, "priority order");
            last = level;
            m.eoi(0, irq);
        }
        assert_eq!(m.ack(0), None);
        assert!(!m.host.gich[0].uie);
        assert!(!m.vgic.needs_flush(vcpu(0)));
    }
}

#[test]
fn xsa_223_timer_masked_at_the_distributor_is_dropped_once_disabled() {
    let mut m = with_timer(1, 4);
    timer_line(&mut m, 0, true);
    assert!(m.host.ppis[0][27].active, "taken, kept active while masked");
    timer_line(&mut m, 0, false);
    m.write(0, 0x100, 1 << TIMER);
    assert_eq!(m.ack(0), None);
    assert!(!m.host.ppis[0][27].active, "given back");
    timer_line(&mut m, 0, true);
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    m.eoi(0, TIMER);
    assert_eq!(m.ack(0), Some((TIMER, 0)), "still asserted");
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    assert_eq!(m.ack(0), None);
}

#[test]
fn timer_survives_context_switches() {
    let mut m = with_timer(1, 4);
    m.write(0, 0x100, 1 << TIMER);
    timer_line(&mut m, 0, true);
    m.save(0);
    assert!(
        !m.host.ppis[0][27].active,
        "the pCPU's timer is free for others"
    );
    assert!(m.vgic.has_deliverable(vcpu(0), 0xff));
    m.restore(0);
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    m.save(0);
    assert!(
        !m.vgic.has_deliverable(vcpu(0), 0xff),
        "active is not deliverable"
    );
    m.restore(0);
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    assert_eq!(m.ack(0), None);
    assert!(!m.host.ppis[0][27].active);
    // It fires while the vCPU is away: the hypervisor's own timer says so.
    m.save(0);
    m.host.ppis[0][27].line = true;
    m.set_line(0, TIMER, true);
    assert!(m.vgic.has_deliverable(vcpu(0), 0xff));
    m.restore(0);
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.host.lost_eois, 0);
}

#[test]
fn upcall_is_level_sensitive_without_maintenance_in_the_usual_case() {
    let mut m = with_upcall(Resample::OnRaise);
    upcall(&mut m, true);
    assert_eq!(m.host.gich[0].lrs[0] & 1 << 19, 0, "no EOI maintenance");
    assert_eq!(m.ack(0), Some((UPCALL, 0)));
    upcall(&mut m, false);
    upcall(&mut m, true);
    m.eoi(0, UPCALL);
    assert_eq!(m.ack(0), Some((UPCALL, 0)), "risen while active");
    upcall(&mut m, false);
    upcall(&mut m, true);
    upcall(&mut m, false);
    m.eoi(0, UPCALL);
    assert_eq!(m.ack(0), None, "risen and fallen while active");
    m.write(0, 0x180, 1 << UPCALL);
    upcall(&mut m, true);
    upcall(&mut m, false);
    m.write(0, 0x100, 1 << UPCALL);
    assert_eq!(m.ack(0), None, "fallen while masked");
    m.write(0, 0x180, 1 << UPCALL);
    upcall(&mut m, true);
    m.write(0, 0x100, 1 << UPCALL);
    assert_eq!(m.ack(0), Some((UPCALL, 0)), "risen while masked");
}

#[test]
fn asked_line_with_resampling_comes_until_it_falls() {
    let mut m = with_upcall(Resample::OnEoi);
    upcall(&mut m, true);
    for _ in 0..3 {
        assert_eq!(m.ack(0), Some((UPCALL, 0)));
        m.eoi(0, UPCALL);
    }
    assert_eq!(m.ack(0), Some((UPCALL, 0)));
    upcall(&mut m, false);
    m.eoi(0, UPCALL);
    assert_eq!(m.ack(0), None);
}

#[test]
fn kept_level_is_exact() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0x104, 1);
    m.set_line(0, 32, true);
    m.set_line(0, 32, false);
    assert_eq!(m.ack(0), None, "fell before delivery");
    m.set_line(0, 32, true);
    assert_eq!(m.ack(0), Some((32, 0)));
    assert_eq!((m.read(0, 0x204), m.read(0, 0x304)), (1, 1));
    m.eoi(0, 32);
    assert_eq!(m.ack(0), Some((32, 0)), "still up");
    m.set_line(0, 32, false);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), None);
}

#[test]
fn linked_spi_goes_back_to_hardware() {
    let mut m = Machine::running(2, 4);
    m.vgic
        .link_hw(IntId::new(40), IntId::new(40), Trigger::Level, &mut m.host)
        .unwrap();
    m.host.spis[40].linked = true;
    m.host.spis[40].virq = 40;
    m.write(0, 0x104, 1 << 8);
    m.host.spis[40].line = true;
    m.settle();
    assert_eq!(m.host.gich[0].lrs[0] >> 28, 0b1001, "linked, pending");
    // Masked while it waits: the physical one is released and disabled.
    m.write(0, 0x184, 1 << 8);
    assert_eq!(m.ack(0), None);
    assert!(!m.host.spis[40].active && !m.host.spis[40].enabled);
    m.write(0, 0x104, 1 << 8);
    // Moved while it waits.
    m.write_width(0, 0x828, super::Width::Byte, 2);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.ack(1), Some((40, 0)));
    // Moved while active: stays until its EOI.
    m.write_width(0, 0x828, super::Width::Byte, 1);
    assert_eq!(m.ack(0), None);
    m.eoi(1, 40);
    assert_eq!(m.ack(0), Some((40, 0)));
    m.host.spis[40].line = false;
    m.write(0, 0x384, 1 << 8);
    assert!(!m.host.spis[40].active, "ICACTIVER reaches the hardware");
    assert_eq!(m.read(0, 0x304), 0);
}

#[test]
fn retarget_of_a_pending_active_spi_waits_for_the_eoi() {
    let mut m = Machine::running(2, 4);
    m.write(0, 0xc08, 2);
    m.write(0, 0x104, 1);
    m.set_pending(0, 32);
    assert_eq!(m.ack(0), Some((32, 0)));
    m.set_pending(0, 32);
    m.write(0, 0x820, 2);
    assert_eq!(m.ack(1), None);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), None);
    assert_eq!(m.ack(1), Some((32, 0)));
}

#[test]
fn active_state_set_by_the_guest() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0x104, 3);
    m.write(0, 0x304, 1);
    m.set_pending(0, 32);
    assert_eq!(m.ack(0), None, "active");
    m.write(0, 0x384, 1);
    assert_eq!(m.ack(0), Some((32, 0)));
    m.eoi(0, 32);
    // GICC_DIR ends it too.
    m.write(0, 0x304, 2);
    m.host.dir(0, 33);
    m.settle();
    assert_eq!((m.read(0, 0x304), m.host.lost_eois), (0, 0));
    // It does not keep others from list registers.
    m.write(0, 0x104, u32::MAX);
    m.write(0, 0x304, 0xff00);
    m.set_pending(0, 32);
    assert_eq!(m.ack(0), Some((32, 0)));
    assert_eq!(m.read(0, 0x304), 0xff01);
}

#[test]
fn disabled_distributor_takes_everything_back() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0xf00, 2 << 24 | 1);
    m.write(0, 0, 0);
    assert_eq!(m.ack(0), None);
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
    m.write(0, 0, 1);
    assert!(m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
    assert_eq!(m.ack(0), Some((1, 0)));
}

#[test]
fn wake_up_looks_at_list_registers_and_mask() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0x400, 0x0000_a000);
    m.write(0, 0xf00, 2 << 24 | 1);
    assert!(m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
    assert!(m.vgic.has_deliverable_loaded(vcpu(0), 0xa8, &m.host));
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0xa0, &m.host));
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0, &m.host));
    m.save(0);
    assert!(m.vgic.has_deliverable(vcpu(0), 0xff));
    assert!(!m.vgic.has_deliverable(vcpu(0), 0xa0));
    m.restore(0);
    assert_eq!(m.ack(0), Some((1, 0)));
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
    m.eoi(0, 1);
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
}

#[test]
fn save_and_restore_keep_the_cpu_interface() {
    let mut m = Machine::running(1, 4);
    m.host.gich[0].vmcr = 0xf800_0001;
    m.host.gich[0].apr = 4;
    m.save(0);
    m.host.gich[0].vmcr = 7;
    m.host.gich[0].apr = 7;
    m.restore(0);
    assert_eq!((m.host.gich[0].vmcr, m.host.gich[0].apr), (0xf800_0001, 4));
}

#[test]
fn reset_forgets_private_state_and_keeps_spis() {
    let mut m = with_timer(2, 4);
    m.write(1, 0x100, 1 << TIMER);
    timer_line(&mut m, 1, true);
    assert_eq!(m.ack(1), Some((TIMER, 0)));
    m.write(0, 0xf00, 2 << 16 | 3);
    m.write(0, 0x104, 1);
    m.write(0, 0x820, 2);
    m.set_pending(0, 32);
    m.save(1);
    m.host.ppis[1][27].line = false;
    m.host.cpu = 1;
    let _ = m.vgic.reset_vcpu(vcpu(1), &mut m.host);
    m.host.gich[1].running.clear();
    m.restore(1);
    assert_eq!(
        (m.read(1, 0x100), m.read(1, 0x200), m.read(1, 0x300)),
        (0xffff, 0, 0)
    );
    assert_eq!(m.ack(1), Some((32, 0)));
    assert!(!m.host.ppis[1][27].active);
}

#[test]
fn changes_reach_a_list_register_of_another_vcpu() {
    let mut m = Machine::running(2, 4);
    m.write(0, 0xc08, 2);
    m.write(0, 0x820, 2);
    m.write(0, 0x104, 1);
    m.set_pending(0, 32);
    m.host.cpu = 0;
    let kicks = m
        .vgic
        .mmio_write(vcpu(0), 0x284, super::Width::Word, 1, &mut m.host)
        .unwrap();
    assert_eq!(kicks.bits(), 2);
    assert_eq!(m.read(0, 0x204), 0, "reads as cleared at once");
    m.settle();
    assert_eq!(m.ack(1), None);
    m.set_pending(0, 32);
    m.write(0, 0x184, 1);
    assert_eq!(m.ack(1), None);
    assert_eq!(m.read(0, 0x204), 1);
    m.write(0, 0x104, 1);
    assert_eq!(m.ack(1), Some((32, 0)));
    m.set_pending(0, 32);
    m.write(0, 0x384, 1);
    assert_eq!(
        m.ack(1),
        None,
        "the guest's running priority still holds it off"
    );
    m.host.gich[1].running.clear();
    assert_eq!(m.ack(1), Some((32, 0)));
}

#[test]
fn linked_edge_that_was_taken_back_is_not_lost() {
    let mut m = Machine::running(1, 4);
    m.vgic
        .link_hw(IntId::new(40), IntId::new(40), Trigger::Edge, &mut m.host)
        .unwrap();
    let phys = &mut m.host.spis[40];
    (phys.linked, phys.virq, phys.edge) = (true, 40, true);
    m.write(0, 0x104, 1 << 8);
    for _ in 0..3 {
        m.host.spis[40].latched = true;
        m.settle();
        assert!(m.host.spis[40].active);
        m.write(0, 0x184, 1 << 8);
        assert!(!m.host.spis[40].active);
        assert_eq!(m.ack(0), None);
        assert_eq!(m.read(0, 0x204), 1 << 8);
        m.write(0, 0x104, 1 << 8);
        assert_eq!(m.ack(0), Some((40, 0)));
        m.eoi(0, 40);
        // The list register is used again as it is.
        m.host.spis[40].latched = true;
        m.settle();
        assert_eq!(m.ack(0), Some((40, 0)));
        m.eoi(0, 40);
        m.host.spis[40].latched = true;
        m.settle();
        m.write(0, 0x184, 1 << 8);
        m.write(0, 0x104, 1 << 8);
        assert_eq!(m.ack(0), Some((40, 0)));
        m.eoi(0, 40);
        assert_eq!(m.ack(0), None);
    }
}

#[test]
fn unmasking_asks_the_line() {
    let mut m = with_upcall(Resample::OnRaise);
    upcall(&mut m, true);
    assert_eq!(m.ack(0), Some((UPCALL, 0)));
    m.eoi(0, UPCALL);
    assert_eq!(m.ack(0), None, "no rise, no resampling");
    m.write(0, 0x180, 1 << UPCALL);
    m.write(0, 0x100, 1 << UPCALL);
    assert_eq!(m.ack(0), Some((UPCALL, 0)));
}

#[test]
fn pended_while_active_survives_a_context_switch() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0xc08, 2);
    m.write(0, 0x104, 1);
    m.set_pending(0, 32);
    assert_eq!(m.ack(0), Some((32, 0)));
    m.set_pending(0, 32);
    m.save(0);
    m.restore(0);
    m.eoi(0, 32);
    assert_eq!(m.ack(0), Some((32, 0)));
}

#[test]
fn priority_changed_together_with_pending() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0x104, 3);
    for priority in [0x40, 0xc0] {
        m.write(0, 0x420, 0x8080);
        m.set_pending(0, 32);
        assert_eq!(m.ack(0), Some((32, 0)));
        m.eoi(0, 32);
        m.host.cpu = 0;
        let byte = super::Width::Byte;
        let _ = m
            .vgic
            .mmio_write(vcpu(0), 0x420, byte, priority, &mut m.host);
        let _ = m.vgic.set_pending(vcpu(0), IntId::new(32));
        m.set_pending(0, 33);
        let first = if priority < 0x80 { 32 } else { 33 };
        assert_eq!(m.ack(0), Some((first, 0)));
        m.eoi(0, first);
        assert_eq!(m.ack(0), Some((65 - first, 0)));
        m.eoi(0, 65 - first);
    }
}

#[test]
fn masked_linked_line_reads_as_pending() {
    let mut m = Machine::running(2, 4);
    for (irq, trigger) in [(40, Trigger::Level), (41, Trigger::Edge)] {
        m.vgic
            .link_hw(IntId::new(irq), IntId::new(irq), trigger, &mut m.host)
            .unwrap();
        let phys = &mut m.host.spis[usize::from(irq)];
        (phys.linked, phys.virq, phys.edge) = (true, irq, irq == 41);
    }
    assert_eq!(m.read(1, 0x204), 0);
    m.host.spis[40].line = true;
    m.host.spis[41].latched = true;
    m.settle();
    assert_eq!(m.read(1, 0x204), 3 << 8, "disabled, never taken");
    m.write(0, 0x104, 3 << 8);
    assert_eq!(m.read(0, 0x204), 3 << 8, "in list registers");
    assert_eq!(m.ack(0), Some((40, 0)));
    assert_eq!(m.read(0, 0x204), 3 << 8, "active, and its line still up");
    m.host.spis[40].line = false;
    assert_eq!(m.read(0, 0x204), 2 << 8);
    m.write(0, 0x284, 2 << 8);
    assert_eq!(m.read(0, 0x204), 0, "an edge can be taken back");
}

/// Each change between two occurrences of an interrupt that would take its old list register again.
#[test]
fn renewed_interrupts_are_as_the_guest_configured_them() {
    let mut m = with_timer(2, 4);
    m.write(0, 0x100, 1 << TIMER);
    m.write(0, 0x104, 3);
    let occur = |m: &mut Machine| {
        timer_line(m, 0, true);
        let lr = m.host.gich[0]
            .lrs
            .iter()
            .copied()
            .find(|lr| lr & 0x3ff == u32::from(TIMER));
        assert_eq!(m.ack(0), Some((TIMER, 0)));
        timer_line(m, 0, false);
        m.eoi(0, TIMER);
        lr.unwrap()
    };
    let first = occur(&mut m);
    let before = m.host.accesses.get();
    timer_line(&mut m, 0, true);
    assert_eq!(
        m.host.accesses.get(),
        before + 2,
        "renewed: one read, one write"
    );
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    m.write_width(0, 0x400 + u32::from(TIMER), super::Width::Byte, 0x88);
    assert_eq!(occur(&mut m), first | 0x11 << 23, "priority");
    m.write(0, 0x180, 1 << TIMER);
    timer_line(&mut m, 0, true);
    assert_eq!(m.ack(0), None, "masked");
    m.write(0, 0x100, 1 << TIMER);
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    m.write(0, 0, 0);
    timer_line(&mut m, 0, true);
    assert_eq!(m.ack(0), None, "distributor off");
    m.write(0, 0, 1);
    assert_eq!(m.ack(0), Some((TIMER, 0)));
    timer_line(&mut m, 0, false);
    m.eoi(0, TIMER);
    // Targets.
    for target in [1, 2, 1] {
        m.write_width(0, 0x820, super::Width::Byte, target);
        m.set_pending(0, 32);
        let cpu = target as usize - 1;
        assert_eq!(m.ack(1 - cpu), None);
        assert_eq!(m.ack(cpu), Some((32, 0)));
        m.eoi(cpu, 32);
    }
    // Senders.
    for sender in [0, 1, 1, 0] {
        m.write(sender, 0xf00, 1 << 16 | 5);
        assert_eq!(m.ack(0), Some((5, sender as u8)));
        m.eoi(0, 5);
    }
}

#[test]
fn idle_questions_cost_no_register_reads_for_finished_ones() {
    let mut m = Machine::running(1, 4);
    for sgi in 0..3 {
        m.write(0, 0xf00, 2 << 24 | sgi);
    }
    while let Some((sgi, _)) = m.ack(0) {
        m.eoi(0, sgi);
    }
    let before = m.host.accesses.get();
    assert!(!m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
    assert_eq!(m.host.accesses.get(), before + 1, "GICH_ELRSR only");
    // Pended since, and not flushed yet.
    let _ = m
        .vgic
        .mmio_write(vcpu(0), 0xf00, super::Width::Word, 2 << 24, &mut m.host);
    assert!(m.vgic.has_deliverable_loaded(vcpu(0), 0xff, &m.host));
}

#[test]
fn renewal_does_not_overtake_who_waits() {
    let mut m = Machine::running(1, 4);
    for sgi in 0..5 {
        m.write(0, 0xf00, 2 << 24 | sgi);
    }
    let in_lr = |m: &Machine, sgi| m.host.gich[0].lrs.iter().any(|lr| lr & 0x3ff == sgi);
    assert!(!in_lr(&m, 4));
    // It comes again before the hypervisor has looked.
    assert_eq!(m.host.gich[0].ack(), Some((0, 0)));
    m.host.eoi(0, 0);
    m.write(0, 0xf00, 2 << 24);
    assert!(in_lr(&m, 4) && !in_lr(&m, 0));
}

/// Each way in which the value of a list register changes while its interrupt stays in it.
#[test]
fn renewal_after_pending_and_active() {
    let mut m = Machine::running(1, 4);
    m.write(0, 0xc08, 2);
    m.write(0, 0x104, 1);
    for times in [1, 2, 1, 3] {
        for _ in 0..times {
            m.set_pending(0, 32);
            if m.host.gich[0].running.is_empty() {
                assert_eq!(m.ack(0), Some((32, 0)));
            }
        }
        m.eoi(0, 32);
        if times > 1 {
            assert_eq!(m.ack(0), Some((32, 0)));
            // Looked at while it is only active.
            m.write(0, 0x284, 1);
            m.eoi(0, 32);
        }
        assert_eq!(m.ack(0), None);
    }
}
