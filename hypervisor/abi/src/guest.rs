//! What a guest finds where: memory map, interrupts, initial state (public/arch-arm.h). Same in 4.17 and 4.20.

/// virtio-mmio devices.
pub const GUEST_VIRTIO_MMIO_BASE: u64 = 0x0200_0000;
/// Bytes.
pub const GUEST_VIRTIO_MMIO_SIZE: u64 = 0x0010_0000;
/// GICv2 distributor.
pub const GUEST_GICD_BASE: u64 = 0x0300_1000;
/// Bytes.
pub const GUEST_GICD_SIZE: u64 = 0x1000;
/// GICv2 CPU interface.
pub const GUEST_GICC_BASE: u64 = 0x0300_2000;
/// Bytes.
pub const GUEST_GICC_SIZE: u64 = 0x2000;
/// GICv3 distributor.
pub const GUEST_GICV3_GICD_BASE: u64 = 0x0300_1000;
/// Bytes.
pub const GUEST_GICV3_GICD_SIZE: u64 = 0x0001_0000;
/// GICv3 redistributors.
pub const GUEST_GICV3_GICR0_BASE: u64 = 0x0302_0000;
/// Bytes.
pub const GUEST_GICV3_GICR0_SIZE: u64 = 0x0100_0000;
/// vPCI configuration space.
pub const GUEST_VPCI_ECAM_BASE: u64 = 0x1000_0000;
/// Bytes.
pub const GUEST_VPCI_ECAM_SIZE: u64 = 0x1000_0000;
/// ACPI tables.
pub const GUEST_ACPI_BASE: u64 = 0x2000_0000;
/// Bytes.
pub const GUEST_ACPI_SIZE: u64 = 0x0200_0000;
/// Virtual PL011.
pub const GUEST_PL011_BASE: u64 = 0x2200_0000;
/// Bytes.
pub const GUEST_PL011_SIZE: u64 = 0x1000;
/// vPCI memory window.
pub const GUEST_VPCI_MEM_ADDR: u64 = 0x2300_0000;
/// Bytes.
pub const GUEST_VPCI_MEM_SIZE: u64 = 0x1000_0000;
/// Grant table window.
pub const GUEST_GNTTAB_BASE: u64 = 0x3800_0000;
/// Bytes.
pub const GUEST_GNTTAB_SIZE: u64 = 0x0100_0000;
/// Magic pages.
pub const GUEST_MAGIC_BASE: u64 = 0x3900_0000;
/// Bytes.
pub const GUEST_MAGIC_SIZE: u64 = 0x0100_0000;
/// First RAM bank.
pub const GUEST_RAM0_BASE: u64 = 0x4000_0000;
/// Bytes at most.
pub const GUEST_RAM0_SIZE: u64 = 0xc000_0000;
/// vPCI prefetchable window.
pub const GUEST_VPCI_PREFETCH_MEM_ADDR: u64 = 0x0001_0000_0000;
/// Bytes.
pub const GUEST_VPCI_PREFETCH_MEM_SIZE: u64 = 0x0001_0000_0000;
/// Second RAM bank.
pub const GUEST_RAM1_BASE: u64 = 0x0002_0000_0000;
/// Bytes at most.
pub const GUEST_RAM1_SIZE: u64 = 0x00fe_0000_0000;
/// RAM banks.
pub const GUEST_RAM_BANKS: u32 = 2;
/// vCPUs at most (8 with GICv2).
pub const GUEST_MAX_VCPUS: u32 = 128;
/// Virtual timer's interrupt.
pub const GUEST_TIMER_VIRT_PPI: u32 = 27;
/// Secure physical timer's interrupt.
pub const GUEST_TIMER_PHYS_S_PPI: u32 = 29;
/// Physical timer's interrupt.
pub const GUEST_TIMER_PHYS_NS_PPI: u32 = 30;
/// Event upcall's interrupt.
pub const GUEST_EVTCHN_PPI: u32 = 31;
/// Virtual PL011's interrupt.
pub const GUEST_VPL011_SPI: u32 = 32;
/// First interrupt of virtio-mmio.
pub const GUEST_VIRTIO_MMIO_SPI_FIRST: u32 = 33;
/// Last interrupt of virtio-mmio.
pub const GUEST_VIRTIO_MMIO_SPI_LAST: u32 = 43;
/// Page from [`GUEST_MAGIC_BASE`]: console.
pub const MAGIC_CONSOLE_PAGE: u32 = 0;
/// Page from [`GUEST_MAGIC_BASE`]: xenstore.
pub const MAGIC_XENSTORE_PAGE: u32 = 1;
/// Page from [`GUEST_MAGIC_BASE`]: memory access ring.
pub const MAGIC_MEMACCESS_PAGE: u32 = 2;
/// Page from [`GUEST_MAGIC_BASE`]: virtual UART.
pub const MAGIC_VUART_PAGE: u32 = 3;
/// CPSR at entry of a 32-bit guest: Z, A, I, F masked, SVC, Arm state.
pub const PSR_GUEST32_INIT: u32 = 0x4000_01d3;
/// SCTLR at entry of a guest.
pub const SCTLR_GUEST_INIT: u32 = 0x00c5_0078;
