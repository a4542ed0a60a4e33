//! PSCI (ARM DEN 0022) and SMC Calling Convention (ARM DEN 0028) function numbers and return values.

/// PSCI 0.1 number given by the device tree.
pub const PSCI_0_1_CPU_OFF: u32 = 1;
/// PSCI 0.1 number given by the device tree.
pub const PSCI_0_1_CPU_ON: u32 = 2;
/// PSCI 0.2: version.
pub const PSCI_VERSION: u32 = 0x8400_0000;
/// PSCI 0.2: suspend.
pub const PSCI_CPU_SUSPEND: u32 = 0x8400_0001;
/// PSCI 0.2: stop this CPU.
pub const PSCI_CPU_OFF: u32 = 0x8400_0002;
/// PSCI 0.2: start a CPU.
pub const PSCI_CPU_ON: u32 = 0x8400_0003;
/// PSCI 0.2: is a CPU on?
pub const PSCI_AFFINITY_INFO: u32 = 0x8400_0004;
/// PSCI 0.2: migrate the trusted OS.
pub const PSCI_MIGRATE: u32 = 0x8400_0005;
/// PSCI 0.2: is there a trusted OS to migrate?
pub const PSCI_MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
/// PSCI 0.2: where the trusted OS is.
pub const PSCI_MIGRATE_INFO_UP_CPU: u32 = 0x8400_0007;
/// PSCI 0.2: power off.
pub const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;
/// PSCI 0.2: reset.
pub const PSCI_SYSTEM_RESET: u32 = 0x8400_0009;
/// PSCI 1.0: is a function there?
pub const PSCI_FEATURES: u32 = 0x8400_000a;
/// PSCI 1.0: suspend to RAM.
pub const PSCI_SYSTEM_SUSPEND: u32 = 0x8400_000e;
/// Bit that makes a PSCI number its 64-bit form.
pub const PSCI_64_BIT: u32 = 0x4000_0000;
/// 64-bit form.
pub const PSCI_CPU_SUSPEND_64: u32 = 0xc400_0001;
/// 64-bit form.
pub const PSCI_CPU_ON_64: u32 = 0xc400_0003;
/// 64-bit form.
pub const PSCI_AFFINITY_INFO_64: u32 = 0xc400_0004;
/// PSCI 1.1.
pub const PSCI_VERSION_1_1: u32 = 0x0001_0001;
/// Done.
pub const PSCI_SUCCESS: i32 = 0;
/// Not supported.
pub const PSCI_NOT_SUPPORTED: i32 = -1;
/// Invalid parameters.
pub const PSCI_INVALID_PARAMETERS: i32 = -2;
/// Denied.
pub const PSCI_DENIED: i32 = -3;
/// The CPU is on.
pub const PSCI_ALREADY_ON: i32 = -4;
/// The CPU is being started.
pub const PSCI_ON_PENDING: i32 = -5;
/// Internal failure.
pub const PSCI_INTERNAL_FAILURE: i32 = -6;
/// No trusted OS.
pub const PSCI_NOT_PRESENT: i32 = -7;
/// Disabled.
pub const PSCI_DISABLED: i32 = -8;
/// Invalid address.
pub const PSCI_INVALID_ADDRESS: i32 = -9;
/// Answer of `MIGRATE_INFO_TYPE`: nothing to migrate.
pub const PSCI_MIGRATE_TYPE_NONE: u32 = 2;
/// Answer of `AFFINITY_INFO`: on.
pub const PSCI_AFFINITY_ON: u32 = 0;
/// Answer of `AFFINITY_INFO`: off.
pub const PSCI_AFFINITY_OFF: u32 = 1;
/// Answer of `AFFINITY_INFO`: being started.
pub const PSCI_AFFINITY_ON_PENDING: u32 = 2;
/// SMCCC: version.
pub const SMCCC_VERSION: u32 = 0x8000_0000;
/// SMCCC: is an architecture function there?
pub const SMCCC_ARCH_FEATURES: u32 = 0x8000_0001;
/// SMCCC: branch predictor workaround.
pub const SMCCC_ARCH_WORKAROUND_1: u32 = 0x8000_8000;
/// SMCCC: speculative store bypass workaround.
pub const SMCCC_ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
/// SMCCC: branch history workaround.
pub const SMCCC_ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// SMCCC 1.1.
pub const SMCCC_VERSION_1_1: u32 = 0x0001_0001;
/// The function does not exist.
pub const SMCCC_NOT_SUPPORTED: i32 = -1;
/// The workaround is not needed.
pub const SMCCC_NOT_REQUIRED: i32 = -2;
/// Owner bits: standard secure services (PSCI).
pub const SMCCC_OWNER_STANDARD: u32 = 0x0400_0000;
/// Owner bits: standard hypervisor services; where Xen answers with [`XEN_SMCCC_UID`].
pub const SMCCC_OWNER_STANDARD_HYP: u32 = 0x0500_0000;
/// Owner bits: vendor hypervisor services.
pub const SMCCC_OWNER_VENDOR_HYP: u32 = 0x0600_0000;
/// Mask of the owner bits.
pub const SMCCC_OWNER_MASK: u32 = 0x3f00_0000;
/// Bit of a fast call.
pub const SMCCC_FAST_CALL: u32 = 0x8000_0000;
/// Function bits: number of calls of an owner.
pub const SMCCC_CALL_COUNT: u32 = 0xff00;
/// Function bits: UID of an owner.
pub const SMCCC_CALL_UID: u32 = 0xff01;
/// Function bits: revision of an owner.
pub const SMCCC_CALL_REVISION: u32 = 0xff03;
/// UID of Xen's hypervisor service, a71812dc-c698-4369-9acf-79d18ddee667, as r0 to r3 (public/arch-arm/smccc.h).
pub const XEN_SMCCC_UID: [u32; 4] = [0xdc12_18a7, 0x6943_98c6, 0xd179_cf9a, 0x67e6_de8d];
/// UID of Xen's standard secure service, f863386f-4b39-4cbd-9220-ce1641e59f6f, as r0 to r3 (public/arch-arm/smccc.h).
pub const SSSC_SMCCC_UID: [u32; 4] = [0x6f38_63f8, 0xbd4c_394b, 0x16ce_2092, 0x6f9f_e541];
/// Major revision of both services.
pub const SMCCC_REVISION_MAJOR: u32 = 0;
/// Minor revision of both services.
pub const SMCCC_REVISION_MINOR: u32 = 1;
