//! Both ABIs against one simple model: which ports are open, pending and masked, and a guest that consumes.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use super::*;

const VCPUS: u16 = 3;

/// The guest's side of the shared words, as Linux drives them.
struct Guest {
    abi: Abi,
    shared: FakePage,
    infos: Vec<FakePage>,
    controls: Vec<FakePage>,
    array: Vec<FakePage>,
}

impl Guest {
    fn word(&self, port: Port) -> &AtomicU32 {
        self.array[port.index() / 1024].word(port.index() % 1024)
    }

    fn mask(&self, port: Port) {
        match self.abi {
            Abi::TwoLevel => {
                self.shared
                    .word(560 / 4 + port.index() / 32)
                    .fetch_or(1 << (port.raw() % 32), SeqCst);
            }
            Abi::Fifo => {
                self.word(port).fetch_or(FIFO_MASKED, SeqCst);
            }
        }
    }

    /// Takes the upcall of a vCPU and returns the events in the order in which their handlers run.
    fn upcall(&self, vcpu: usize) -> Vec<Port> {
        let info = &self.infos[vcpu];
        if info.word(0).swap(0, SeqCst) == 0 {
            return Vec::new();
        }
        match self.abi {
            Abi::TwoLevel => self.two_level(info),
            Abi::Fifo => self.fifo(&self.controls[vcpu]),
        }
    }

    fn two_level(&self, info: &FakePage) -> Vec<Port> {
        let mut handled = Vec::new();
        for half in 0..2 {
            let selector = info.word(2 + half).swap(0, SeqCst);
            for bit in (0..32).filter(|bit| selector >> bit & 1 != 0) {
                for low in 0..2 {
                    let index = (half * 32 + bit) * 2 + low;
                    let (pending, mask) = (
                        self.shared.word(12 + index),
                        self.shared.word(140 + index).load(SeqCst),
                    );
                    let ready = pending.load(SeqCst) & !mask;
                    for bit in (0..32).filter(|bit| ready >> bit & 1 != 0) {
                        // Another vCPU may have taken it.
                        if pending.fetch_and(!(1 << bit), SeqCst) & 1 << bit != 0 {
                            handled.push(Port::new((index * 32 + bit) as u32));
                        }
                    }
                }
            }
        }
        handled
    }

    fn fifo(&self, control: &FakePage) -> Vec<Port> {
        let mut handled = Vec::new();
        loop {
            let ready = control.word(0).swap(0, SeqCst);
            if ready == 0 {
                return handled;
            }
            for queue in (0..16usize).filter(|queue| ready >> queue & 1 != 0) {
                let mut head = control.get(2 + queue);
                while head != 0 {
                    let word = self.word(Port::new(head));
                    // Unlink, and see whether there was a next one.
                    let old = word.fetch_and(!(FIFO_LINKED | FIFO_LINK), SeqCst);
                    assert_ne!(old & FIFO_LINKED, 0, "port {head} on a queue, not linked");
                    if old & (FIFO_PENDING | FIFO_MASKED) == FIFO_PENDING
                        && word.fetch_and(!FIFO_PENDING, SeqCst) & FIFO_PENDING != 0
                    {
                        handled.push(Port::new(head));
                    }
                    head = old & FIFO_LINK;
                }
            }
        }
    }
}

fn guest(abi: Abi, pages: usize) -> (Channels, Guest) {
    let (mut channels, shared) = dom0(VCPUS);
    let mut guest = Guest {
        abi,
        shared,
        infos: Vec::new(),
        controls: Vec::new(),
        array: Vec::new(),
    };
    for vcpu in 0..VCPUS {
        let page = FakePage::new();
        let _ = channels
            .register_vcpu_info(VcpuId::new(vcpu), page.clone(), 0)
            .unwrap();
        guest.infos.push(page);
        if abi == Abi::Fifo {
            let page = FakePage::new();
            channels
                .init_control(u32::from(vcpu), page.clone(), 0)
                .unwrap();
            guest.controls.push(page);
        }
    }
    if abi == Abi::Fifo {
        for _ in 0..pages {
            let page = FakePage::new();
            assert!(channels.expand_array(page.clone()).unwrap().is_empty());
            guest.array.push(page);
        }
    }
    for vcpu in 0..usize::from(VCPUS) {
        assert!(guest.upcall(vcpu).is_empty(), "spurious");
    }
    (channels, guest)
}

/// What an open port is in the model.
#[derive(Default, Clone)]
struct Model {
    pending: bool,
    masked: bool,
    peer: Option<Port>,
    is_ipi: bool,
}

fn raise(model: &mut BTreeMap<Port, Model>, port: Port) {
    model.get_mut(&port).unwrap().pending = true;
}

fn run(abi: Abi, seed: u64) {
    let mut rng = Rng(seed);
    let (mut c, guest) = guest(abi, 2);
    let mut model: BTreeMap<Port, Model> = BTreeMap::new();
    // A kick is an edge of the upcall: the model of the line must agree with the level.
    let mut asserted = [false; VCPUS as usize];
    for _ in 0..if cfg!(miri) { 300 } else { 3000 } {
        let pick = |rng: &mut Rng, model: &BTreeMap<Port, Model>| {
            let len = model.len() as u32;
            (len > 0).then(|| *model.keys().nth(rng.below(len) as usize).unwrap())
        };
        let some = pick(&mut rng, &model);
        let mut notified = Notify::None;
        match (rng.below(20), some) {
            (0, _) if model.len() < 200 => {
                let vcpu = rng.below(u32::from(VCPUS));
                let port = c.bind_ipi(vcpu).unwrap();
                let is_new = Model {
                    is_ipi: true,
                    masked: c.is_masked(port),
                    ..Model::default()
                };
                assert!(model.insert(port, is_new).is_none(), "port given twice");
            }
            (1, _) if model.len() < 200 => {
                let a = c.alloc_unbound(DomId::DOM0).unwrap();
                let (b, notify) = c.bind_interdomain_self(a).unwrap();
                notified = notify;
                for (port, peer) in [(a, b), (b, a)] {
                    let is_new = Model {
                        peer: Some(peer),
                        masked: c.is_masked(port),
                        ..Model::default()
                    };
                    assert!(model.insert(port, is_new).is_none());
                }
                raise(&mut model, b);
            }
            (2, Some(port)) if rng.below(2) == 0 => {
                assert_eq!(c.close(port), Ok(Closed::Done));
                let gone = model.remove(&port).unwrap();
                if let Some(peer) = gone.peer {
                    model.get_mut(&peer).unwrap().peer = None;
                }
            }
            (3, Some(port)) => {
                let vcpu = rng.below(u32::from(VCPUS));
                let is_bound = c.bind_vcpu(port, vcpu).is_ok();
                assert_eq!(is_bound, !model[&port].is_ipi);
            }
            (4, Some(port)) if abi == Abi::Fifo => {
                c.set_priority(port, rng.below(16)).unwrap();
            }
            (5..=7, Some(port)) => {
                guest.mask(port);
                model.get_mut(&port).unwrap().masked = true;
            }
            (8..=10, Some(port)) => {
                notified = c.unmask(port).unwrap();
                model.get_mut(&port).unwrap().masked = false;
            }
            (11..=17, Some(port)) => {
                notified = local(c.send(port));
                let target = match model.get(&port).unwrap() {
                    m if m.is_ipi => Some(port),
                    m => m.peer,
                };
                match target.map(|target| &model[&target]) {
                    Some(m) if !m.masked && !m.pending => {}
                    _ => assert_eq!(notified, Notify::None, "told of nothing new"),
                }
                if let Some(target) = target {
                    raise(&mut model, target);
                }
            }
            (18..=19, _) => {
                let vcpu = rng.below(u32::from(VCPUS)) as usize;
                asserted[vcpu] = false;
                for port in guest.upcall(vcpu) {
                    let m = model.get_mut(&port).expect("event of a closed port");
                    assert!(m.pending && !m.masked, "event {port:?} out of nothing");
                    m.pending = false;
                }
            }
            _ => {}
        }
        if let Some(vcpu) = notified.kick() {
            assert!(!std::mem::replace(&mut asserted[vcpu.index()], true));
        }
        for vcpu in 0..VCPUS {
            let vcpu = VcpuId::new(vcpu);
            assert_eq!(c.upcall_pending(vcpu), asserted[vcpu.index()]);
        }
        if let Some(port) = some
            && let Some(m) = model.get(&port)
        {
            assert_eq!(
                (c.is_pending(port), c.is_masked(port)),
                (m.pending, m.masked)
            );
        }
    }
    // Nothing is lost: when every vCPU ran, no unmasked event waits.
    for vcpu in 0..usize::from(VCPUS) {
        for port in guest.upcall(vcpu) {
            let m = model.get_mut(&port).expect("event of a closed port");
            assert!(std::mem::replace(&mut m.pending, false));
        }
    }
    for (port, m) in &model {
        assert_eq!(c.is_pending(*port), m.pending);
        assert!(!m.pending || m.masked, "{port:?} lost");
    }
}

#[test]
fn both_abis_follow_the_model() {
    for seed in 1..=if cfg!(miri) { 1 } else { 25u64 } {
        let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for abi in [Abi::TwoLevel, Abi::Fifo] {
            let result = std::panic::catch_unwind(|| run(abi, seed));
            assert!(result.is_ok(), "seed {seed:#x}, {abi:?}");
        }
    }
}

#[test]
fn fifo_delivers_by_priority_then_in_order() {
    let mut rng = Rng(77);
    for _ in 0..if cfg!(miri) { 2 } else { 200 } {
        let (mut c, guest) = guest(Abi::Fifo, 1);
        let mut expected: Vec<(u32, Port)> = Vec::new();
        for _ in 0..40 {
            let port = c.bind_ipi(0).unwrap();
            let priority = rng.below(16);
            c.set_priority(port, priority).unwrap();
            let _ = c.send(port).unwrap();
            expected.push((priority, port));
        }
        expected.sort_by_key(|(priority, _)| *priority);
        let expected: Vec<Port> = expected.into_iter().map(|(_, port)| port).collect();
        assert_eq!(guest.upcall(0), expected);
    }
}

/// A guest CPU consumes while another one sends: every port's last send is handled.
#[test]
fn nothing_is_lost_against_a_running_guest() {
    for abi in [Abi::TwoLevel, Abi::Fifo] {
        let (mut channels, guest) = guest(abi, 1);
        let ports: Vec<Port> = (0..5).map(|_| channels.bind_ipi(0).unwrap()).collect();
        let rounds = if cfg!(miri) { 50 } else { 20_000 };
        let sent: Vec<AtomicU32> = ports.iter().map(|_| AtomicU32::new(0)).collect();
        let mut seen = [0; 5];
        let done = AtomicBool::new(false);
        let channels = Mutex::new(channels);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut rng = Rng(5);
                for _ in 0..rounds {
                    let index = rng.below(5) as usize;
                    sent[index].fetch_add(1, SeqCst);
                    let _ = channels.lock().unwrap().send(ports[index]).unwrap();
                }
                done.store(true, SeqCst);
            });
            loop {
                let last = done.load(SeqCst);
                for port in guest.upcall(0) {
                    let index = ports.iter().position(|p| *p == port).unwrap();
                    seen[index] = sent[index].load(SeqCst);
                }
                // Masking and unmasking goes on meanwhile.
                guest.mask(ports[0]);
                let _ = channels.lock().unwrap().unmask(ports[0]).unwrap();
                if last {
                    break;
                }
            }
        });
        for port in guest.upcall(0) {
            let index = ports.iter().position(|p| *p == port).unwrap();
            seen[index] = sent[index].load(SeqCst);
        }
        let sent: Vec<u32> = sent.iter().map(|count| count.load(SeqCst)).collect();
        assert_eq!(seen.to_vec(), sent, "{abi:?}");
    }
}
