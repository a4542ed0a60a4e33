"""Makes what bad-input tests feed the hypervisor: device trees, modules, and a
machine without QEMU's own boot loader, which would repair or refuse them.
"""

import struct
import subprocess
from pathlib import Path

from harness import Context, Failure

RAM = 0x40000000
SHIM = 0x47000000
DTB = 0x48000000
KERNEL = 0x60000000
INITRD = 0x61000000
IMAGE = 0x42000000
GIC = "/intc@8000000"
XEN_CMDLINE = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"


def tool(*command):
    """Runs a program; its failure is the test's."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode:
        raise Failure(f"{command[0]}: {done.stderr.strip()[-300:]}")
    return done.stdout


class Tree:
    """QEMU's device tree of the virt machine, to be changed with fdtput."""

    def __init__(self, t: Context, *, cpu="cortex-a15", mem="1G", highmem="on", smp=1, virtualization="on"):
        self.path = t.dir / "tree.dtb"
        self.machine = f"virt,virtualization={virtualization},gic-version=2,highmem={highmem}"
        self.args = ["-cpu", cpu, "-smp", str(smp), "-m", mem]
        tool("qemu-system-arm", "-M", f"{self.machine},dumpdtb={self.path}", *self.args, "-display", "none", "-nic", "none")
        self.cells("/chosen", "#address-cells", 2)
        self.cells("/chosen", "#size-cells", 2)

    def node(self, path):
        tool("fdtput", "-p", "-c", self.path, path)

    def strings(self, path, name, *values):
        tool("fdtput", "-t", "s", self.path, path, name, *values)

    def cells(self, path, name, *values):
        tool("fdtput", "-t", "x", self.path, path, name, *[f"{v:x}" for v in values])

    def chosen(self, xen=XEN_CMDLINE, dom0="console=hvc0"):
        """The two command lines, as U-Boot scripts write them."""
        self.strings("/chosen", "xen,xen-bootargs", xen)
        if dom0 is not None:
            self.strings("/chosen", "xen,dom0-bootargs", dom0)

    def module(self, kind, address, size, reg=True):
        """A module node ("kernel", "ramdisk"); reg=False leaves its place out."""
        path = f"/chosen/module@{address:x}"
        self.node(path)
        self.strings(path, "compatible", f"multiboot,{kind}", "multiboot,module")
        if reg:
            self.cells(path, "reg", address >> 32, address & 0xffffffff, size >> 32, size & 0xffffffff)
        return path

    def bytes(self):
        return bytearray(self.path.read_bytes())


def shim(entry, dtb):
    """Code that enters `entry` as a boot loader does: r0 = 0, r1 = ~0, r2 = DTB."""
    words = [
        0xE3A00000,  # mov r0, #0
        0xE3E01000,  # mvn r1, #0
        0xE59F2000,  # ldr r2, [pc]       ; the word at +0x10
        0xE59FF000,  # ldr pc, [pc]       ; the word at +0x14
        dtb,
        entry,
    ]
    return struct.pack("<6I", *words)


def raw_machine(t: Context, tree: Tree, dtb=None, loads=(), at=IMAGE, image=None, allow=(), more=(), **options):
    """A machine whose memory holds exactly what it is given, entered in Hyp mode.

    dtb: bytes in place of the tree's. loads: (path, address) of modules.
    """
    dtb_file = t.file("given.dtb", bytes(dtb if dtb is not None else tree.bytes()))
    shim_file = t.file("shim.bin", shim(at, DTB))
    command = ["qemu-system-arm", "-M", tree.machine, *tree.args, "-display", "none", "-nic", "none",
               "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    for path, address in [(image or t.image, at), (dtb_file, DTB), (shim_file, SHIM), *loads]:
        command += ["-device", f"loader,file={str(path).replace(',', ',,')},addr={address:#x},force-raw=on"]
    command += ["-device", f"loader,addr={SHIM:#x},cpu-num=0", *more]
    return t.start(command, allow=allow, **options)


def debian_modules(t: Context, tree: Tree, suite="bookworm", kernel: Path | None = None):
    """Adds Debian's kernel and our initramfs to a tree; returns what to load."""
    kernel = kernel or t.guest_file(suite, "kernel")
    initrd = t.initrd(suite)
    # fdtput puts a new node before its siblings: the kernel ends up first.
    tree.module("ramdisk", INITRD, initrd.stat().st_size)
    tree.module("kernel", KERNEL, kernel.stat().st_size)
    return [(kernel, KERNEL), (initrd, INITRD)]
