"""Our own guests (tests/guests) on AArch64: as dom0, beside each other, on several CPUs, on a Raspberry Pi 4."""

import os

import messages
from harness import TARGET, Skip, test
from test_arm64 import IMAGE, RASPI4B, debian64
from test_boards import board_tree
from test_dom0 import require
from test_pair import CHANNEL, XEN, lines
from test_smp import torture_verdict


def guest(name):
    path = TARGET / f"images/guest-{name}.Image"
    if not os.access(path, os.R_OK):
        raise Skip("scripts/build --arch arm64 was not run")
    return path


@test("arm64/demo", "arm64 guest ours", cost=5)
def demo(t):
    """What the guest sees of the machine, hypercalls, interrupts, events, faults."""
    guest("demo")
    m = debian64(t, "--guest", "demo")
    m.expect(r"demo: guest-demo on xen,xen-4\.20\n", 30)
    verdict = m.expect(r"\ndemo: (\d+) ok, (\d+) failed\n", 60)
    require(int(verdict[1]) >= 47 and verdict[2] == "0", f"the guest says {verdict[0].strip()}")
    m.wait_exit(60)


def pair(t, smp, args="pair=plain", xen=XEN, **other):
    guest("pair")
    return debian64(
        t, "--guest", "pair", "--no-dom0", "--dom0less", 2, "--domu-mem", "32M", "--mem", "256M", "--smp", smp,
        "--domu-first", CHANNEL, "--domu-props", 'xen,enhanced = "no-xenstore";', "--domu-args", args, "--xen-cmdline", xen,
        **other)


def both(t, smp):
    m = pair(t, smp)
    lines(m, "pair-a: 2000 rounds", "pair-b: 2000 rounds", "pair-a: 20 times 16 pages and back",
          "pair-b: 20 times 16 pages and back", "pair-a: done", "pair-b: done")


for _smp in (1, 4):
    test(f"arm64/pair-{_smp}-cpus", "arm64 pair ours", cost=5)(lambda t, smp=_smp: both(t, smp))


@test("arm64/pair-granter-crashes", "arm64 pair ours", cost=5)
def granter_crashes(t):
    """A domain crashes while another has its pages mapped, which goes on with them."""
    m = pair(t, 2, args="pair=a-crashes", allow=[r"[Cc]rash"])
    lines(m, "pair-a: crashes", "pair-b: survives", "pair-b: done")


@test("arm64/pair-version-2", "arm64 pair ours", cost=5)
def version_two(t):
    """Version 2 of the grant table where the command line allows it."""
    m = pair(t, 2, args="pair=v2", xen=XEN + " gnttab=max-ver:2")
    lines(m, "pair-a: version 2 done", "pair-a: done", "pair-b: done")


def torture(t, pcpus, vcpus, scheduler, words):
    guest("torture")
    m = debian64(t, "--smp", pcpus, "--guest", "torture", "--cmdline", f"torture {words} seed={t.options.seed}",
                 "--xen-cmdline", f"console=dtuart dom0_mem=256M dom0_max_vcpus={vcpus} sched={scheduler}", silence=200)
    torture_verdict(m, vcpus, words)
    m.wait_exit(30)


test("arm64/torture-4-cpus-4-vcpus", "arm64 guest ours", cost=15, limit=300)(
    lambda t: torture(t, 4, 4, "credit", "seconds=5 cycles=60 balls=500"))
test("arm64/torture-2-cpus-8-vcpus", "arm64 guest ours full", cost=30, limit=300)(
    lambda t: torture(t, 2, 8, "credit2", "seconds=8 cycles=60 balls=500 fifo"))


@test("arm64/raspi4b-torture", "arm64 boards debian64 guest ours", cost=20, limit=300)
def raspi4b_torture(t):
    """Raspberry Pi 4, its four CPUs by spin-table: the guest as dom0 with a vCPU on each."""
    guest("torture")
    words = "seconds=5 cycles=40 balls=500"
    dtb = board_tree(t, "broadcom/bcm2711-rpi-4-b.dtb", RASPI4B,
                     "console=dtuart dtuart=serial0 dom0_mem=64M dom0_max_vcpus=4 dom0_vcpus_pin", f"torture {words} seed={t.options.seed}",
                     "trixie", "arm64", guest=guest("torture"))
    m = t.start(["qemu-system-aarch64", "-M", "raspi4b", "-display", "none", "-monitor", "none", "-chardev",
                 "stdio,id=console,signal=off", "-serial", "chardev:console", "-kernel", IMAGE, "-dtb", dtb,
                 "-device", f"loader,file={guest('torture')},addr={RASPI4B.kernel:#x},force-raw=on"], silence=200)
    m.expect(messages.BANNER, 30)
    m.expect(r"\(XEN\) Platform: Raspberry Pi 4\n", 30)
    m.expect(r"\(XEN\) Brought up 4 CPUs\n", 30)
    torture_verdict(m, 4, words)
