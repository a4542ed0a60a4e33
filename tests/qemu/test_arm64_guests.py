"""Our own guests (tests/guests) on AArch64, as on arm32: as dom0, beside each other, on several CPUs, on a Raspberry Pi 4."""

import os
from functools import partial

import messages
from harness import TARGET, Skip, test
from test_arm64 import IMAGE, RASPI4B, debian64
from test_boards import board_tree
from test_dom0 import demo
from test_pair import both, granter_crashes, version_two
from test_smp import torture, torture_verdict


def on_arm64(name, function, *args, tags="guest", cost=5, **more):
    """A test of arm32's with the 64-bit hypervisor and guest."""
    test(f"arm64/{name}", f"arm64 {tags} ours", cost=cost)(
        lambda t: function(t, *args, boot=partial(debian64, t), **more))


# What arm32 does by LDRD and LDM are two of its checks; here LDP is one.
on_arm64("demo", demo, least=47)
on_arm64("pair-1-cpus", both, 1, tags="pair")
on_arm64("pair-4-cpus", both, 4, tags="pair")
on_arm64("pair-granter-crashes", granter_crashes, tags="pair")
on_arm64("pair-version-2", version_two, tags="pair")
on_arm64("torture-4-cpus-4-vcpus", torture, 4, 4, "credit", "seconds=5 cycles=60 balls=500", False, cost=15)
on_arm64("torture-2-cpus-8-vcpus", torture, 2, 8, "credit2", "seconds=8 cycles=60 balls=500 fifo", False, tags="guest full", cost=30)


@test("arm64/raspi4b-torture", "arm64 boards debian64 guest ours", cost=20, limit=300)
def raspi4b_torture(t):
    """Raspberry Pi 4, its four CPUs by spin-table: the guest as dom0 with a vCPU on each."""
    kernel = TARGET / "images/guest-torture.Image"
    if not (os.access(IMAGE, os.R_OK) and os.access(kernel, os.R_OK)):
        raise Skip("scripts/build --arch arm64 was not run")
    words = "seconds=5 cycles=40 balls=500"
    dtb = board_tree(t, "broadcom/bcm2711-rpi-4-b.dtb", RASPI4B,
                     "console=dtuart dtuart=serial0 dom0_mem=64M dom0_max_vcpus=4 dom0_vcpus_pin", f"torture {words} seed={t.options.seed}",
                     "trixie", "arm64", guest=kernel)
    m = t.start(["qemu-system-aarch64", "-M", "raspi4b", "-display", "none", "-monitor", "none", "-chardev",
                 "stdio,id=console,signal=off", "-serial", "chardev:console", "-kernel", IMAGE, "-dtb", dtb,
                 "-device", f"loader,file={kernel},addr={RASPI4B.kernel:#x},force-raw=on"], silence=200)
    m.expect(messages.BANNER, 30)
    m.expect(r"\(XEN\) Platform: Raspberry Pi 4\n", 30)
    m.expect(r"\(XEN\) Brought up 4 CPUs\n", 30)
    torture_verdict(m, 4, words)
