"""Several physical CPUs, several vCPUs, more of the one than of the other; the schedulers; the trace; torture."""

import json
import re
import subprocess

import messages
from fixtures import Tree, debian_modules, raw_machine, tool
from harness import TOP, Failure, test
from test_console import SWITCH, to_xen
from test_dom0 import require

# Physical CPUs, vCPUs of dom0: as many, more, fewer. The others of the sixteen are run by --tag full only.
MATRIX = [(1, 4), (2, 8), (4, 2), (4, 4), (8, 1), (8, 8)]
FULL = [(pcpus, vcpus) for pcpus in (1, 2, 4, 8) for vcpus in (1, 2, 4, 8)]
XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"
ONLINE = "/sys/devices/system/cpu/cpu{}/online"


def clocks(m):
    """(uptime, real-time clock) of dom0, in seconds. The second is a device: no timer of ours has a part in it.

    It follows the machine's own clock (matrix()), so that a step of the host's clock is no matter."""
    out = m.shell("cat /proc/uptime /sys/class/rtc/rtc0/since_epoch", 60)
    uptime, rtc = re.search(r"([\d.]+) [\d.]+\s+(\d+)", out).groups()
    return float(uptime), int(rtc)


def matrix(t, pcpus, vcpus):
    m = t.debian("--smp", pcpus, "--xen-cmdline", f"{XEN} dom0_max_vcpus={vcpus}", "--", "-rtc", "clock=vm")
    if pcpus > 1:
        m.expect(rf"\(XEN\) Brought up {pcpus} CPUs", 60)
    m.login()
    require(m.shell("nproc").strip() == str(vcpus), f"not {vcpus} processors in dom0")
    before = clocks(m)
    # A busy loop on each vCPU (where dom0's own balancing has no say), and the shell answers meanwhile.
    m.shell("for i in $(seq 0 %d); do taskset $(printf %%x $((1<<i))) timeout 6 sh -c 'while :; do :; done' & done; "
            "sleep 2; echo busy" % (vcpus - 1), 90)
    m.shell("wait; sleep 1", 120)
    after = clocks(m)
    passed, real = after[0] - before[0], after[1] - before[1]
    require(abs(passed - real) <= 2, f"{passed:.1f} s passed in dom0, {real} s on its real-time clock")
    ran = [int(n) for n in re.findall(r"^cpu\d+ (\d+)", m.shell("cat /proc/stat"), re.M)]
    require(len(ran) == vcpus and min(ran) > 20, f"a vCPU did not compute: user time {ran}")
    m.poweroff()


for _row in FULL:
    test("smp/%d-cpus-%d-vcpus" % _row, "smp debian" if _row in MATRIX else "smp debian full", cost=25)(lambda t, row=_row: matrix(t, *row))


@test("smp/hotplug-200", "smp debian", cost=60, limit=600)
def hotplug(t):
    """A processor of dom0 goes off and comes back two hundred times."""
    m = t.debian("--smp", 2)
    m.login()
    online = ONLINE.format(1)
    m.shell("dmesg -n 1")
    out = m.shell(f"n=0; for i in $(seq 200); do echo 0 > {online} && echo 1 > {online} && n=$((n+1)); done; echo done $n", 500)
    require("done 200" in out, f"not all cycles worked: {out.strip()[-200:]}")
    require(m.shell("nproc").strip() == "2", "cpu1 is lost")
    m.shell("taskset 2 sh -c 'for i in 1 2 3; do sleep 0.1; done'", 30)
    m.poweroff()


@test("smp/maxcpus", "smp debian ours")
def maxcpus(t):
    m = t.debian("--smp", 4, "--xen-cmdline", f"{XEN} maxcpus=2 dom0_vcpus_pin")
    m.expect(r"\(XEN\) SMP: Allowing 2 CPUs", 30)
    m.expect(r"\(XEN\) Brought up 2 CPUs", 30)
    m.login()
    require(m.shell("nproc").strip() == "2", "dom0 does not get a vCPU for each of the two CPUs")
    m.poweroff()


@test("smp/spi-follows", "smp debian ours", cost=30)
def spi_follows(t):
    """The disk's interrupt arrives on the pCPU of the vCPU that dom0 chose for it."""
    m = t.debian("--smp", 2, "--disk", t.file("disk.img", bytes(8 << 20)),
                 "--xen-cmdline", f"{XEN} dom0_vcpus_pin trace=irq")
    m.login()

    def row():
        """(Linux's number, the GIC's, interrupts taken by each vCPU) of the disk."""
        line = re.search(r"^\s*(\d+):\s+(\d+)\s+(\d+)\s+\S+\s+(\d+)\s.*virtio", m.shell("cat /proc/interrupts"), re.M)
        require(line, "the disk has no line in /proc/interrupts")
        linux, first, second, gic = (int(n) for n in line.groups())
        return linux, gic, (first, second)

    def read():
        m.shell("for i in $(seq 30); do echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=64k count=8 2>/dev/null; done",
                120)

    def trace_key(end):
        to_xen(m)
        m.send("T")
        m.expect(end, 120)
        m.send(SWITCH)
        m.expect(messages.INPUT_TO_DOM0, 20)

    for vcpu in (1, 0):
        if vcpu == 0:
            # The dump ended the trace of the first turn.
            trace_key(r"\(XEN\) trace: on;")
        linux, gic, before = row()
        m.shell(f"echo {1 << vcpu} > /proc/irq/{linux}/smp_affinity")
        read()
        after = row()[2]
        taken = [b - a for a, b in zip(before, after)]
        require(taken[vcpu] >= 30 and taken[1 - vcpu] <= 1, f"dom0 took {taken} interrupts, which v{vcpu} should")
        trace_key(r"\(XEN\) trace: end")
        m.log.flush()
        text = subprocess.run([TOP / "scripts/trace2json", "--text", m.log_path], capture_output=True, text=True, check=True).stdout
        arrived = re.findall(rf"pCPU(\d+)\b.*\binterrupt {gic}$", text, re.M)[-20:]
        require(len(arrived) == 20, f"the trace has {len(arrived)} interrupts of the disk (GIC {gic})")
        require(arrived.count(str(vcpu)) >= 19, f"they arrived on these pCPUs, not on that of v{vcpu}: {' '.join(arrived)}")
    m.poweroff()


@test("smp/dump-state", "smp debian ours")
def dump_state(t):
    """The key asks every pCPU, idle or in a guest, for its registers."""
    m = t.debian("--smp", 4)
    m.login()
    m.shell("(taskset 4 timeout 60 sh -c 'while :; do :; done') & sleep 1")
    to_xen(m)
    start = m.pos
    m.send("d")
    seen = set()
    while len(seen) < 4:
        seen.add(m.expect(r"\(XEN\) \*\*\* Dumping CPU(\d) host state: ", 30).group(1))
        require(len(re.findall("host state", m.text[start:m.pos])) <= 4, "a CPU was dumped twice")
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    m.poweroff()


@test("smp/bad-cpus", "smp debian ours", cost=20)
def bad_cpus(t):
    """Of four CPUs of the device tree one is disabled and one does not exist."""
    tree = Tree(t, smp=4)
    tree.chosen()
    tree.strings("/cpus/cpu@2", "status", "disabled")
    tree.cells("/cpus/cpu@3", "reg", 0x103)
    m = raw_machine(t, tree, loads=debian_modules(t, tree))
    m.expect(r"\(XEN\) CPU with MPIDR 0x2 is not used: .*disabled\n", 60)
    m.expect(r"\(XEN\) .*Failed to bring up CPU 2 \(MPIDR 0x103\): .*\n", 60)
    m.expect(r"\(XEN\) Brought up 2 CPUs", 30)
    m.login()
    require(m.shell("nproc").strip() == "2", "dom0 does not have two vCPUs")
    m.poweroff()


def other_midr(t):
    """A copy of the image in which secondary CPUs take CTR for their MIDR: QEMU has no machine with two kinds of CPU.

    What a secondary CPU does then is the product's; only the number that it compares is another. Guests are given the
    true one.
    """
    symbols = tool("readelf", "-sW", t.image.with_suffix(".elf"))
    start, size = (int(n, base) for n, base in zip(
        re.search(r": ([0-9a-f]+)\s+(\d+) FUNC .* xenith_secondary_main$", symbols, re.M).groups(), (16, 10)))
    segments = tool("readelf", "-lW", t.image.with_suffix(".elf"))
    base = min(int(n, 16) for n in re.findall(r"^\s+LOAD\s+\S+ 0x([0-9a-f]+)", segments, re.M))
    image = bytearray(t.image.read_bytes())
    first = (start & ~1) - base
    # mrc p15, 0, rN, c0, c0, 0 in Thumb; opcode 2 is in bits 7:5 of the second halfword.
    reads = [m.start() for m in re.finditer(rb"\x10\xee\x10[\x0f-\xff]", bytes(image[first:first + size]))]
    # Not the one that goes to VPIDR (mcr p15, 4, rN, c0, c0, 0).
    reads = [read for read in reads if b"\x80\xee\x10" not in image[first + read + 4:first + read + 16]]
    require(reads, "no read of MIDR in xenith_secondary_main: adapt this test")
    for read in reads:
        image[first + read + 2] = 0x30
    return t.file("other-midr.zImage", bytes(image))


@test("smp/hmp-refused", "smp debian ours", cost=20)
def hmp_refused(t):
    """A CPU of another MIDR stays off, and the cause and the remedy are told."""
    m = t.debian("--image", other_midr(t), "--smp", 2, "--xen-cmdline", XEN)
    m.expect(r"\(XEN\) .*Failed to bring up CPU 1 .*MIDR differs.*hmp-unsafe=on", 60)
    m.expect(r"\(XEN\) Brought up 1 CPUs", 30)
    m.login()
    require(m.shell("nproc").strip() == "1", "dom0 has more vCPUs than there are CPUs")
    m.poweroff()


@test("smp/hmp-unsafe", "smp debian ours", cost=20)
def hmp_unsafe(t):
    """With hmp-unsafe it works, and does its share."""
    m = t.debian("--image", other_midr(t), "--smp", 2, "--xen-cmdline", f"{XEN} hmp-unsafe=on dom0_vcpus_pin")
    m.expect(r"\(XEN\) .*CPU1: MIDR 0x[0-9a-f]+ differs from the boot CPU's 0x414fc0f0: used", 60)
    m.expect(r"\(XEN\) Brought up 2 CPUs", 30)
    m.login()
    require(m.shell("nproc").strip() == "2", "dom0 does not have two vCPUs")
    require("@" in m.shell("taskset 2 sh -c 'echo @'"), "the second vCPU does nothing")
    m.poweroff()


@test("smp/psci-hvc", "smp debian ours", cost=20)
def psci_hvc(t):
    """Firmware that wants to be called by HVC cannot be: the boot CPU works alone."""
    tree = Tree(t, smp=2)
    tree.chosen()
    tree.strings("/psci", "method", "hvc")
    m = raw_machine(t, tree, loads=debian_modules(t, tree))
    m.expect(r"\(XEN\) .*Failed to bring up CPU 1 .*HVC.*Hyp.*smc", 60)
    m.expect(r"\(XEN\) Brought up 1 CPUs", 30)
    m.login()
    require(m.shell("nproc").strip() == "1", "dom0 has more vCPUs than there are CPUs")


def scheduler(t, name, words):
    m = t.debian("--smp", 2, "--xen-cmdline", f"{XEN} sched={name}")
    m.expect(rf"\(XEN\) Using scheduler: {words}", 30)
    m.login()
    m.shell("dd if=/dev/urandom of=/tmp/a bs=64k count=32 && sleep 1", 60)
    to_xen(m)
    m.send("r")
    m.expect(rf"\(XEN\) Scheduler: {name} ", 20)
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    m.poweroff()



for _name, _words in [("credit", r"SMP Credit Scheduler \(credit\)"), ("credit2", r".*credit2"), ("null", r".*null")]:
    test(f"smp/sched-{_name}", "smp debian ours", cost=15)(
        lambda t, name=_name, words=_words: scheduler(t, name, words))


@test("smp/sched-unknown", "smp debian ours")
def unknown(t):
    m = t.debian("--xen-cmdline", f"{XEN} sched=lottery")
    m.expect(r'\(XEN\) .*"sched=lottery".*no such scheduler', 30)
    m.login()
    m.poweroff()


@test("smp/trace", "smp debian ours", cost=40)
def trace(t):
    """What trace= records is printed by the key, and scripts/trace2json makes a timeline of it."""
    m = t.debian("--smp", 2, "--xen-cmdline", f"{XEN} trace=all,-trap")
    m.login()
    m.shell("for i in 1 2 3; do sleep 0.05; done; cat /sys/hypervisor/type")
    to_xen(m)
    m.send("T")
    m.expect(r"\(XEN\) trace: end", 120)
    m.send(SWITCH)
    m.expect(messages.INPUT_TO_DOM0, 20)
    m.poweroff()
    m.log.flush()
    run = subprocess.run([TOP / "scripts/trace2json", m.log_path], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if run.returncode:
        raise Failure(f"scripts/trace2json failed: {run.stderr.strip()[-300:]}")
    events = json.loads(run.stdout)
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = " ".join(str(event.get("args", {}).get("name", "")) for event in events if event.get("ph") == "M")
    for row in ("CPU0", "CPU1", "d0v0", "d0v1"):
        require(re.search(row, names, re.I), f"no row for {row} in the timeline: {names[:200]}")
    require(sum(event.get("ph") == "X" for event in events) > 100, "hardly any slices in the timeline")


# Physical CPUs, vCPUs, scheduler, words for the guest, whether the virtual clock counts instructions.
# With -icount (128 ns an instruction, one thread) minutes pass; without, the pCPUs really run at the same time.
TORTURE = [
    (4, 4, "credit", "seconds=8 cycles=100 balls=900", False),
    (2, 8, "credit2", "seconds=8 cycles=60 balls=500 fifo", False),
    (3, 3, "null", "seconds=6 cycles=60 balls=900 fifo", False),
    (1, 4, "credit", "seconds=70 cycles=200 balls=3000", True),
    (4, 6, "credit", "seconds=40 cycles=200 balls=3000 fifo", True),
]


def torture_verdict(m, vcpus, words):
    """Waits for what the guest says at the end, and whether it did what the words ask for."""
    m.expect(rf"torture: guest-torture on .*: {vcpus} vCPUs, ", 60)
    verdict = m.expect(r"torture: (?:OK|FAIL): [^\n]*\n|guest: PANIC: [^\n]*\n", 400)
    require("OK" in verdict.group(0), verdict.group(0).strip())
    counts = [int(n) for n in re.findall(r"(\d+) (?:vCPUs|locks|SGIs|events|ticks|balls|cycles)", verdict.group(0))]
    cycles, balls = (int(re.search(rf"{word}=(\d+)", words).group(1)) for word in ("cycles", "balls"))
    require(counts[0] == vcpus and counts[-1] == cycles and counts[-2] == balls * (vcpus & ~1) and min(counts[1:5]) > 100,
            f"hardly anything was done: {verdict.group(0).strip()}")


def torture(t, pcpus, vcpus, scheduler, words, icount, boot=None):
    """Our own guest: locks, interrupts, events, sleep and hot-plug of all vCPUs at the same time, by sequence numbers."""
    clock = ["--", "-icount", "shift=7,sleep=off"] if icount else []
    m = (boot or t.debian)("--smp", pcpus, "--guest", "torture", "--cmdline", f"torture {words} seed={t.options.seed}",
                           "--xen-cmdline", f"console=dtuart dom0_mem=256M dom0_max_vcpus={vcpus} sched={scheduler}", *clock, silence=200)
    torture_verdict(m, vcpus, words)
    m.wait_exit(30)


for _row in TORTURE:
    test("smp/torture-%d-cpus-%d-vcpus-%s%s" % (*_row[:3], "-minutes" if _row[4] else ""), "smp guest ours", cost=40, limit=450)(
        lambda t, row=_row: torture(t, *row))
