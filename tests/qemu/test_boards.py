"""Machines of QEMU other than virt, with the device trees of Debian's kernel, and what U-Boot boots."""

import json
import re
import shutil
import subprocess
from types import SimpleNamespace

import messages
from fixtures import tool
from harness import TARGET, TOP, Failure, Skip, test
from test_dom0 import require

DTBS = "usr/lib/linux-image-*"

# Where things are put.
ORANGEPI = SimpleNamespace(machine="orangepi-pc", smp=4, mem="1G", kernel=0x60000000, initrd=0x61000000)


def board_tree(t, name, board, xen, dom0="console=hvc0", suite="bookworm", arch="arm32", guest=None):
    """Debian's device tree of a board with what a boot loader adds; returns its path. `guest`: instead of Debian's kernel."""
    folders = sorted(t.guest_file(suite, "kernel", arch).parents[1].glob(DTBS))
    path = t.dir / name.rpartition("/")[2]
    shutil.copy(folders[0] / name, path)
    path.chmod(0o644)

    def put(kind, node, prop, *values):
        tool("fdtput", "-p", "-t", kind, path, node, prop, *values)

    put("x", "/chosen", "#address-cells", 1)
    put("x", "/chosen", "#size-cells", 1)
    put("s", "/chosen", "xen,xen-bootargs", xen)
    put("s", "/chosen", "xen,dom0-bootargs", dom0)
    modules = [("kernel", board.kernel, guest)] if guest else [
        ("ramdisk", board.initrd, t.initrd(suite, arch)), ("kernel", board.kernel, t.guest_file(suite, "kernel", arch))]
    for kind, at, file in modules:
        node = f"/chosen/module@{at:x}"
        tool("fdtput", "-c", path, node)
        put("s", node, "compatible", f"multiboot,{kind}", "multiboot,module")
        put("x", node, "reg", f"{at:x}", f"{file.stat().st_size:x}")
    return path


def direct(t, board, dtb, *more, suite="bookworm", **options):
    """Boots our image with QEMU as the boot loader."""
    command = ["qemu-system-arm", "-M", board.machine, "-smp", board.smp, "-m", board.mem, "-display", "none",
               "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
               "-kernel", t.image, "-dtb", dtb]
    for file, at in ((t.guest_file(suite, "kernel"), board.kernel), (t.initrd(suite), board.initrd)):
        command += ["-device", f"loader,file={str(file).replace(',', ',,')},addr={at:#x},force-raw=on"]
    return t.start(command + list(more), **options)


@test("boards/orangepi-pc-direct", "boards debian", cost=40)
def orangepi_direct(t):
    """Allwinner H3: DesignWare UART, GIC-400, PSCI by QEMU."""
    dtb = board_tree(t, "sun8i-h3-orangepi-pc.dtb", ORANGEPI, "console=dtuart dom0_mem=256M loglvl=all")
    m = direct(t, ORANGEPI, dtb, "-nic", "user")
    m.login()
    m.shell("uname -a")
    m.poweroff()


@test("boards/large-tree", "boards ours debian", cost=40)
def large_tree(t):
    """A device tree as large as the largest of Debian's kernel (DRA7: 150 KiB, 2000 nodes)."""
    dtb = board_tree(t, "sun8i-h3-orangepi-pc.dtb", ORANGEPI, "console=dtuart dom0_mem=256M loglvl=all")
    source = tool("dtc", "-q", "-I", "dtb", "-O", "dts", dtb)
    nodes = "".join(f'n{i} {{ compatible = "xenith,filler-{i}", "xenith,filler"; status = "disabled"; }};\n'
                    for i in range(1700))
    text = t.file("large.dts", (source + "/ { fillers {" + nodes + "}; };").encode())
    large = t.dir / "large.dtb"
    tool("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", large, text)
    if large.stat().st_size < 150_000:
        raise Failure(f"the tree has only {large.stat().st_size} bytes")
    m = direct(t, ORANGEPI, large, "-nic", "user")
    m.login()
    if m.shell("ls -d /proc/device-tree/fillers/n[0-9]* | wc -l").strip() != "1700":
        raise Failure("dom0's tree is not whole")
    m.poweroff()


VEXPRESS = SimpleNamespace(
    machine="vexpress-a15,secure=off,virtualization=on", smp=2, mem="1G", kernel=0xA8000000, initrd=0xA9000000)


@test("boards/vexpress-a15", "boards ours debian", cost=40)
def vexpress(t):
    """The tree names interrupts that the GIC does not have: a warning, and dom0 runs (real Xen 4.17 panics)."""
    dtb = board_tree(t, "vexpress-v2p-ca15-tc1.dtb", VEXPRESS, "console=dtuart dom0_mem=256M loglvl=all")
    m = direct(t, VEXPRESS, dtb)
    m.expect(r"\(XEN\) Platform: Versatile Express", 30)
    # Through SYS_FLAGS: this machine has no PSCI.
    m.expect(r"\(XEN\) Brought up 2 CPUs", 30)
    m.expect(r"\(XEN\).*hdlcd@2b000000: interrupt 117 is beyond the GIC's; left out", 30)
    m.login()
    if "hdlcd" in m.shell("ls /proc/device-tree"):
        raise Failure("dom0 sees the device whose interrupt is not there")
    # The motherboard restarts through the configuration bus, and switches off the same way.
    m.send("reboot -f\n")
    m.expect(messages.BANNER, 60)
    m.login()
    m.poweroff()


@test("boards/vexpress-a15-secure", "boards ours debian", cost=50)
def vexpress_secure(t):
    """Entered in Secure state, both CPUs: we go to Hyp mode ourselves (real Xen stays silent)."""
    board = SimpleNamespace(**{**vars(VEXPRESS), "machine": "vexpress-a15,secure=on"})
    dtb = board_tree(t, "vexpress-v2p-ca15-tc1.dtb", board, "console=dtuart dom0_mem=256M loglvl=all")
    m = direct(t, board, dtb)
    m.expect(r"\(XEN\) Entered in Secure state: switched to Hyp mode", 30)
    m.expect(r"\(XEN\) Brought up 2 CPUs", 30)
    m.login()
    if m.shell("nproc").strip() != "2":
        raise Failure("dom0 has not got a vCPU on each CPU")
    # VFP registers are Non-secure state's (NSACR), and the timer counts at its frequency (CNTFRQ).
    m.shell("for i in 1 2; do taskset $i sh -c 'sleep 0.2; awk \"BEGIN {exit !(1.5 * 2 == 3)}\"'; done")
    m.send("reboot -f\n")
    m.expect(messages.BANNER, 60)
    m.expect(r"\(XEN\) Entered in Secure state: switched to Hyp mode", 30)
    m.login()
    m.poweroff()


def make_card(t, board, *options):
    """An SD card by scripts/mkimage; returns its path."""
    card = t.dir / "card.img"
    done = subprocess.run([TOP / "scripts/mkimage", "--image", t.image, "--output", card, *options, board],
                          capture_output=True, text=True)
    if done.returncode:
        raise Failure(done.stderr.strip()[-300:])
    return card


def uboot(t, package, path):
    """Debian's U-Boot."""
    return t.guest_file("trixie", package) / "usr/lib/u-boot" / path


def virt_uboot(t, card, **options):
    """U-Boot on virt, with the card as a disk."""
    return t.start(["qemu-system-arm", "-M", "virt,virtualization=on,gic-version=2", "-cpu", "cortex-a15", "-smp", 2,
                    "-m", "1G", "-display", "none", "-nic", "none", "-monitor", "none", "-chardev",
                    "stdio,id=console,signal=off", "-serial", "chardev:console",
                    "-bios", uboot(t, "u-boot-qemu", "qemu_arm/u-boot.bin"),
                    "-drive", f"file={card},format=raw,if=none,id=card", "-device", "virtio-blk-device,drive=card"],
                   **options)


def sunxi_uboot(t, card):
    """QEMU's Orange Pi PC boots from the card, as the SoC's ROM does."""
    return t.start(["qemu-system-arm", "-M", "orangepi-pc", "-smp", 4, "-m", "1G", "-display", "none", "-nic", "user",
                    "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                    "-drive", f"file={card},format=raw,if=sd"])


@test("boards/uboot-orangepi-pc", "boards debian ours", cost=60)
def uboot_orangepi(t):
    """SPL and U-Boot from the card, uImage, 4 CPUs by U-Boot's PSCI, a shell; reset by the watchdog."""
    spl = uboot(t, "u-boot-sunxi", "orangepi_pc_plus/u-boot-sunxi-with-spl.bin")
    card = make_card(t, "sun8i-h3-orangepi-pc", "--uboot", spl)
    m = sunxi_uboot(t, card)
    m.expect(r"Verifying Checksum \.\.\. OK", 120)
    m.expect(r"\(XEN\) Brought up 4 CPUs", 60)
    m.login()
    # U-Boot's PSCI 0.1 can do neither; the board has no way to switch itself off.
    m.send("reboot -f\n")
    m.expect(r"U-Boot SPL", 60)


@test("boards/uboot-by-hand", "boards debian ours", cost=60)
def uboot_by_hand(t):
    """The lines of docs/boards.md, typed at U-Boot's prompt."""
    text = (TOP / "docs/boards.md").read_text()
    lines = re.search(r"<!-- by-hand -->\n(.*?)<!-- /by-hand -->", text, re.S)[1].split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    require(lines[-1].startswith("bootm ") and len(lines) > 10, "docs/boards.md has no commands")
    spl = uboot(t, "u-boot-sunxi", "orangepi_pc_plus/u-boot-sunxi-with-spl.bin")
    # Its own /chosen has other values than those of the document.
    card = make_card(t, "sun8i-h3-orangepi-pc", "--uboot", spl, "--xen-cmdline", "console=dtuart dom0_mem=200M")
    m = sunxi_uboot(t, card)
    m.expect(r"Hit any key to stop autoboot", 120)
    m.send("\n")
    for line in lines[:-1]:
        m.expect(r"=> $", 30)
        m.send(line + "\n")
    m.expect(r"=> $", 30)
    m.send(lines[-1] + "\n")
    m.expect(r"Verifying Checksum \.\.\. OK", 60)
    m.expect(r"\(XEN\) Allocating 1:1 mappings totalling 256MB for dom0:", 60)
    m.login()


@test("boards/uart-without-clock", "boards debian ours", cost=40)
def uart_without_clock(t):
    """The hypervisor's UART answers nothing, as one without clock: dom0 boots all the same, on a console of its own."""
    dtb = board_tree(t, "sun8i-h3-orangepi-pc.dtb", ORANGEPI, "console=dtuart dtuart=/soc/serial@1c28400 dom0_mem=256M loglvl=all",
                     dom0="console=ttyS0")
    # The registers of the SPDIF controller, of which this machine has none: reads as 0.
    tool("fdtput", "-t", "x", dtb, "/soc/serial@1c28400", "reg", "1c21000", "400")
    tool("fdtput", "-t", "s", dtb, "/soc/serial@1c28400", "status", "okay")
    m = direct(t, ORANGEPI, dtb)
    m.expect(messages.DOM0_UP, 150)
    require("(XEN)" not in m.text, "the hypervisor has a console")


@test("boards/uboot-virt", "boards debian ours", cost=30)
def uboot_virt(t):
    """U-Boot boots uImage with the machine's own device tree."""
    m = virt_uboot(t, make_card(t, "qemu-virt"))
    m.expect(r"Verifying Checksum \.\.\. OK", 60)
    m.login()
    m.poweroff()


@test("boards/uboot-bad-files", "boards debian ours", cost=30)
def uboot_bad_files(t):
    """A damaged uImage and a truncated kernel are found before anything is started."""
    card = make_card(t, "qemu-virt")
    data = bytearray(card.read_bytes())
    at = data.index(b"\x27\x05\x19\x56")
    data[at + 64 + 5000] ^= 1
    card.write_bytes(data)
    m = virt_uboot(t, card)
    m.expect(r"Bad Data CRC", 60)
    m.expect(r"xenith: not started", 10)
    m.close()
    data[at + 64 + 5000] ^= 1
    entry = data.index(b"ZIMAGE     ")
    data[entry + 28:entry + 32] = (1 << 20).to_bytes(4, "little")
    card.write_bytes(data)
    m = virt_uboot(t, card)
    m.expect(r"xenith: zImage is missing or damaged: 0x100000 bytes, not 0x[0-9a-f]+", 60)
    m.expect(r"xenith: not started", 10)


@test("boards/mkimage-refuses", "boards debian ours", cost=3)
def mkimage_refuses(t):
    """What would not boot is refused when the card is made."""
    def refused(what, *options):
        try:
            make_card(t, "sun8i-h3-orangepi-pc", *options)
        except Failure as reason:
            if what not in str(reason):
                raise Failure(f"{what!r} is not in: {reason}") from None
            return
        raise Failure(f"mkimage accepts {options}")
    with open(t.dir / "large", "wb") as f:
        f.truncate(40 << 20)
    kernel = t.guest_file("bookworm", "kernel").read_bytes()
    refused("leaves no room below dom0's memory", "--initrd", t.dir / "large")
    refused("is no zImage", "--kernel", t.dir / "large")
    refused("is truncated", "--kernel", t.file("short", kernel[:1 << 20]))
    refused("overlap", "--kernel", t.file("long", kernel.ljust(17 << 20, b"\0")))
    refused("U-Boot has", "--uboot", t.dir / "large")
    refused("cannot read", "--dtb", t.dir / "no-such.dtb")


def long_line(m):
    """Types more at once than the UART's FIFO of 32 bytes holds at dom0's shell."""
    m.expect(messages.DOM0_UP, 150)
    m.expect(messages.PROMPT, 30)
    m.send("echo X$((6*7))" + "-0123456789" * 9 + "\n")
    m.expect("X42" + "-0123456789" * 9 + r"\n", 30)


IMX7 = SimpleNamespace(machine="mcimx7d-sabre", smp=2, mem="1G", kernel=0xA8000000, initrd=0xA9000000)
IMX6UL = SimpleNamespace(machine="mcimx6ul-evk", smp=1, mem="512M", kernel=0x98000000, initrd=0x99000000)


@test("boards/mcimx7d-sabre", "boards debian ours", cost=40)
def imx7(t):
    """NXP i.MX 7: its UART, and PSCI by QEMU."""
    dtb = board_tree(t, "imx7d-sdb.dtb", IMX7, "console=dtuart dom0_mem=256M loglvl=all")
    m = direct(t, IMX7, dtb)
    m.expect(r"\(XEN\) Brought up 2 CPUs", 60)
    long_line(m)


@test("boards/mcimx6ul-evk", "boards debian ours", cost=40)
def imx6ul(t):
    """NXP i.MX 6UL: one CPU, and a timer node that is switched off."""
    dtb = board_tree(t, "imx6ul-14x14-evk.dtb", IMX6UL, "console=dtuart dom0_mem=128M loglvl=all")
    m = direct(t, IMX6UL, dtb)
    long_line(m)


@test("boards/uart-exynos4210", "boards ours", cost=4)
def uart_exynos(t):
    """The driver of Samsung's UART on QEMU's model of it: a program of our own on the bare smdkc210."""
    program = TARGET / "images/guest-uart.elf"
    if not program.exists():
        raise Skip("no guest-uart.elf: scripts/build")
    m = t.start(["qemu-system-arm", "-M", "smdkc210", "-display", "none", "-monitor", "none", "-chardev",
                 "stdio,id=console,signal=off", "-serial", "chardev:console", "-kernel", program])
    m.expect(r"UART-TEST exynos4210\nready", 20)
    m.send("x")
    m.expect(r"\[x\]cleared", 10)
    m.send("q")
    m.expect(r"\[q\]cleared", 10)


# The A31's DRAM, UART, GIC and CPUCFG are where QEMU's orangepi-pc has the H3's.
A31 = SimpleNamespace(machine="orangepi-pc", smp=4, mem="1G")
A31_BOARDS = ["sun6i-a31-m9", "sun6i-a31-mele-a1000g-quad", "sun6i-a31s-sinovoip-bpi-m2"]
DEMO_AT = 0x60000000


def demo_tree(t, name, guests, xen):
    """Debian's device tree of a board with so many domains of our own, each the demonstration guest."""
    folders = sorted(t.guest_file("bookworm", "kernel").parents[1].glob(DTBS))
    demo = TARGET / "images/guest-demo.zImage"
    if not demo.exists():
        raise Skip("no guest-demo.zImage: scripts/build")
    nodes = "".join(f"""
        domU{i} {{ compatible = "xen,domain"; #address-cells = <1>; #size-cells = <1>; cpus = <1>; memory = <0 0x8000>;
            xen,enhanced = "no-xenstore"; vpl011;
            module@{DEMO_AT:x} {{ compatible = "multiboot,kernel", "multiboot,module"; reg = <{DEMO_AT:#x} {demo.stat().st_size}>; }}; }};"""
                    for i in range(1, guests + 1))
    source = tool("dtc", "-q", "-I", "dtb", "-O", "dts", folders[0] / f"{name}.dtb")
    source += f'/ {{ chosen {{ #address-cells = <1>; #size-cells = <1>; xen,xen-bootargs = "{xen}"; {nodes} }}; }};\n'
    text, path = t.file(f"{name}.dts", source.encode()), t.dir / f"{name}.dtb"
    tool("dtc", "-q", "-I", "dts", "-O", "dtb", "-o", path, text)
    return path, demo


def pinned_rows(m):
    """From a trace: which domains ran on which pCPU."""
    m.log.flush()
    run = subprocess.run([TOP / "scripts/trace2json", m.log_path], capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"scripts/trace2json failed: {run.stderr.strip()[-300:]}")
    events = json.loads(run.stdout)
    events = events["traceEvents"] if isinstance(events, dict) else events
    names = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e.get("ph") == "M" and e["name"] == "thread_name"}
    ran = {}
    for event in events:
        where = names.get((event.get("pid"), event.get("tid")), "")
        what = re.match(r"d\d+v\d+", event.get("name", ""))
        if event.get("ph") == "X" and where.startswith("pCPU") and what:
            ran.setdefault(where, set()).add(what[0])
    return ran


def a31(t, name, method):
    """All four CPUs, and a guest of our own on each (sched=null gives each vCPU a CPU of its own)."""
    option = "cpu-method=platform " if method == "platform" else ""
    dtb, demo = demo_tree(t, name, 4, f"console=dtuart loglvl=all guest_loglvl=all sched=null trace=switch {option}")
    m = t.start(["qemu-system-arm", "-M", A31.machine, "-smp", A31.smp, "-m", A31.mem, "-display", "none", "-nic", "user",
                 "-monitor", "none", "-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
                 "-kernel", t.image, "-dtb", dtb, "-device", f"loader,file={demo},addr={DEMO_AT:#x},force-raw=on"])
    if method == "platform":
        m.expect(r"\(XEN\) CPUs are started by the platform's method\n", 30)
    else:
        m.expect(r"\(XEN\) Using PSCI v[\d.]+\n", 30)
    m.expect(r"\(XEN\) Brought up 4 CPUs\n", 60)
    done = set()
    while len(done) < 4:
        found = m.expect(r"DOM(\d+): demo: \d+ ok, (\d+) failed\s", 120)
        done.add(found[1])
    # A domU has 1023 event channels, and the guest looks for more.
    failed = set(re.findall(r"demo: (\S+): FAIL", m.text)) - {"event-table"}
    if failed:
        raise Failure(f"checks of the guests failed: {failed}")
    # No domain takes input here: the keyboard is the hypervisor's.
    m.send("T")
    m.expect(r"\(XEN\) trace: end", 60)
    ran = pinned_rows(m)
    if sorted(ran) != [f"pCPU{n}" for n in range(4)] or len(set().union(*ran.values())) != 4:
        raise Failure(f"not a guest on each CPU: {ran}")


for _name in A31_BOARDS:
    for _method in ("platform", "psci"):
        test(f"boards/{_name}-{_method}", "boards ours", cost=15, limit=200)(lambda t, n=_name, m=_method: a31(t, n, m))


R40 = SimpleNamespace(machine="bpim2u", smp=4, mem="1G", kernel=0x60000000, initrd=0x61000000)


@test("boards/bpim2u", "boards ours debian", cost=50)
def bpim2u(t):
    """Allwinner R40."""
    dtb = board_tree(t, "sun8i-r40-bananapi-m2-ultra.dtb", R40, "console=dtuart dom0_mem=256M loglvl=all",
                     "console=hvc0 clk_ignore_unused")
    m = direct(t, R40, dtb, "-nic", "none")
    m.expect(r"\(XEN\) Brought up 4 CPUs\n", 60)
    m.login()
    m.poweroff()
