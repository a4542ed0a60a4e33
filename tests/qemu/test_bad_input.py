"""Bad input: the message names cause and remedy, and nothing hangs silently.

What must stand in the messages is in messages.BAD.
"""

import re

import messages
from fixtures import GIC, KERNEL, XEN_CMDLINE, Tree, debian_modules, raw_machine, tool
from harness import TARGET, Failure, Skip, test


def bad(name, cost=4, tags=""):
    """Registers bad/NAME: the function returns a machine; the table says the rest."""
    def register(make):
        def run(t):
            m = make(t)
            words, end = messages.BAD[name]
            for word in words:
                m.pos = 0
                m.expect(word, 30)
            if end == "reset":
                m.wait_exit(30)  # QEMU runs with -no-reboot: a reset ends it
            else:
                m.quiet_for(1, messages.DOM0_UP)
        test(f"bad/{name}", "bad ours " + tags, cost=cost, limit=90)(run)
        return make
    return register


def start(t, tree, **options):
    options.setdefault("more", ["-no-reboot"])
    # The message may well be a panic's.
    return raw_machine(t, tree, allow=[r"\(XEN\)"], **options)


def early(t):
    """The image whose console needs no device tree (scripts/test builds it)."""
    image = TARGET / "images/xenith-early.zImage"
    if not image.is_file():
        raise Skip("no image with an early UART: scripts/build --early-uart pl011,0x9000000 --name xenith-early")
    return image


def chosen_tree(t, xen=XEN_CMDLINE):
    tree = Tree(t)
    tree.chosen(xen)
    return tree


@bad("dtb-truncated")
def _(t):
    tree = chosen_tree(t)
    loads = debian_modules(t, tree)
    data = tree.bytes()
    return start(t, tree, dtb=data[:len(data) // 2], loads=loads, image=early(t))


@bad("dtb-bad-magic")
def _(t):
    tree = chosen_tree(t)
    data = tree.bytes()
    data[0:4] = b"\x12\x34\x56\x78"
    return start(t, tree, dtb=data, image=early(t))


@bad("dtb-corrupt")
def _(t):
    """A structure block full of tokens that do not exist."""
    tree = chosen_tree(t)
    data = tree.bytes()
    struct_at = int.from_bytes(data[8:12], "big")
    struct_size = int.from_bytes(data[36:40], "big")
    middle = (struct_at + struct_size // 2) & ~3
    data[middle:middle + 256] = b"\xee" * 256
    return start(t, tree, dtb=data, image=early(t))


@bad("dtb-oversized")
def _(t):
    """A good tree, padded beyond the 2 MiB of the boot protocol."""
    tree = chosen_tree(t)
    data = tree.bytes()
    size = 3 << 20
    data += bytes(size - len(data))
    data[4:8] = size.to_bytes(4, "big")
    return start(t, tree, dtb=data, loads=debian_modules(t, tree), image=early(t))


@bad("module-no-reg")
def _(t):
    tree = chosen_tree(t)
    tree.module("kernel", KERNEL, 0x600000, reg=False)
    return start(t, tree)


@bad("module-overlap")
def _(t):
    tree = chosen_tree(t)
    kernel = t.guest_file("bookworm", "kernel")
    tree.module("kernel", KERNEL, kernel.stat().st_size)
    tree.module("ramdisk", KERNEL + 0x100000, 0x100000)
    return start(t, tree, loads=[(kernel, KERNEL)])


@bad("module-outside-ram")
def _(t):
    tree = chosen_tree(t)
    kernel = t.guest_file("bookworm", "kernel")
    tree.module("kernel", KERNEL, kernel.stat().st_size)
    tree.module("ramdisk", 0xF0000000, 0x100000)
    return start(t, tree, loads=[(kernel, KERNEL)])


@bad("no-kernel")
def _(t):
    return start(t, chosen_tree(t))


@bad("kernel-not-zimage")
def _(t):
    tree = chosen_tree(t)
    junk = t.file("junk", bytes(range(256)) * 4096)
    tree.module("kernel", KERNEL, junk.stat().st_size)
    return start(t, tree, loads=[(junk, KERNEL)])


@bad("dom0-mem-too-large")
def _(t):
    tree = chosen_tree(t, "console=dtuart dom0_mem=8G")
    return start(t, tree, loads=debian_modules(t, tree))


@bad("dom0-mem-zero")
def _(t):
    tree = chosen_tree(t, "console=dtuart dom0_mem=0")
    return start(t, tree, loads=debian_modules(t, tree))


@bad("no-gich")
def _(t):
    """A GIC with distributor and CPU interface only."""
    tree = chosen_tree(t)
    tree.cells(GIC, "reg", 0, 0x08000000, 0, 0x10000, 0, 0x08010000, 0, 0x10000)
    return start(t, tree, loads=debian_modules(t, tree))


@bad("virtualization-off")
def _(t):
    command = t.run_command("--mem", "512M", "--", "-no-reboot")
    where = command.index("-M") + 1
    command[where] = command[where].replace("virtualization=on", "virtualization=off")
    return t.start(command, allow=[r"\(XEN\)"])


@bad("cortex-a9")
def _(t):
    """A core without virtualization extensions: virt has none, vexpress-a9 does."""
    kernel = t.guest_file("bookworm", "kernel")
    tree = next(kernel.parents[1].glob("usr/lib/linux-image-*/vexpress-v2p-ca9.dtb"), None)
    if tree is None:
        raise Skip("Debian's kernel package has no vexpress-v2p-ca9.dtb")
    copy = t.file("ca9.dtb", tree.read_bytes())
    tool("fdtput", "-t", "s", copy, "/chosen", "stdout-path", "serial0")
    tool("fdtput", "-t", "s", copy, "/chosen", "xen,xen-bootargs", "console=dtuart dtuart=serial0")
    return t.start(["qemu-system-arm", "-M", "vexpress-a9", "-m", "512M", "-display", "none", "-nic", "none",
                    "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                    "-audio", "none", "-no-reboot", "-kernel", t.image, "-dtb", copy],
                   allow=[r"\(XEN\)"])


def cpu_without(t, features):
    command = t.run_command("--mem", "512M", "--guest", "demo", "--", "-no-reboot")
    command[command.index("-cpu") + 1] = "cortex-a15," + features
    return t.start(command, allow=[r"\(XEN\)"])


@bad("no-vfp")
def _(t):
    return cpu_without(t, "vfp=off,neon=off,vfp-d32=off")


@bad("vfp-d16")
def _(t):
    return cpu_without(t, "neon=off,vfp-d32=off")


@test("bad/noreboot", "bad ours", cost=10, limit=90)
def noreboot(t):
    """With noreboot a fatal error stops, so that it can be read."""
    m = start(t, chosen_tree(t, "console=dtuart noreboot"))
    m.expect(messages.NOREBOOT, 30)
    m.quiet_for(7, messages.BANNER)


@test("bad/restarts-without-noreboot", "bad ours", cost=10, limit=90)
def restarts(t):
    """Without it the machine starts again."""
    m = start(t, chosen_tree(t, "console=dtuart"), more=[])
    m.expect(messages.BANNER, 30)
    m.expect(messages.BANNER, 30)


@test("bad/boots-all-the-same", "bad ours debian", cost=15, limit=120)
def boots_all_the_same(t):
    """A console that does not exist, no dom0_mem, no PSCI: each is said, and dom0 boots."""
    tree = Tree(t, smp=2)
    tree.chosen("console=dtuart dtuart=/serial@0")
    tool("fdtput", "-r", tree.path, "/psci")
    m = raw_machine(t, tree, loads=debian_modules(t, tree))
    m.expect(r'\(XEN\) console: "/serial@0" is not in the device tree: give dtuart= the path or an alias', 30)
    m.expect(r"\(XEN\) Failed to bring up CPU 1 \(MPIDR 0x1\): .*use a firmware that adds .*, such as U-Boot\n", 60)
    m.expect(r"\(XEN\) PLEASE SPECIFY dom0_mem PARAMETER - USING 512M FOR NOW\n", 30)
    m.login()


# How a damaged device tree may end: a boot, or the hypervisor stops with a sentence.
ENDS = re.compile(r"(?P<boot>" + messages.DOM0_UP + r"|Linux version )|(?P<stop>\(XEN\) (Halted|Reboot in|'noreboot' is))")
# What it must never be: a fault or a bug of the hypervisor's own, which report registers, a place in the source or a trace.
OWN_FAULT = re.compile(r"in the hypervisor, HSR|panicked|\.rs:\d+|Xen call trace")


@test("bad/fuzzed-dtb", "bad ours debian", cost=60, limit=240)
def fuzzed(t):
    """Trees with random bytes changed: each ends in dom0's kernel, or in a message that names a cause."""
    import random
    ends = {"boot": 0, "stop": 0}
    for seed in range(12):
        chance = random.Random(seed)
        tree = chosen_tree(t)
        loads = debian_modules(t, tree)
        data = tree.bytes()
        # One change to four; more, and no tree passes the first check.
        for _ in range(1 + seed % 4):
            data[chance.randrange(40, len(data))] = chance.randrange(256)
        m = start(t, tree, dtb=data, loads=loads, image=early(t))
        try:
            end = m.expect(ENDS.pattern, 40)
        except Failure as why:
            raise Failure(f"seed {seed}: {why}") from None
        finally:
            m.close()
        before = m.text[:m.pos]
        if fault := OWN_FAULT.search(before):
            raise Failure(f"seed {seed}: a fault of the hypervisor's own: {fault[0]}")
        if end["stop"]:
            # Between the stars stands the cause, in words.
            reason = re.search(r"Panic on CPU 0:\n\(XEN\) ([^\n]*)", before)
            if not reason or len(reason[1].split()) < 4:
                raise Failure(f"seed {seed}: it stopped without a cause: {before[-200:]}")
        ends["stop" if end["stop"] else "boot"] += 1
    # Seeds that show nothing but one of the two would prove little.
    if 0 in ends.values():
        raise Failure(f"choose other seeds: {ends}")
