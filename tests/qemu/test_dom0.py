"""Debian's kernel as dom0: boots, works, stops."""

import os
import re

import messages
from harness import Failure, test

# Every pair of two of these values is in some row: (suite, CPU, RAM, highmem,
# processors). 4 GiB needs addresses above 4 GiB, so no row turns them off there.
MATRIX = [
    ("bookworm", "cortex-a15", "1G", "on", 2),
    ("bookworm", "cortex-a7", "256M", "off", 1),
    ("bookworm", "cortex-a15", "4G", "on", 4),
    ("trixie", "cortex-a7", "4G", "on", 2),
    ("trixie", "cortex-a15", "256M", "on", 1),
    ("trixie", "cortex-a7", "1G", "off", 4),
    ("bookworm", "cortex-a15", "1G", "off", 2),
]
DOM0_MEM = {"256M": 128, "1G": 512, "4G": 512}
KERNEL = {"bookworm": "6.1.", "trixie": "6.12."}


def require(condition, why):
    """Fails the test with a reason."""
    if not condition:
        raise Failure(why)


def facts(m):
    """{file below /sys/hypervisor: its text} of dom0."""
    out = m.shell("cd /sys/hypervisor && for f in $(find . -type f); do echo \"$f=$(cat $f)\"; done")
    return dict(re.findall(r"^\./(\S+?)=(.*)$", out, re.M))


def boot(t, row):
    suite, cpu, mem, highmem, smp = row
    m = t.debian("--suite", suite, "--cpu", cpu, "--mem", mem, "--highmem", highmem, "--smp", smp)
    m.expect(messages.BANNER, 30)
    up = m.login()
    require(up.group(1) == "xen", f"the hypervisor's type is {up.group(1)!r}")
    require(KERNEL[suite] in up.group(3), f"not the kernel of {suite}: {up.group(3)}")
    total = int(re.search(r"MemTotal: +(\d+) kB", m.shell("cat /proc/meminfo")).group(1)) // 1024
    # The kernel keeps some tens of MiB to itself.
    require(DOM0_MEM[mem] * 0.6 < total <= DOM0_MEM[mem], f"dom0_mem={DOM0_MEM[mem]}M, but MemTotal is {total} MiB")
    m.shell("dd if=/dev/urandom of=/tmp/a bs=64k count=64 && cp /tmp/a /tmp/b && cmp /tmp/a /tmp/b")
    m.shell("sleep 1", 20)
    m.poweroff()


for _row in MATRIX:
    # "ours" leaves out where real Xen hangs in dom0's PCI probe (highmem=on), and
    # where it finds no room for dom0's first bank, a power of two (256M).
    test(f"boot/{_row[0]}-{_row[1][7:]}-{_row[2]}-highmem-{_row[3]}",
         "boot debian" + (" ours" if _row[3] == "on" or _row[2] == "256M" else ""), cost=12)(lambda t, row=_row: boot(t, row))


@test("dom0/sysfs", "dom0 debian")
def sysfs(t):
    m = t.debian()
    m.login()
    f = facts(m)
    require(f.get("type") == "xen", f"type: {f.get('type')}")
    require((f.get("version/major"), f.get("version/minor")) == ("4", "17"), f"version: {f}")
    require(f.get("version/extra", "").startswith("."), f"version/extra: {f.get('version/extra')}")
    require("xen-3.0-armv7l" in f.get("properties/capabilities", ""), f"capabilities: {f.get('properties/capabilities')}")
    require(re.fullmatch(r"[0-9a-f-]{36}", f.get("uuid", "")), f"uuid: {f.get('uuid')}")
    for name in ("compilation/compiler", "compilation/compiled_by", "compilation/compile_date"):
        require(f.get(name), f"{name} is empty")
    for name in ("properties/virtual_start", "properties/pagesize", "properties/features"):
        require(re.fullmatch(r"[0-9a-fA-Fx]+", f.get(name, "")), f"{name}: {f.get(name)}")
    require(int(f["properties/pagesize"], 16) == 4096, f"properties/pagesize: {f['properties/pagesize']} (hexadecimal)")


@test("dom0/xenfs", "dom0 debian")
def xenfs(t):
    m = t.debian()
    m.login()
    require("control_d" in m.shell("cat /proc/xen/capabilities"), "/proc/xen/capabilities lacks control_d")
    m.shell("test -c /dev/xen/evtchn && test -c /dev/xen/privcmd && test -c /dev/xen/gntdev")
    require("xen" in m.shell("ls -d /proc/device-tree/hypervisor && cat /proc/device-tree/hypervisor/compatible"),
            "no hypervisor node")


@test("dom0/interrupts", "dom0 debian")
def interrupts(t):
    m = t.debian()
    m.login()

    def count(line):
        out = m.shell("cat /proc/interrupts")
        for row in out.splitlines():
            if re.search(line, row):
                return sum(int(n) for n in re.findall(r"(?<=\s)\d+(?=\s)", row.split(":", 1)[1]))
        raise Failure(f"no line {line} in /proc/interrupts:\n{out}")

    for line in (r"arch_timer", r"hvc_console", r"(?i)xen.*events|\bevents\b", r"IPI"):
        count(line)
    timer, console = count("arch_timer"), count("hvc_console")
    m.shell("sleep 2", 30)
    require(count("arch_timer") > timer, "the timer does not interrupt")
    require(count("hvc_console") > console, "the console does not interrupt")
    require(count(r"^\s*Err") == 0, "interrupt errors")


@test("dom0/time", "dom0 debian")
def clock(t):
    """The guest's clock and the host's run at the same rate."""
    import time
    m = t.debian()
    m.login()

    def uptime():
        return float(m.shell("cat /proc/uptime").split()[0]), time.monotonic()

    guest0, host0 = uptime()
    m.shell("sleep 5", 60)
    guest, host = (b - a for a, b in zip((guest0, host0), uptime()))
    require(5 <= guest < 5 + (host - 5) + 1, f"{guest:.2f} s in the guest, {host:.2f} s outside")
    require(abs(guest - host) < 1.5, f"{guest:.2f} s in the guest, {host:.2f} s outside")
    require("arch_sys_counter" in m.shell("cat /sys/devices/system/clocksource/clocksource0/current_clocksource"),
            "the clock source is not the architecture's timer")


@test("dom0/disk", "dom0 debian", cost=20)
def disk(t):
    """A virtio-mmio disk, read and written with DMA, verified from outside."""
    size, block = 32 << 20, 1 << 20
    pattern = os.urandom(4 * block)
    path = t.file("disk.img", pattern + bytes(size - len(pattern)))
    m = t.debian("--disk", path)
    m.login()
    m.shell("test -b /dev/vda")
    m.shell("dd if=/dev/vda of=/tmp/in bs=1M count=4")
    require(m.shell("sha256sum < /tmp/in").split()[0] == _sha(pattern), "what dom0 read is not what is on the disk")
    m.shell("dd if=/tmp/in of=/dev/vda bs=1M seek=9 conv=fsync", 60)
    m.shell("echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda of=/tmp/back bs=1M skip=9 count=4; cmp /tmp/in /tmp/back", 60)
    require(int(re.search(r"(\d+) .*virtio", m.shell("grep virtio /proc/interrupts | tr -s ' ' | sed 's/^[^:]*://'")).group(1)) > 0,
            "the disk does not interrupt")
    m.poweroff()
    with open(path, "rb") as f:
        data = f.read()
    require(data[9 * block:13 * block] == pattern, "what dom0 wrote is not in the host's file")
    require(data[:4 * block] == pattern, "dom0 changed what it only read")
    require(not any(data[4 * block:9 * block]) and not any(data[13 * block:]), "dom0 wrote elsewhere")


def _sha(data):
    import hashlib
    return hashlib.sha256(data).hexdigest()


@test("dom0/typing", "dom0 debian console")
def typing(t):
    """A person at the prompt: echo, editing, interrupting a program."""
    m = t.debian()
    m.expect(messages.DOM0_UP, 150)
    m.expect(messages.PROMPT, 30)
    m.send("echo a$((40+2))z\n")
    m.expect(r"\na42z\n", 20)
    m.expect(messages.PROMPT)
    # What prints is what the key shall end: between two commands of its own the shell ignores it, also on the bare machine.
    m.send("sh -c 'echo g$((1))o; exec sleep 1000'\n")
    m.expect(r"\ng1o\n")
    m.send("\x03")
    m.expect(messages.PROMPT)
    m.send("echo status=$?\n")
    m.expect(r"\nstatus=130\n")


@test("power/off", "dom0 debian power")
def power_off(t):
    m = t.debian()
    m.login()
    m.poweroff()


@test("power/reboot", "dom0 debian power", cost=20)
def power_reboot(t):
    m = t.debian()
    m.expect(messages.BANNER, 30)
    m.login()
    m.send("reboot -f\n")
    m.expect(messages.BANNER, 60)
    m.login()
    m.poweroff()


@test("cmdline/unknown-option", "ours")
def unknown_option(t):
    m = t.debian("--xen-cmdline", "console=dtuart dom0_mem=256M frobnicate=7")
    m.expect(r"\(XEN\) parameter \"frobnicate=7\" unknown", 60)
    m.login()


@test("cmdline/dom0-max-vcpus", "ours")
def dom0_max_vcpus(t):
    m = t.debian("--smp", 1, "--xen-cmdline", "console=dtuart dom0_mem=256M dom0_max_vcpus=2", "--cmdline", "console=hvc0 maxcpus=2")
    m.login()
    require(m.shell("nproc").strip() == "2", "dom0 does not have two processors")
    m.shell("taskset 1 true && taskset 2 true", 60)


@test("guest/demo", "guest ours", cost=5)
def demo(t, boot=None, least=48):
    m = (boot or t.debian)("--guest", "demo")
    m.expect(messages.BANNER, 30)
    # Its own command line, not the hypervisor's.
    m.expect(r"bootargs 'demo'", 30)
    # The guest's own verdict: it powers off after a failure, too.
    verdict = m.expect(r"\ndemo: (\d+) ok, (\d+) failed\n", 60)
    require(int(verdict[1]) >= least and verdict[2] == "0", f"the guest says {verdict[0].strip()}")
    m.wait_exit(60)


@test("dom0/cpu-hotplug", "dom0 debian", cost=20)
def cpu_hotplug(t):
    """A processor goes off (PSCI CPU_OFF) while the other sleeps, and comes back."""
    m = t.debian("--smp", 2)
    m.login()
    online = "/sys/devices/system/cpu/cpu1/online"
    require(m.shell(f"echo 0 > {online}; sleep 2; nproc").strip().endswith("1"), "cpu1 is still there")
    require(m.shell(f"echo 1 > {online}; sleep 1; nproc").strip().endswith("2"), "cpu1 did not come back")
    cycles = f"for i in 1 2 3 4 5; do echo 0 > {online}; echo 1 > {online}; done; nproc"
    require(m.shell(cycles, 60).strip().endswith("2"), "cpu1 was lost")
    m.poweroff()
