"""How a boot loader may hand things over: load address, modules, kernel formats."""

import gzip
import re
import struct
import zlib

import messages
from fixtures import IMAGE, INITRD, KERNEL, RAM, Tree, debian_modules, raw_machine
from harness import Failure, test


def up_and_down(m):
    up = m.login()
    if up.group(1) != "xen":
        raise Failure(f"the hypervisor's type is {up.group(1)!r}")
    m.poweroff()


@test("protocol/raw", "protocol debian")
def raw(t):
    """Entered as U-Boot does, with modules in the device tree."""
    tree = Tree(t, highmem="off")
    tree.chosen()
    loads = debian_modules(t, tree)
    up_and_down(raw_machine(t, tree, loads=loads))


# Unaligned to 2 MiB; below, at and beyond the first 128 MiB; the end of RAM.
for _at in (RAM + 0x1000, RAM + 0x20FF000, RAM + 0x0A001000, RAM + 0x3F001000):
    def _load(t, at=_at):
        tree = Tree(t)
        tree.chosen("console=dtuart dom0_mem=256M")
        loads = debian_modules(t, tree)
        up_and_down(raw_machine(t, tree, loads=loads, at=at))
    test(f"protocol/load-at-{_at:#x}", "protocol ours debian")(_load)


@test("protocol/initrd-property", "protocol debian")
def initrd_property(t):
    """The ramdisk by linux,initrd-start and -end, as bootz and GRUB leave it."""
    tree = Tree(t, highmem="off")
    tree.chosen()
    kernel, initrd = t.guest_file("bookworm", "kernel"), t.initrd()
    tree.module("kernel", KERNEL, kernel.stat().st_size)
    tree.cells("/chosen", "linux,initrd-start", INITRD)
    tree.cells("/chosen", "linux,initrd-end", INITRD + initrd.stat().st_size)
    up_and_down(raw_machine(t, tree, loads=[(kernel, KERNEL), (initrd, INITRD)]))


@test("protocol/untyped-modules", "protocol debian")
def untyped(t):
    """multiboot,module alone: the first is the kernel, the second the ramdisk."""
    tree = Tree(t, highmem="off")
    tree.chosen()
    loads = debian_modules(t, tree)
    for _, address in loads:
        tree.strings(f"/chosen/module@{address:x}", "compatible", "multiboot,module")
    up_and_down(raw_machine(t, tree, loads=loads))


@test("protocol/bootargs-of-xen-unaware", "protocol debian")
def kernel_bootargs(t):
    """/chosen/bootargs is the hypervisor's when the kernel module has its own."""
    tree = Tree(t, highmem="off")
    tree.strings("/chosen", "bootargs", "console=dtuart dom0_mem=256M")
    loads = debian_modules(t, tree)
    tree.strings(f"/chosen/module@{KERNEL:x}", "bootargs", "console=hvc0 xenith.mark=7")
    m = raw_machine(t, tree, loads=loads)
    m.login()
    if "xenith.mark=7" not in m.shell("cat /proc/cmdline"):
        raise Failure("dom0 did not get the module's bootargs")
    m.poweroff()


@test("protocol/kernel-gzip", "protocol ours debian")
def kernel_gzip(t):
    """Real Xen 4.17 takes an alignment fault unless the file's size is a multiple of 4."""
    tree = Tree(t, highmem="off")
    tree.chosen()
    packed = t.file("kernel.gz", gzip.compress(t.guest_file("bookworm", "kernel").read_bytes(), 1))
    up_and_down(raw_machine(t, tree, loads=debian_modules(t, tree, kernel=packed)))


@test("protocol/kernel-uimage", "protocol debian")
def kernel_uimage(t):
    """A legacy image around the zImage; load and entry 0: anywhere."""
    data = t.guest_file("bookworm", "kernel").read_bytes()
    head = struct.pack(">7I4B32s", 0x27051956, 0, 0, len(data), 0, 0, zlib.crc32(data), 5, 2, 2, 0, b"Linux")
    head = head[:4] + struct.pack(">I", zlib.crc32(head)) + head[8:]
    tree = Tree(t, highmem="off")
    tree.chosen()
    up_and_down(raw_machine(t, tree, loads=debian_modules(t, tree, kernel=t.file("uImage", head + data))))


@test("protocol/reserved-memory", "protocol debian")
def reserved(t):
    """What the tree reserves is not dom0's and keeps its contents."""
    at, size = RAM + 0x18000000, 0x100000
    tree = Tree(t, highmem="off")
    tree.chosen("console=dtuart dom0_mem=256M")
    tree.node("/reserved-memory")
    tree.cells("/reserved-memory", "#address-cells", 2)
    tree.cells("/reserved-memory", "#size-cells", 2)
    tree.strings("/reserved-memory", "ranges")
    node = f"/reserved-memory/keep@{at:x}"
    tree.node(node)
    tree.cells(node, "reg", 0, at, 0, size)
    loads = debian_modules(t, tree)
    m = raw_machine(t, tree, loads=loads)
    m.login()
    def ranges(text, pattern):
        return [tuple(int(n, 16) for n in r) for r in re.findall(pattern, text, re.M)]

    ram = ranges(m.shell("cat /proc/iomem"), r"^([0-9a-f]+)-([0-9a-f]+) : System RAM")
    # Xen describes it as RAM and reserves it; not to describe it is as good.
    if any(start < at + size and at <= end for start, end in ram):
        m.shell("mount -t debugfs debugfs /sys/kernel/debug")
        kept = ranges(m.shell("cat /sys/kernel/debug/memblock/reserved"), r": 0x([0-9a-f]+)\.\.0x([0-9a-f]+)")
        if not any(start <= at and at + size - 1 <= end for start, end in kept):
            raise Failure(f"dom0 uses the reserved memory at {at:#x} as RAM")
    m.poweroff()


@test("protocol/banner-without-modules-is-quick", "protocol ours", cost=4)
def banner(t):
    """The first line comes before anything is decided."""
    tree = Tree(t)
    tree.chosen()
    raw_machine(t, tree, allow=[r"\(XEN\)"]).expect(messages.BANNER, 20)
