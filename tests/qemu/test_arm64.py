"""Debian's arm64 kernel as dom0 of the hypervisor built for AArch64 (scripts/build --arch arm64)."""

import os
import re
import struct
import subprocess
from types import SimpleNamespace

import messages
from fixtures import tool
from harness import TARGET, TOP, Failure, Skip, test
from test_boards import board_tree
from test_dom0 import facts, require
from test_dom0less import ask, go_to
from test_hostile import GUEST, attacks, checked, witness
from test_toolstack import digest, domains, enter, leave, until

IMAGE = TARGET / "images/xenith-arm64.Image"
XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"
# CPU, RAM, processors: 40-bit and 44-bit addresses, three and four levels of stage 2, an architecture with all that QEMU
# knows of what is hidden from guests.
MATRIX = [
    ("cortex-a53", "1G", 2),
    ("cortex-a57", "512M", 1),
    ("cortex-a72", "4G", 4),
    ("max", "1G", 2),
]


def debian64(t, *args, **more):
    """Starts Debian as dom0 on AArch64 with the options of scripts/run."""
    if not os.access(IMAGE, os.R_OK):
        raise Skip("scripts/build --arch arm64 was not run")
    return t.start(t.run_command("--arch", "arm64", "--image", IMAGE, *args), **more)


def boot(t, row):
    cpu, mem, smp = row
    m = debian64(t, "--cpu", cpu, "--mem", mem, "--smp", smp)
    m.expect(messages.BANNER, 30)
    m.expect(rf"\(XEN\) P2M: \d+-bit IPA with \d+-bit PA and {16 if cpu == 'max' else 8}-bit VMID", 30)
    up = m.login(240)
    require(up.group(1) == "xen", f"the hypervisor's type is {up.group(1)!r}")
    require("aarch64" in up.group(3), f"not a 64-bit kernel: {up.group(3)}")
    require(m.shell("nproc").strip() == str(smp), f"not {smp} processors in dom0")
    m.shell("dd if=/dev/urandom of=/tmp/a bs=64k count=64 && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b")
    m.shell("sleep 1", 20)
    m.poweroff()


for _row in MATRIX:
    test(f"arm64/{_row[0]}-{_row[1]}-{_row[2]}", "arm64 debian64 ours", cost=25)(lambda t, row=_row: boot(t, row))


GIC_MATRIX = [("3", "cortex-a57", 1), ("3", "cortex-a57", 4), ("max", "max", 2)]


def gicv3(t, row):
    """With a GICv3: SGIs by a trapped system register, its own redistributor for each vCPU, SPIs that follow a vCPU."""
    version, cpu, smp = row
    m = debian64(t, "--gic", version, "--cpu", cpu, "--smp", smp)
    m.expect(messages.BANNER, 30)
    m.expect(rf"\(XEN\) GICv3: \d+ lines, {smp} cpus", 30)
    m.login(240)
    require(m.shell("nproc").strip() == str(smp), f"not {smp} processors in dom0")
    log = m.shell("dmesg | grep -iE 'GICv3|redistributor'")
    require(log.count("found redistributor") == smp, f"redistributors: {log}")
    m.shell("dd if=/dev/urandom of=/tmp/a bs=64k count=64 && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b")
    m.shell("sleep 1", 20)
    for cpu in range(smp):
        m.shell(f"taskset $((1 << {cpu})) sleep 0.2", 20)
    m.poweroff()


for _row in GIC_MATRIX:
    test(f"arm64/gicv3-{_row[0]}-{_row[2]}", "arm64 debian64 ours" + (" full" if _row[2] != 1 else ""), cost=25)(
        lambda t, row=_row: gicv3(t, row))


@test("arm64/gicv3-16-cpus", "arm64 debian64 ours full", cost=90, limit=900)
def sixteen(t):
    """More CPUs than a GICv2 has interfaces, and more vCPUs than one cluster: affinities of two levels."""
    # Few processors of the host stand for many here: what takes long is not stuck.
    m = debian64(t, "--gic", "3", "--smp", 16, "--xen-cmdline", f"{XEN} dom0_max_vcpus=18",
                 "--cmdline", "console=hvc0 rcupdate.rcu_cpu_stall_suppress=1 nosoftlockup")
    m.expect(r"\(XEN\) Brought up 16 CPUs", 60)
    m.login(600)
    require(m.shell("nproc", 60).strip() == "18", "not 18 processors in dom0")
    require("Booted secondary processor 0x0000000101" in m.shell("dmesg", 60), "the last vCPU is not of the second cluster")
    # Each vCPU runs something, and is woken by another: SGIs to both clusters.
    out = m.shell("for i in $(seq 0 17); do taskset $(printf %x $((1 << i))) sh -c 'echo on $0' $i; done", 240)
    require([int(n) for n in re.findall(r"^on (\d+)", out, re.M)] == list(range(18)), f"a vCPU did not run: {out}")
    m.poweroff()


@test("arm64/sysfs", "arm64 debian64 ours", cost=25)
def sysfs(t):
    m = debian64(t)
    m.login(240)
    f = facts(m)
    require((f.get("version/major"), f.get("version/minor")) == ("4", "20"), f"version: {f}")
    require("xen-3.0-aarch64" in f.get("properties/capabilities", ""), f"capabilities: {f.get('properties/capabilities')}")
    require("control_d" in m.shell("cat /proc/xen/capabilities"), "/proc/xen/capabilities lacks control_d")
    require("Using FIFO-based ABI" in m.shell("dmesg"), "no FIFO event channels")
    m.poweroff()


@test("arm64/more-vcpus-than-cpus", "arm64 debian64 ours", cost=40)
def more_vcpus(t):
    m = debian64(t, "--smp", 2, "--xen-cmdline", f"{XEN} dom0_max_vcpus=4")
    m.login(240)
    require(m.shell("nproc").strip() == "4", "not 4 processors in dom0")
    # A busy loop on each vCPU, with floating point in half of them, and the shell answers meanwhile.
    m.shell("for i in 0 1 2 3; do taskset $(printf %x $((1<<i))) timeout 5 "
            "awk 'BEGIN {for (;;) {x = x + 0.1; y = x * 3.7}}' & done; sleep 2; echo busy", 90)
    m.shell("wait; sleep 1", 120)
    ran = [int(n) for n in re.findall(r"^cpu\d+ (\d+)", m.shell("cat /proc/stat"), re.M)]
    require(len(ran) == 4 and min(ran) > 20, f"a vCPU did not compute: user time {ran}")
    m.poweroff()


@test("arm64/floating-point", "arm64 debian64 ours", cost=40)
def floating_point(t):
    """Programs on more vCPUs than pCPUs compute the same as one alone: the registers are switched whole."""
    m = debian64(t, "--smp", 1, "--xen-cmdline", f"{XEN} dom0_max_vcpus=3")
    m.login(240)
    program = "awk 'BEGIN {x = 0.5; for (i = 0; i < 200000; i++) x = 3.9 * x * (1 - x); printf \"%.15f\\n\", x}'"
    alone = m.shell(program, 60).strip()
    out = m.shell(f"for i in 0 1 2; do taskset $((1<<i)) {program} & done; wait", 120).split()
    require(out == [alone] * 3, f"alone {alone}, together {out}")
    m.poweroff()


@test("arm64/hotplug-50", "arm64 debian64 ours", cost=60, limit=600)
def hotplug(t):
    """A processor of dom0 goes off (CPU_OFF) and comes back (CPU_ON by SMC64) fifty times."""
    m = debian64(t, "--smp", 2)
    m.login(240)
    online = "/sys/devices/system/cpu/cpu1/online"
    out = m.shell(f"n=0; for i in $(seq 50); do echo 0 > {online} && echo 1 > {online} && n=$((n+1)); done; echo done $n", 400)
    require("done 50" in out, f"not all cycles worked: {out.strip()[-200:]}")
    require(m.shell("nproc").strip() == "2", "cpu1 is lost")
    m.poweroff()


@test("arm64/keys", "arm64 debian64 ours", cost=25)
def keys(t):
    m = debian64(t)
    m.login(240)
    m.send("\x01\x01\x01")
    m.expect(messages.INPUT_TO_XEN, 20)
    for key, answer in messages.KEYS:
        m.send(key)
        m.expect(answer + r"[^\n]*\n", 30)
    m.send("\x01\x01\x01")
    m.expect(messages.INPUT_TO_DOM0, 20)
    m.poweroff()


@test("arm64/entered-at-el1", "arm64 ours", cost=5)
def entered_at_el1(t):
    if not os.access(IMAGE, os.R_OK):
        raise Skip("scripts/build --arch arm64 was not run")
    m = t.start(["qemu-system-aarch64", "-M", "virt,gic-version=2", "-cpu", "cortex-a57", "-m", "256M", "-display", "none",
                 "-nic", "none", "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                 "-kernel", IMAGE])
    m.expect(r"must be entered at EL2; this CPU is at EL1\.\n", 30)
    m.expect(r"virtualization=on[^\n]*\n", 30)
    m.expect(r"Halted\.\n", 30)


@test("arm64/32-bit-kernel", "arm64 debian ours", cost=10)
def wrong_kernel(t):
    """A CPU whose EL1 has no AArch32 state: a 32-bit kernel is refused with a reason, and not offered."""
    m = debian64(t, "--cpu", "neoverse-n1", "--kernel", t.guest_file("bookworm", "kernel"), "--initrd", "none",
                 "--xen-cmdline", f"{XEN} noreboot", allow=[r"[Pp]anic"])
    m.expect(r"\(XEN\) the kernel module is a 32-bit kernel, and this CPU runs 64-bit kernels only[^\n]*\n", 60)


@test("arm64/dom0less", "arm64 debian64 ours", cost=60, limit=600)
def dom0less(t, *options):
    """Two 64-bit domains of the device tree with two vCPUs each, beside dom0."""
    m = debian64(t, *options, "--dom0less", 2, "--domu-cpus", 2, "--smp", 2,
                 "--xen-cmdline", "console=dtuart dom0_mem=384M loglvl=all guest_loglvl=all")
    missing = {"dom0", "domU1", "domU2"}
    while missing:
        found = m.expect(r"XENITH-(?:DOM0-UP|UP domain=(\S+) cpus=2) hypervisor=(?:\S+) uptime=[^\n]*aarch64[^\n]*\n", 300)
        missing.discard(found.group(1) or "dom0")


@test("arm64/gicv3-dom0less", "arm64 debian64 ours full", cost=60, limit=600)
def gicv3_dom0less(t):
    dom0less(t, "--gic", "3")


UP32 = r"XENITH-UP domain=domU1 cpus=(\d+) hypervisor=(\S+) uptime=[^\n]*armmp-lpae[^\n]*armv7l[^\n]*\n"


@test("arm64/32-bit-domu", "arm64 debian ours", cost=15)
def domu32(t):
    """Debian's unmodified armhf kernel as a domain of a 64-bit hypervisor, with its shell on its UART."""
    m = debian64(t, "--no-dom0", "--dom0less", 1, "--domu-mem", "128M", "--domu-props", 'xen,enhanced = "no-xenstore";',
                 "--kernel", t.guest_file("bookworm", "kernel"), "--initrd", t.initrd())
    found = m.expect(UP32, 100)
    require(found[1] == "1", f"{found[1]} processors")
    go_to(m, "DOM1")
    ask(m, 1)
    ask(m, 1, "uname -m", r"armv7l\r?\n")
    # What the processor does for user programs: floating point, and a clean end.
    ask(m, 1, "awk 'BEGIN {x = 0.5; for (i = 0; i < 999; i++) x = 3.9 * x * (1 - x); printf \"%.3f%s\\n\", x < 1, \"ok\"}'", r"1\.000ok")
    m.send("poweroff -f\n")
    m.expect(r"reboot: Power down", 30)


@test("arm64/32-bit-beside-dom0", "arm64 debian debian64 ours full", cost=40)
def domu32_beside_dom0(t):
    """The same with two vCPUs beside a 64-bit dom0; both go on working."""
    for suite in ("bookworm", "trixie"):
        m = debian64(t, "--dom0less", 1, "--domu-cpus", 2, "--domu-mem", "192M", "--smp", 2,
                     "--domu-kernel", t.guest_file(suite, "kernel"), "--domu-initrd", t.initrd(suite),
                     "--xen-cmdline", "console=dtuart dom0_mem=384M loglvl=all guest_loglvl=all")
        missing = {"dom0", "domU1"}
        while missing:
            found = m.expect(rf"XENITH-DOM0-UP [^\n]*aarch64[^\n]*\n|{UP32}", 200)
            require(found[1] in (None, "2"), f"{found[1]} processors in the domain")
            missing.discard("domU1" if found[1] else "dom0")
        go_to(m, "DOM1")
        # Both processors, at user level and in the kernel, while dom0's are busy too.
        ask(m, 1, "for i in 0 1; do taskset $((1<<i)) dd if=/dev/urandom bs=64k count=50 | taskset $((1<<i)) md5sum; done", r"(?s)  -\r?\n.*?  -\r?\n")
        ask(m, 1)
        for who in ("Xen", "DOM0"):
            go_to(m, who)
        m.shell("sleep 1", 20)
        m.poweroff()


@test("arm64/32-bit-gicv3", "arm64 debian ours full", cost=20)
def domu32_gicv3(t):
    """A 32-bit domain with two vCPUs, which send each other interrupts by CP15, on a GICv3."""
    m = debian64(t, "--gic", 3, "--no-dom0", "--dom0less", 1, "--domu-mem", "128M", "--domu-cpus", 2, "--smp", 2,
                 "--kernel", t.guest_file("bookworm", "kernel"), "--initrd", t.initrd())
    require(m.expect(UP32, 100)[1] == "2", "not 2 processors in the domain")


@test("arm64/32-bit-dom0", "arm64 debian ours full", cost=20)
def dom0_32(t):
    """Debian's armhf kernel as dom0 of the 64-bit hypervisor: the hypercalls of 32 bits, both processors."""
    m = debian64(t, "--kernel", t.guest_file("bookworm", "kernel"), "--initrd", t.initrd(), "--smp", 2)
    up = m.login(240)
    require(up.group(1) == "xen" and "armv7l" in up.group(3), f"not a 32-bit dom0 on Xen: {up.group(3)}")
    require(m.shell("nproc").strip() == "2", "not 2 processors in dom0")
    m.shell("dd if=/dev/urandom of=/tmp/a bs=64k count=64 && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b", 60)
    require("control_d" in m.shell("cat /proc/xen/capabilities"), "/proc/xen/capabilities lacks control_d")
    m.poweroff()


@test("arm64/32-bit-hostile", "arm64 hostile ours full", cost=40, limit=400)
def hostile32(t):
    """The guest that attacks, as a 32-bit domain beside one that behaves: hostile/beside-a-witness on AArch64."""
    m = debian64(t, "--no-dom0", "--dom0less", 2, "--domu-cpus", 2, "--domu-mem", "32M", "--mem", "512M",
                 "--xen-cmdline", "console=dtuart loglvl=all", "--domu-props", 'xen,enhanced = "no-xenstore";',
                 "--kernel", GUEST, "--initrd", "none", allow=[r"\(XEN\) \(d1\)"])
    m.expect(r"witness: begins, events true\n", 60)
    names = attacks(m)
    witness(m, 12)
    checked(m, names)


@test("arm64/toolstack-32", "arm64 toolstack debian full", cost=90, limit=900)
def toolstack32(t):
    """Debian 13's xl 4.20 makes a 32-bit domU of Debian's armhf kernel, with disk and network, and dumps it."""
    m = debian64(t, "--toolstack", "--smp", 2, "--mem", "1G",
                 "--xen-cmdline", "console=dtuart dom0_mem=768M loglvl=all guest_loglvl=all")
    m.login(400)
    require(re.search(r"^xen_caps +: xen-3.0-aarch64 xen-3.0-armv7l", m.shell("xl info", 100), re.M), "xl info lacks armv7l")
    m.shell("sed 's/vcpus = 1/vcpus = 2/; s/name = .*/name = \"domu\"/; s/memory = .*/memory = 96/' /root/domu32.cfg > /root/c && xl create /root/c", 300)
    enter(m, "domu")
    require("xen armv7l 2" in m.shell("echo $(cat /sys/hypervisor/type) $(uname -m) $(nproc)"), "the domU is not what it should be")
    m.shell("dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync", 200)
    written = digest(m.shell("sha256sum /mnt/file", 100))
    leave(m)
    m.shell("ping -c 3 10.0.0.2", 100)
    m.shell("xl dump-core domu /root/core && head -c 4 /root/core | grep ELF && rm /root/core", 200)
    m.shell("xl shutdown -w domu", 300)
    until(m, "! xl domid domu 2> /dev/null", "the end of the domain")
    m.shell("mount -o loop /root/domu.img /mnt", 100)
    require(digest(m.shell("sha256sum /mnt/file", 100)) == written, "the disk does not hold what the domU wrote")
    m.poweroff()


@test("arm64/64G", "arm64 debian64 ours", cost=60, limit=600)
def much_ram(t):
    """RAM up to 64 GiB: the frame table covers it, dom0 works in its part."""
    # Sparse: the host has not as much, and nobody touches it.
    m = debian64(t, "--mem", "64G", "--smp", 2, "--xen-cmdline", f"{XEN} bootscrub=off", "--",
                 "-object", "memory-backend-ram,id=ram,size=64G,reserve=off", "-machine", "memory-backend=ram")
    found = m.expect(r"\(XEN\) System RAM: (\d+)MB, (\d+)MB free\n", 60)
    require(int(found.group(1)) == 65536 and int(found.group(2)) > 65000, f"RAM: {found.group(0)}")
    m.login(300)
    m.poweroff()


@test("arm64/toolstack", "arm64 toolstack debian full", cost=120, limit=900)
def toolstack(t, *options):
    """Debian 13's unmodified toolstack, xl 4.20: a domU with a disk and a network card, from create to shutdown."""
    m = debian64(t, *options, "--toolstack", "--smp", 2, "--mem", "1G",
                 "--xen-cmdline", "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all")
    m.login(400)
    info = m.shell("xl info", 100)
    for wanted in (r"xen_version +: 4\.20\.", r"nr_cpus +: 2$", r"virt_caps +: hvm hap gnttab-v1$", r"total_memory +: 1024$", r"xen_commandline +: .*dom0_mem=512M"):
        require(re.search(f"^{wanted}", info, re.M), f"xl info lacks {wanted}: {info}")
    m.shell("sed -i 's/vcpus = 1/vcpus = 2/' /root/domu.cfg && xl create /root/domu.cfg", 300)
    enter(m, "domu")
    require("xen aarch64 2" in m.shell("echo $(cat /sys/hypervisor/type) $(uname -m) $(nproc)"), "the domU is not what it should be")
    m.shell("dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync", 200)
    written = digest(m.shell("sha256sum /mnt/file", 100))
    leave(m)
    number, memory, vcpus, _ = domains(m)["domu"]
    require((number, memory, vcpus) == (1, 256, 2), f"xl list shows {number, memory, vcpus}")
    m.shell("ping -c 3 10.0.0.2", 100)
    m.shell("xl pause domu", 100)
    require("p" in domains(m)["domu"][3], "xl list does not show that it is paused")
    m.shell("xl unpause domu && xl vcpu-pin domu 0 1", 100)
    require(re.search(r"^domu +1 +0 +\d+ +\S+ +[\d.]+ +1 / all", m.shell("xl vcpu-list domu", 100), re.M), "xl vcpu-pin")
    m.shell("xl shutdown -w domu", 300)
    until(m, "! xl domid domu 2> /dev/null", "the end of the domain")
    m.shell("mount -o loop /root/domu.img /mnt", 100)
    require(digest(m.shell("sha256sum /mnt/file", 100)) == written, "the disk does not hold what the domU wrote")
    m.shell("umount /mnt", 100)
    m.shell("xl create -p /root/domu.cfg && xl destroy domu", 300)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    m.poweroff()


@test("arm64/gicv3-toolstack", "arm64 toolstack debian full", cost=120, limit=900)
def gicv3_toolstack(t):
    toolstack(t, "--gic", "3")


RASPI4B = SimpleNamespace(kernel=0x10000000, initrd=0x18000000)
RASPI4B_WITHOUT = ["/soc/interrupt-controller@7ef00100", "/soc/clock@7ef00000", "/soc/i2c@7ef04500", "/soc/i2c@7ef09500",
                   "/soc/hdmi@7ef00700", "/soc/hdmi@7ef05700"]


def raspi4b(t, xen, port, change=lambda put: None, cpus=4, more=()):
    """QEMU's Raspberry Pi 4 with Debian's device tree; the console is on its first or second UART."""
    if not os.access(IMAGE, os.R_OK):
        raise Skip("scripts/build --arch arm64 was not run")
    dtb = board_tree(t, "broadcom/bcm2711-rpi-4-b.dtb", RASPI4B, xen, "console=hvc0 clk_ignore_unused", "trixie", "arm64")
    # What firmware adds and QEMU, which knows RAM by its nodes' names, does not: the second GiB.
    tool("fdtput", "-p", "-t", "s", dtb, "/ram@40000000", "device_type", "memory")
    tool("fdtput", "-t", "x", dtb, "/ram@40000000", "reg", 0, 40000000, 40000000)
    # Devices without a model: an access is an external abort.
    for node in RASPI4B_WITHOUT:
        tool("fdtput", "-t", "s", dtb, node, "status", "disabled")
    change(lambda kind, node, prop, *values: tool("fdtput", "-t", kind, dtb, node, prop, *values))
    command = ["qemu-system-aarch64", "-M", "raspi4b", "-display", "none", "-monitor", "none", "-chardev",
               "stdio,id=console,signal=off", *["-serial", "null"] * port, "-serial", "chardev:console",
               "-kernel", IMAGE, "-dtb", dtb]
    for file, at in ((t.guest_file("trixie", "kernel", "arm64"), RASPI4B.kernel),
                     (t.initrd("trixie", "arm64"), RASPI4B.initrd)):
        command += ["-device", f"loader,file={str(file).replace(',', ',,')},addr={at:#x},force-raw=on"]
    m = t.start(command + list(more))
    m.expect(messages.BANNER, 30)
    m.expect(r"\(XEN\) Platform: Raspberry Pi 4\n", 30)
    m.expect(r"\(XEN\) CPUs are started by spin-table\n", 30)
    m.expect(rf"\(XEN\) Brought up {cpus} CPUs\n", 30)
    return m


@test("arm64/raspi4b", "arm64 debian64 boards ours full", cost=40)
def raspi4b_pl011(t):
    """Raspberry Pi 4, console on the PL011: four CPUs by spin-table, dom0 on all of them, restart and power off."""
    m = raspi4b(t, "console=dtuart dtuart=serial0 dom0_mem=512M loglvl=all guest_loglvl=all", 0)
    # The DMA controllers reach the first GiB only.
    first = m.expect(r"BANK\[0\] 0x([0-9a-f]+)-", 30)
    require(int(first.group(1), 16) < 1 << 30, f"dom0 has no memory for DMA: {first.group(0)}")
    m.login(240)
    require(m.shell("nproc").strip() == "4", "not 4 processors in dom0")
    m.shell("for i in 1 2 4 8; do taskset $i awk 'BEGIN {exit !(1.5 * 2 == 3)}' || exit 1; done; sleep 0.5", 60)
    m.send("reboot -f\n")
    m.expect(messages.BANNER, 60)
    m.expect(r"\(XEN\) Brought up 4 CPUs\n", 30)
    m.login(240)
    m.poweroff()


@test("arm64/raspi4b-mini-uart", "arm64 debian64 boards ours", cost=6)
def raspi4b_mini(t):
    """Raspberry Pi 4, console on the mini UART, which the device tree names: output and input."""
    m = raspi4b(t, "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all", 1)
    m.expect(r"\] Xen 4\.20 support found\n", 60)
    m.send("\x01\x01\x01")
    m.expect(messages.INPUT_TO_XEN, 20)


@test("arm64/raspi4b-bad-cpus", "arm64 boards debian64 ours", cost=7)
def raspi4b_bad_cpus(t):
    """A release address that is none, and a method that nobody knows: the other CPUs are used."""
    def change(put):
        put("x", "/cpus/cpu@1", "cpu-release-addr", 0, "e1")
        put("s", "/cpus/cpu@3", "enable-method", "xenith,none")
    m = raspi4b(t, "console=dtuart dtuart=serial0 dom0_mem=512M loglvl=all", 0, change, cpus=2)
    for cpu, reason in ((1, r"its cpu-release-addr is missing, not a multiple of 8"), (3, "there is no PSCI")):
        require(re.search(rf"\(XEN\) Failed to bring up CPU {cpu} \(MPIDR {cpu:#x}\): {reason}", m.text), f"CPU {cpu} has no reason")
    m.expect(r"\] Xen 4\.20 support found\n", 60)


# From EL3 to EL2, and a loop until an address is in the last doubleword. SCR_EL3: NS, HCE, RW; SPSR_EL3: EL2h, all masked.
PEN = """
    mov x0, #0x531; msr scr_el3, x0; mov x0, #0x3c9; msr spsr_el3, x0; adr x0, 1f; msr elr_el3, x0; eret
 1: adr x1, 3f
 2: wfe; ldr x0, [x1]; cbz x0, 2b; br x0
 3: .quad 0
""", [0xd280a620, 0xd51e1100, 0xd2807920, 0xd51e4000, 0x10000060, 0xd51e4020, 0xd69f03e0, 0x100000a1,
      0xd503205f, 0xf9400020, 0xb4ffffc0, 0xd61f0000, 0, 0]


@test("arm64/raspi4b-one-address", "arm64 boards debian64 ours", cost=7)
def raspi4b_one_address(t):
    """All CPUs wait for the same address, as U-Boot's spin-table has it, in RAM that nothing reserves."""
    pen = t.file("pen", struct.pack("<14I", *PEN[1]))
    at = 0x10000
    more = ["-device", f"loader,file={pen},addr={at:#x},force-raw=on"]

    def change(put):
        for cpu in (1, 2, 3):
            put("x", f"/cpus/cpu@{cpu}", "cpu-release-addr", 0, f"{at + 4 * 12:x}")
            more.extend(["-device", f"loader,addr={at:#x},cpu-num={cpu}"])
    m = raspi4b(t, "console=dtuart dtuart=serial0 dom0_mem=512M loglvl=all", 0, change, more=more)
    m.expect(r"\] Xen 4\.20 support found\n", 60)


def uboot(t, command, found):
    """Debian's U-Boot on virt starts the hypervisor from a card that scripts/mkimage made, by a boot script."""
    if not os.access(IMAGE, os.R_OK):
        raise Skip("scripts/build --arch arm64 was not run")
    card = t.dir / "card.img"
    done = subprocess.run([TOP / "scripts/mkimage", "--arch", "arm64", "--boot", command, "--output", card, "qemu-virt"],
                          capture_output=True, text=True)
    if done.returncode:
        raise Failure(done.stderr.strip()[-300:])
    bios = t.guest_file("trixie", "u-boot-qemu", "arm64") / "usr/lib/u-boot/qemu_arm64/u-boot.bin"
    m = t.start(["qemu-system-aarch64", "-M", "virt,virtualization=on,gic-version=2", "-cpu", "cortex-a57", "-smp", 2,
                 "-m", "1G", "-display", "none", "-nic", "none", "-monitor", "none", "-chardev",
                 "stdio,id=console,signal=off", "-serial", "chardev:console", "-bios", bios,
                 "-drive", f"file={card},format=raw,if=none,id=card", "-device", "virtio-blk-device,drive=card"])
    m.expect(found, 60)
    m.expect(messages.BANNER, 60)
    m.expect(r"\(XEN\) Brought up 2 CPUs\n", 30)
    m.login(240)
    m.poweroff()


@test("arm64/uboot-booti", "arm64 debian64 boards ours", cost=10)
def uboot_booti(t):
    """The Image itself, by booti."""
    uboot(t, "booti", r"bytes read [^\n]*\n[\s\S]*Starting kernel")


@test("arm64/uboot-bootm", "arm64 debian64 boards ours", cost=10)
def uboot_bootm(t):
    """The uImage, by bootm."""
    uboot(t, "bootm", r"Verifying Checksum \.\.\. OK")
