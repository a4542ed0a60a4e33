"""Several physical CPUs, several vCPUs, more of the one than of the other; the schedulers; the trace; torture."""

import json
import re
import subprocess

import messages
from harness import TOP, Failure, test
from test_console import SWITCH, to_xen
from test_dom0 import require

# Physical CPUs, vCPUs of dom0: as many, more, fewer.
MATRIX = [(1, 4), (2, 8), (4, 2), (4, 4), (8, 1), (8, 8)]
XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"
ONLINE = "/sys/devices/system/cpu/cpu{}/online"


def clocks(m):
    """(uptime, real-time clock) of dom0, in seconds. The second is a device: no timer of ours has a part in it."""
    out = m.shell("cat /proc/uptime /sys/class/rtc/rtc0/since_epoch", 60)
    uptime, rtc = re.search(r"([\d.]+) [\d.]+\s+(\d+)", out).groups()
    return float(uptime), int(rtc)


def matrix(t, pcpus, vcpus):
    m = t.debian("--smp", pcpus, "--xen-cmdline", f"{XEN} dom0_max_vcpus={vcpus}")
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


for _row in MATRIX:
    test("smp/%d-cpus-%d-vcpus" % _row, "smp debian", cost=25)(lambda t, row=_row: matrix(t, *row))


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


def torture(t, pcpus, vcpus, scheduler, words, icount):
    """Our own guest: locks, interrupts, events, sleep and hot-plug of all vCPUs at the same time, by sequence numbers."""
    clock = ["--", "-icount", "shift=7,sleep=off"] if icount else []
    m = t.debian("--smp", pcpus, "--guest", "torture", "--cmdline", f"torture {words} seed={t.options.seed}",
                 "--xen-cmdline", f"console=dtuart dom0_mem=256M dom0_max_vcpus={vcpus} sched={scheduler}", *clock, silence=200)
    m.expect(rf"torture: guest-torture on .*: {vcpus} vCPUs, ", 60)
    verdict = m.expect(r"torture: (?:OK|FAIL): [^\n]*\n|guest: PANIC: [^\n]*\n", 400)
    require("OK" in verdict.group(0), verdict.group(0).strip())
    counts = [int(n) for n in re.findall(r"(\d+) (?:vCPUs|locks|SGIs|events|ticks|balls|cycles)", verdict.group(0))]
    cycles, balls = (int(re.search(rf"{word}=(\d+)", words).group(1)) for word in ("cycles", "balls"))
    require(counts[0] == vcpus and counts[-1] == cycles and counts[-2] == balls * (vcpus & ~1) and min(counts[1:5]) > 100,
            f"hardly anything was done: {verdict.group(0).strip()}")
    m.wait_exit(30)


for _row in TORTURE:
    test("smp/torture-%d-cpus-%d-vcpus-%s%s" % (*_row[:3], "-minutes" if _row[4] else ""), "smp guest ours", cost=40, limit=450)(
        lambda t, row=_row: torture(t, *row))
