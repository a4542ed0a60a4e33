//! Pools as boot makes them. What a toolstack does with them is tested with its hypercalls.

use super::*;

#[test]
fn the_first_pool_keeps_a_cpu() {
    let mut pools = Pools::new(Box::new(Credit::default()));
    let mut kick = CpuSet::EMPTY;
    let cpu = CpuId::new;
    for number in 0..3 {
        pools.add_cpu(cpu(number), 0, &mut kick).unwrap();
    }
    let id = pools.create(None, abi::XEN_SCHEDULER_NULL).unwrap();
    let cpus = |pools: &Pools, id| -> Vec<usize> {
        let info = pools.info(id).unwrap();
        info.cpus.iter().map(CpuId::index).collect()
    };
    let mut take =
        |pools: &mut Pools, number, to| pools.take_from_first(cpu(number), to, 0, &mut kick);
    assert_eq!(take(&mut pools, 1, 7), Err(Errno::NoEnt));
    assert_eq!(take(&mut pools, 3, id), Err(Errno::Inval));
    assert_eq!(cpus(&pools, FIRST_POOL), [0, 1, 2], "nothing changed");
    assert_eq!(take(&mut pools, 1, id), Ok(()));
    assert_eq!(take(&mut pools, 1, id), Err(Errno::Inval), "it is there");
    assert_eq!(take(&mut pools, 0, id), Ok(()));
    assert_eq!(take(&mut pools, 2, id), Err(Errno::Busy));
    assert_eq!(cpus(&pools, FIRST_POOL), [2]);
    assert_eq!(cpus(&pools, id), [0, 1]);
    assert!(pools.free().is_empty());
}
