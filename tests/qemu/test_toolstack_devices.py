"""Devices that xl gives to a domU: of the machine, the virtual UART, performance monitors; and what the hypervisor's file
system says."""

import base64
import re
import subprocess
import time

from harness import test
from test_dom0 import require
from test_toolstack import XEN, config, domains, enter, leave, refused, until

# The machine's clock chip is nobody's: dom0 may give it away.
FREE_CLOCK = "/ { pl031@9010000 { xen,passthrough; }; };"
# What of it the domU sees.
PARTIAL = """/dts-v1/;
/ {
    #address-cells = <2>; #size-cells = <2>;
    passthrough {
        compatible = "simple-bus"; ranges; #address-cells = <2>; #size-cells = <2>;
        apb-pclk { compatible = "fixed-clock"; #clock-cells = <0>; clock-frequency = <24000000>; phandle = <1>; };
        pl031@9010000 {
            compatible = "arm,pl031", "arm,primecell"; reg = <0 0x9010000 0 0x1000>; interrupt-parent = <65000>;
            interrupts = <0 2 4>; clocks = <1>; clock-names = "apb_pclk"; arm,primecell-periphid = <0x00041031>;
        };
    };
};"""


def files(m):
    """The hypervisor's file system, with Debian's xenhypfs."""
    # The tool's buffer is fresh, so the kernel has it write-protected: on Arm the real Xen cannot write to it either.
    _, said = m.shell("xenhypfs cat /buildinfo/version/major 2>&1", 60, check=False)
    require(said.strip() in ("4", "could not read: Bad address"), f"xenhypfs cat: {said}")
    refused(m, "xenhypfs cat /nosuch", "No such file or directory")


def put(m, path, content):
    """Writes a small file in dom0."""
    m.shell(f"base64 -d > {path} <<< {base64.b64encode(content).decode()}")


def clock(m):
    """In the domU: its clock chip works, and its alarm comes as an interrupt."""
    require("rtc-pl031" in m.shell("cat /sys/class/rtc/rtc0/name"), "the domU has no clock chip")
    now = int(m.shell("cat /sys/class/rtc/rtc0/since_epoch"))
    require(abs(now - time.time()) < 3600, f"its clock says {now}")
    count = "awk '/rtc-pl031/ {print $2}' /proc/interrupts"
    before = int(m.shell(count))
    m.shell("echo +1 > /sys/class/rtc/rtc0/wakealarm")
    m.shell(f"n=0; while [ $({count}) = {before} ] && [ $n -lt 30 ]; do sleep 1; n=$((n+1)); done", 120)
    require(int(m.shell(count)) == before + 1, "the alarm has not come once")


@test("toolstack/devices", "toolstack debian ours", cost=30, limit=600)
def devices(t):
    """A clock chip with its interrupt, a UART and performance monitors for a domU; and again for its successor."""
    m = t.debian("--toolstack", "--smp", 2, "--mem", "1G", "--xen-cmdline", XEN + " gnttab=max-ver:2", "--tree", FREE_CLOCK)
    m.login(300)
    require("ls: " not in m.shell("ls /sys/bus/amba/devices") and "9010000" not in m.shell("ls /sys/bus/amba/devices"), "dom0 has the clock chip")
    caps = re.search(r"^virt_caps +: (.*)$", m.shell("xl info", 60), re.M)
    require(caps and caps[1].split() == ["hvm", "hap", "vpmu", "gnttab-v1", "gnttab-v2"], f"virt_caps {caps and caps[1]}")
    files(m)
    tree = subprocess.run(["dtc", "-q", "-O", "dtb"], input=PARTIAL.encode(), capture_output=True, check=True).stdout
    put(m, "/root/clock.dtb", tree)
    one = config(m, "one", 96, 'iomem = ["0x9010,1"]\\nirqs = [34]\\ndevice_tree = "/root/clock.dtb"\\nvuart = "sbsa_uart"\\nvpmu = 1\\n')
    m.shell(f"xl create {one}", 180)
    enter(m, "one")
    clock(m)
    # Both ways through the UART, while its console is not open, and in a piece longer than a FIFO.
    m.shell("stty -F /dev/ttyAMA0 raw -echo; ( (read -r l < /dev/ttyAMA0; echo \"got $l\" > /dev/ttyAMA0) > /dev/null 2>&1 & )")
    leave(m)
    word = "0123456789" * 12
    m.send("xl console -t vuart one; echo @@uart$((1))@@\n")
    m.expect(r"@@uart\$\(\(1\)\)@@\r?\n", 30)
    m.send(word + "\n")
    m.expect(rf"got {word}\r?\n", 60)
    m.send("\x1d")
    m.expect(r"@@uart1@@\n", 60, plain=True)
    m.shell("true", 60)
    # What is given is given.
    two = config(m, "two", 48, 'irqs = [34]\\n')
    refused(m, f"xl create -p {two}", "failed give domain access to irq 34")
    gic = config(m, "gic", 48, 'iomem = ["0x8010,1"]\\n')
    refused(m, f"xl create -p {gic}", "failed give domain access to iomem")
    m.shell("xl destroy one", 120)
    # It is free again.
    m.shell(f"xl create -p {two}; xl destroy two", 120)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    m.poweroff()

