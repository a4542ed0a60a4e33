"""Domains that the hypervisor starts from the device tree."""

import re
import subprocess

import messages
from harness import TOP, Failure, test

def require(condition, why):
    if not condition:
        raise Failure(why)


SWITCH = "\x01\x01\x01"


def up(m, number, cpus=1, timeout=150):
    """Waits until a domain has its shell; its output is shown by lines. Returns what it says of itself."""
    found = m.expect(rf"DOM{number}: XENITH-UP domain=domU{number} cpus=(\d+) hypervisor=(\S+) ", timeout)
    require(int(found[1]) == cpus, f"domain {number} has {found[1]} CPUs, not {cpus}")
    return found


def all_up(m, count, cpus=1, timeout=200):
    """As up, for domains 1 to count in any order; returns what each says of the hypervisor."""
    seen = {}
    while len(seen) < count:
        found = m.expect(r"DOM(\d+): XENITH-UP domain=domU(\d+) cpus=(\d+) hypervisor=(\S+) ", timeout)
        require(found[1] == found[2], f"domain {found[1]} calls itself domU{found[2]}")
        require(int(found[3]) == cpus, f"domain {found[1]} has {found[3]} CPUs, not {cpus}")
        seen[int(found[1])] = found[4]
    return seen


def free_kib(m):
    """Presses the key for it while the keyboard is the hypervisor's."""
    m.send("m")
    return int(m.expect(r"Total: \d+ kB, free: (\d+) kB", 20)[1])


def go_to(m, who):
    """Switches the keyboard on to `who`: "Xen", "DOM0", ..."""
    m.send(SWITCH)
    m.expect(rf"\(XEN\) .*Serial input to {who} ", 20)


def ask(m, number, question="echo $((6*7))-$(hostname)", answer=None):
    """Has a domain that has the keyboard do something."""
    m.send("\n" + question + "\n")
    m.expect(answer or rf"42-domU{number}\r?\n", 30)


@test("dom0less/two-without-dom0", "dom0less debian", cost=30)
def two_without_dom0(t):
    """Two domains and no dom0: each to its shell on its own console; one ends, the other lives on."""
    m = t.debian("--no-dom0", "--dom0less", 2, "--domu-mem", "128M")
    all_up(m, 2)
    for number in (1, 2):
        go_to(m, f"DOM{number}")
        ask(m, number)
    m.send("poweroff -f\n")
    m.expect(r"reboot: Power down", 30)
    # The keyboard is the hypervisor's then.
    m.expect(messages.INPUT_TO_XEN, 20)
    go_to(m, "DOM1")
    ask(m, 1)


@test("dom0less/beside-dom0", "dom0less debian", cost=40)
def beside_dom0(t):
    """dom0 and two domains with two vCPUs each; the keyboard goes round."""
    m = t.debian("--dom0less", 2, "--domu-cpus", 2, "--domu-mem", "128M")
    m.login()
    # They may have been first.
    m.pos = 0
    all_up(m, 2, 2)
    for who in ("DOM1", "DOM2"):
        go_to(m, who)
        ask(m, who[3])
    go_to(m, "Xen")
    m.send("q")
    m.expect(r"General information for domain 2", 20)
    go_to(m, "DOM0")
    require(m.shell("echo back").strip() == "back", "dom0 does not answer")
    m.poweroff()


@test("dom0less/broken-one", "dom0less debian ours", cost=25)
def broken_one(t):
    """A domain with a faulty description is reported and left out; the others run."""
    m = t.debian("--no-dom0", "--dom0less", 2, "--domu-mem", "128M", "--domu-first", "cpus = <99>;")
    m.expect(r"\(XEN\) .*/chosen/domU1 is not started: \"cpus\" is out of range", 20)
    up(m, 2)
    go_to(m, "DOM2")
    ask(m, 2)


@test("dom0less/too-much-memory", "dom0less debian ours", cost=25)
def too_much_memory(t):
    """A domain that does not fit is given up, and what it had is there for the next."""
    m = t.debian("--no-dom0", "--dom0less", 2, "--mem", "512M", "--domu-mem", "256M", "--domu-first", "memory = <0 0x400000>;")
    m.expect(r"\(XEN\) .*/chosen/domU1 is not started: \d+ MiB of d1's memory cannot be had", 20)
    up(m, 2)


@test("dom0less/enhanced", "dom0less debian", cost=25)
def enhanced(t):
    """An enhanced domain finds the hypervisor; another one does not."""
    m = t.debian("--no-dom0", "--dom0less", 2, "--domu-mem", "128M", "--domu-first", 'xen,enhanced = "no-xenstore";')
    seen = all_up(m, 2)
    if seen != {1: "xen", 2: "none"}:
        raise Failure(f"the domains see {seen}")


def many(t, count):
    """So many domains without dom0 on two pCPUs, each to its shell on its own console."""
    m = t.debian("--no-dom0", "--dom0less", count, "--domu-mem", "96M", "--mem", "1G")
    all_up(m, count, timeout=400)
    for number in range(1, count + 1):
        go_to(m, f"DOM{number}")
        ask(m, number)
    require(re.search(rf"domU{count}", m.tail(5)) is not None, f"the last answer is domain {count}'s")


test("dom0less/four", "dom0less debian", cost=45, limit=400)(lambda t: many(t, 4))
test("dom0less/eight", "dom0less debian slow", cost=90, limit=600)(lambda t: many(t, 8))


@test("dom0less/passthrough", "dom0less debian ours", cost=40)
def passthrough(t):
    """A domain with static memory, mapped 1:1, has a disk of the machine's: a virtio-mmio device with its interrupt."""
    disk = t.file("disk.img", b"written by the host\n".ljust(1 << 20, b"\0"))
    partial = TOP / "tests/fixtures/partial.dtb"
    first = (
        "direct-map; xen,static-mem = <0x70000000 0x8000000>;"
        f"module@6f000000 {{ compatible = \"multiboot,device-tree\", \"multiboot,module\"; reg = <0x6f000000 {partial.stat().st_size}>; }};"
    )
    m = t.debian(
        "--no-dom0", "--dom0less", 2, "--domu-mem", "128M", "--domu-first", first, "--disk", disk,
        "--", "-device", f"loader,addr=0x6f000000,file={partial},force-raw=on")
    all_up(m, 2)
    go_to(m, "DOM1")
    ask(m, 1, "head -n 1 /dev/vda", r"written by the host\r?\n")
    ask(m, 1, "grep -c virtio /proc/interrupts; grep -o '7[0-9a-f]*-7[0-9a-f]* : System RAM' /proc/iomem", r"70000000-77ffffff : System RAM")
    ask(m, 1, "echo from domain 1 > /dev/vda; sync; echo do''ne", r"done\r?\n")
    require(disk.read_bytes().startswith(b"from domain 1\n"), "what the domain wrote is not on the disk")
    go_to(m, "DOM2")
    ask(m, 2, "ls /dev/vda", r"No such file")


@test("dom0less/shared-memory", "dom0less debian ours", cost=25)
def shared_memory(t):
    """Two domains share a page that both name; a static event channel that leads nowhere is reported."""
    shared = (
        'shm@0 { compatible = "xen,domain-shared-memory-v1"; xen,shm-id = "post"; xen,shared-mem = <0x70000000 0x10000>; };'
    )
    bad = 'evtchn@1 { compatible = "xen,evtchn-v1"; xen,evtchn = <1 9999>; };'
    m = t.debian("--no-dom0", "--dom0less", 2, "--domu-mem", "128M", "--domu-props", shared, "--domu-first", bad)
    m.expect(r"\(XEN\) .*event channel /chosen/domU1/evtchn@1: .* does not lead to another", 20)
    all_up(m, 2)
    go_to(m, "DOM1")
    ask(m, 1, "devmem 0x70008000; devmem 0x70008000 32 0x1234abcd; ls /proc/device-tree/reserved-memory", r"0x00000000[\s\S]*xen-shmem@70000000")
    go_to(m, "DOM2")
    ask(m, 2, "devmem 0x70008000", r"0x1234ABCD")


@test("dom0less/at-addresses", "dom0less debian ours full", cost=40)
def at_addresses(t):
    """Beside dom0: static memory without direct-map, shared memory at a host address, a vCPU that is bound to a CPU, a
    static event channel with dom0; and the amount of memory that each was to have."""
    shared = ('shm@0 { compatible = "xen,domain-shared-memory-v1"; xen,shm-id = "post"; '
              "xen,shared-mem = <0x7e000000 0x70000000 0x10000>; };")
    first = ("xen,static-mem = <0x70000000 0x6000000>; "
             'vcpu@0 { compatible = "xen,vcpu"; id = <0>; hard-affinity = "2"; }; '
             'one: evtchn@1 { compatible = "xen,evtchn-v1"; xen,evtchn = <900 &other>; }; }; domU2 { nr_spis = <64>;')
    tree = '/ { chosen { other: evtchn { compatible = "xen,evtchn-v1"; xen,evtchn = <800 &one>; }; }; };'
    m = t.debian("--dom0less", 2, "--domu-mem", "96M", "--domu-props", shared, "--domu-first", first, "--tree", tree, "--smp", 3,
                 "--xen-cmdline", "console=dtuart dom0_mem=256M loglvl=all guest_loglvl=all")
    missing = {"dom0", "1", "2"}
    while missing:
        found = m.expect(r"XENITH-DOM0-UP|\(XEN\) \(d(\d)\) [^\n]*XENITH-UP|DOM(\d): XENITH-UP", 200)
        missing.discard(found[1] or found[2] or "dom0")
    for number in (1, 2):
        go_to(m, f"DOM{number}")
        # Less what the kernel itself takes.
        ask(m, number, "awk '/MemTotal/ {print ($2 > 70000 && $2 < 98304) ? \"as\" \"wanted\" : $2}' /proc/meminfo", r"aswanted\r?\n")
        if number == 1:
            ask(m, 1, "devmem 0x70008000 32 0x1234abcd; (while :; do :; done) & echo do''ne", r"done\r?\n")
        else:
            ask(m, 2, "devmem 0x70008000", r"0x1234ABCD")
    go_to(m, "Xen")
    m.send("r")
    m.expect(r"d1v0 Running CPU2 ", 30)
    m.send("e")
    m.expect(r"domain 0:[\s\S]* 800 \[[^\n]* s=3 [^\n]* d=1 p=900[\s\S]*domain 1:[\s\S]* 900 \[[^\n]* s=3 [^\n]* d=0 p=800", 30)


@test("dom0less/performance-monitors", "dom0less ours", cost=5)
def performance_monitors(t):
    """Two domains with counters of their own and one without, in turns on one CPU."""
    m = t.debian(
        "--guest", "demo", "--no-dom0", "--dom0less", 3, "--domu-mem", "32M", "--mem", "256M", "--smp", 1,
        "--domu-first", "vpmu; }; domU2 { vpmu;", "--domu-props", 'xen,enhanced = "no-xenstore";',
        "--domu-args", "demo=pmu:2", "--xen-cmdline", "console=dtuart loglvl=all guest_loglvl=all")
    said = {}
    while len(said) < 3:
        found = m.expect(r"DOM(\d): demo: (with|without) pmu: (\w+)\r?\n", 60)
        said[int(found[1])] = (found[2], found[3])
    require(said == {1: ("with", "ok"), 2: ("with", "ok"), 3: ("without", "ok")}, str(said))


def watchdog(t, smp):
    """Of three domains the one that hangs with interrupts masked and the one that sleeps are shut down by their watchdogs,
    once each; the one that keeps its own quiet, and stops it, goes on."""
    m = t.debian(
        "--guest", "demo", "--no-dom0", "--dom0less", 3, "--domu-mem", "32M", "--mem", "256M", "--smp", smp,
        "--domu-props", 'xen,enhanced = "no-xenstore";', "--domu-args", "demo=watchdog",
        "--xen-cmdline", "console=dtuart loglvl=all guest_loglvl=all")
    missing = {(1, "armed 1, hangs"), (2, "timers true"), (2, "kept quiet true"), (2, "stopped true"), (2, "lives"),
               (3, "armed 1, kept quiet true, sleeps")}
    while missing:
        found = m.expect(r"DOM(\d): demo: watchdog: ([^\n]*?)\r?\n", 60)
        said = int(found[1]), found[2]
        require(said in missing, f"domain {said[0]}: {said[1]}")
        missing.discard(said)
    fired = re.findall(r"\(XEN\) (?:\[[^\]]*\] )?Watchdog timer fired for domain (\d)\r?\n", m.text)
    require(fired == ["1", "3"], f"the watchdogs of {fired}")


for _smp in (1, 3):
    test(f"dom0less/watchdog-{_smp}-cpus", "dom0less ours", cost=10)(lambda t, smp=_smp: watchdog(t, smp))


@test("dom0less/watchdog-alone", "dom0less ours", cost=5)
def watchdog_alone(t):
    """A watchdog fires on a machine where nobody waits for anything else."""
    m = t.debian(
        "--guest", "demo", "--no-dom0", "--dom0less", 1, "--domu-mem", "32M", "--mem", "256M", "--smp", 1,
        "--domu-props", 'xen,enhanced = "no-xenstore";', "--domu-args", "demo=watchdog-alone",
        "--xen-cmdline", "console=dtuart loglvl=all guest_loglvl=all")
    m.expect(r"demo: watchdog: armed 1, sleeps\r?\n", 30)
    m.expect(r"Watchdog timer fired for domain 1\r?\n", 10)
    m.quiet_for(1, "demo: watchdog")


# QEMU's fw-cfg has registers in the first 24 bytes of its page, and an access of the rest is an external abort.
HOLE = """/dts-v1/;
/ { #address-cells = <2>; #size-cells = <2>;
    passthrough { compatible = "simple-bus"; #address-cells = <2>; #size-cells = <2>; ranges;
        fw-cfg@9020000 { compatible = "qemu,fw-cfg-mmio"; reg = <0 0x9020000 0 0x18>;
            xen,reg = <0 0x9020000 0 0x1000 0 0x9020000>; xen,path = "/fw-cfg@9020000"; xen,force-assign-without-iommu; }; }; };"""


@test("dom0less/external-aborts", "dom0less ours", cost=5)
def external_aborts(t):
    """A domain has a page of devices with holes: the aborts there are its own, and the hypervisor is not led there by
    addresses of structures, nor by a translation table that lies there (XSA-201)."""
    tree = subprocess.run(["dtc", "-q", "-O", "dtb"], input=HOLE.encode(), capture_output=True, check=True).stdout
    first = ('module@6f000000 { compatible = "multiboot,device-tree", "multiboot,module"; '
             f"reg = <0x6f000000 {len(tree)}>; }};")
    m = t.debian(
        "--guest", "demo", "--no-dom0", "--dom0less", 2, "--domu-mem", "32M", "--mem", "1G", "--smp", 2,
        "--domu-first", first, "--domu-props", 'xen,enhanced = "no-xenstore";',
        "--domu-args", "demo=external:9020000", "--xen-cmdline", "console=dtuart loglvl=all guest_loglvl=all",
        "--", "-device", f"loader,addr=0x6f000000,file={t.file('hole.dtb', tree)},force-raw=on")
    for line in ("registers true, holes true", "structures true", "a table true", "again 0 false true"):
        found = m.expect(r"DOM1: demo: external: ([^\n]*?)\r?\n", 30)[1]
        require(found == line, found)
    m.send("q")
    m.expect(r"\(XEN\) 'q' pressed", 20)


@test("dom0less/pools", "dom0less ours", cost=5)
def pools(t):
    """Pools of CPUs that the device tree makes; a faulty one is reported, and who names it is not started."""
    tree = """/ { cpus { cpu@1 { phandle = <0x101>; }; cpu@2 { phandle = <0x102>; }; };
        chosen { pool: pool { compatible = "xen,cpupool"; cpupool-cpus = <0x102>; cpupool-sched = "null"; };
                 bad: bad { compatible = "xen,cpupool"; cpupool-cpus = <0x102 0x101>; }; }; };"""
    m = t.debian(
        "--guest", "demo", "--no-dom0", "--dom0less", 3, "--domu-mem", "32M", "--mem", "256M", "--smp", 3,
        "--domu-first", "}; domU2 { domain-cpupool = <&pool>; }; domU3 { domain-cpupool = <&bad>;",
        "--domu-args", "demo=spin", "--domu-props", 'xen,enhanced = "no-xenstore";', "--tree", tree,
        "--xen-cmdline", "console=dtuart loglvl=all guest_loglvl=all",
        allow=[r"domain-cpupool", r"is not made"])
    m.expect(r"pool /chosen/bad is not made: another pool has the CPU with MPIDR 0x2", 30)
    m.expect(r"Pool-1 of /chosen/pool: 1 CPUs", 30)
    m.expect(r'"domain-cpupool" names no pool that was made', 30)
    for _ in range(2):
        m.expect(r"DOM[12]: demo: spins", 30)
    m.send("r")
    m.expect(r"d1v0 Running CPU(0|1) ", 30)
    m.expect(r"d2v0 Running CPU2 ", 30)
    require(free_kib(m) > (256 - 2 * 32 - 8) * 1024, "the memory of the third is gone")
