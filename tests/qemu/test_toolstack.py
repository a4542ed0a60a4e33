"""Debian 12's unmodified toolstack in dom0: xl makes, runs, shows and ends domains."""

import base64
import re
import shlex
import struct

from harness import test
from test_dom0 import require

XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"
IMAGE = "/root/domu.img"
# What a domain needs that is only made and ended.
SMALL = 'name = "{0}"\\nkernel = "/root/vmlinuz"\\nramdisk = "/root/domu.cpio.gz"\\nextra = "console=hvc0"\\nmemory = {1}\\n{2}'


# Debian's init script prefers oxenstored. What Linux does not know on its command line, init has in its environment.
C_XENSTORED = "XENSTORED=/usr/lib/xen-4.17/bin/xenstored"
KERNEL = {"bookworm": "6.1.", "trixie": "6.12."}


def toolstack(t, smp, *, mem="1G", xen="", words="", suite="bookworm"):
    """dom0 with Debian's toolstack, at its shell. xen, words: more for the command lines of the hypervisor and of dom0."""
    m = t.debian("--toolstack", "--smp", smp, "--mem", mem, "--suite", suite, "--xen-cmdline", f"{XEN} {xen}".strip(),
                 "--cmdline", f"console=hvc0 {words}".strip())
    up = m.login(300)
    require(f" {KERNEL[suite]}" in up.group(3), f"not the kernel of {suite}: {up.group(3)}")
    wanted = "xenstored" if C_XENSTORED in words else "oxenstored"
    m.shell(f"pidof {wanted}")
    return m


def script(m, path, text):
    """Writes a file in the domain whose shell it is. A terminal's line has its limit."""
    m.shell(f"rm -f {path}")
    for line in text.strip().splitlines():
        m.shell(f"echo {shlex.quote(line)} >> {path}")


def free(m):
    """KiB of memory that no domain has, and of dom0's translation tables: those grow where it maps a page of another for the
    first time in a 2 MiB block, and stay. To the page, from the hypervisor's debug keys."""
    m.send("xl debug-keys mq\n")
    unused = int(m.expect(r"\(XEN\) .*free: (\d+) kB.*\n", 60).group(1))
    m.expect(r"\(XEN\) General information for domain 0:", 60)
    return unused + 4 * int(m.expect(r"\(XEN\) .*table_pages=(\d+)\r?\n", 60).group(1))


def create_fails(m, path, *words):
    """An xl create that must fail, and say why."""
    status, text = m.shell(f"xl create {path}", 180, check=False)
    require(status != 0 and all(word in text for word in words), f"xl create {path}: status {status}, not {words} but {text}")


def config(m, name, memory=64, more=""):
    """Writes a domain's configuration in dom0 and returns its path."""
    path = f"/root/{name}.cfg"
    m.shell(f"printf '{SMALL.format(name, memory, more)}' > {path}")
    return path


def domains(m):
    """{name: (id, memory, vCPUs, state)} as xl lists them."""
    lines = m.shell("xl list", 60).splitlines()[1:]
    rows = [line.split() for line in lines if len(line.split()) == 6]
    return {row[0]: (int(row[1]), int(row[2]), int(row[3]), row[4]) for row in rows}


def until(m, condition, what, seconds=60):
    """Waits in dom0 until a shell condition holds."""
    loop = f"n=0; until {condition}; do n=$((n+1)); [ $n -lt {seconds} ] || exit 1; sleep 1; done"
    status, _ = m.shell(f"( {loop} )", seconds * 6 + 60, check=False)
    require(status == 0, f"{what}: not within {seconds} s")


def enter(m, name, how="xl console"):
    """Goes to the shell of a domain by xl console; m.shell() is that shell afterwards."""
    m.send(f"{how} {name}; echo @@out$((1))@@\n")
    if how == "xl console":
        m.send("\n")
    m.expect(r"domu# ", 90)
    m.send("dmesg -n 1; echo @@in$((1))@@; while IFS= read -r l; do eval \"$l\"; done\n")
    m.expect(r"@@in1@@\n", 60, plain=True)
    m.shell("true", 60)


def leave(m):
    """Comes back to dom0's shell, as a user does: Ctrl-]."""
    m.send("\x1d")
    m.expect(r"@@out1@@\n", 60, plain=True)
    m.shell("true", 60)


READ, WRITE, ERROR = 2, 11, 16


def xenstore(m, kind, *words):
    """A request to xenstore from a domU's shell, without any tool: by the wire, over /dev/xen/xenbus. (type, text) of the answer."""
    payload = "\0".join(words).encode() + (b"\0" if kind == READ else b"")
    request = struct.pack("<4I", kind, 1, 0, len(payload)) + payload
    octal = "".join(f"\\{byte:03o}" for byte in request)
    out = m.shell(f"exec 3<>/dev/xen/xenbus; printf '{octal}' >&3; dd bs=4096 count=1 <&3 2>/dev/null | base64; exec 3>&-", 60)
    answer = base64.b64decode("".join(out.split()))
    require(len(answer) >= 16, f"xenstore answered {answer!r}")
    kind, number, _, length = struct.unpack("<4I", answer[:16])
    require(number == 1 and len(answer) == 16 + length, f"xenstore answered {answer!r}")
    return kind, answer[16:].rstrip(b"\0").decode()


def xenstore_of_domu(m):
    """What dom0 wrote is there, what this domain writes is, and what is not its own it cannot write."""
    require(xenstore(m, READ, "name") == (READ, "domu"), "the domU does not read its name in xenstore")
    require(xenstore(m, READ, "memory/target") == (READ, str(128 << 10)), "memory/target")
    require(xenstore(m, READ, "no/such") == (ERROR, "ENOENT"), "what is not there")
    require(xenstore(m, WRITE, "data/from-domu", "hello from the domU")[0] == WRITE, "the domU cannot write to data")
    require(xenstore(m, WRITE, "/local/domain/0/evil", "1") == (ERROR, "EACCES"), "the domU may write to dom0's part")


def digest(text):
    """The SHA-256 that sha256sum printed."""
    found = re.search(r"\b[0-9a-f]{64}\b", text)
    require(found, f"no checksum in {text!r}")
    return found.group(0)


def life(t, smp, scheduler, **how):
    """A domU from xl create to xl shutdown: list, console, disk, network, xenstore, pause, names, pins."""
    m = toolstack(t, smp, xen=f"sched={scheduler}", **how)
    info = m.shell("xl info", 60)
    for wanted in (r"xen_version +: 4\.17\.", rf"nr_cpus +: {smp}$", rf"xen_scheduler +: {scheduler}$", r"total_memory +: 1024$"):
        require(re.search(rf"^{wanted}", info, re.M), f"xl info lacks {wanted}: {info}")

    enter(m, "/root/domu.cfg", "xl create -c")
    require(m.shell("uname -r").startswith(KERNEL[how.get("suite", "bookworm")]), "the domU has another kernel")
    require("xen" in m.shell("cat /sys/hypervisor/type"), "the domU does not know that it runs on Xen")
    m.shell("dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync", 120)
    written = digest(m.shell("sha256sum /mnt/file", 60))
    # What dom0 sends goes back again changed. busybox' nc ends when one side has: its input must last.
    m.shell("mkfifo /tmp/hold; (sleep 900 > /tmp/hold &); ( (nc -l -p 4000 < /tmp/hold > /tmp/got; "
            "(cat /tmp/got; echo end) | nc -l -p 4001) > /dev/null 2>&1 & )")
    xenstore_of_domu(m)
    leave(m)

    number, memory, vcpus, _ = domains(m)["domu"]
    require((number, memory, vcpus) == (1, 128, 1), f"xl list shows {number, memory, vcpus}")
    require(m.shell("xenstore-read /local/domain/1/data/from-domu").strip() == "hello from the domU", "what the domU wrote to xenstore")
    m.shell("! xenstore-exists /local/domain/0/evil")
    state = m.shell("for d in vbd/51712 vif/0; do xenstore-read /local/domain/1/device/$d/state; done", 60)
    require(state.split() == ["4", "4"], f"the front ends are not connected: {state}")
    m.shell("ping -c 3 10.0.0.2", 60)
    m.shell("dd if=/dev/urandom of=/tmp/sent bs=64k count=32 && nc -w 100 10.0.0.2 4000 < /tmp/sent", 240)
    until(m, "nc -w 100 10.0.0.2 4001 < <(sleep 300) > /tmp/back && [ -s /tmp/back ]", "TCP from the domU", 30)
    sums = m.shell("(cat /tmp/sent; echo end) | sha256sum; sha256sum < /tmp/back", 60).split()
    require(sums[0] == sums[2], f"TCP changed what it carried: {sums}")

    m.shell("xl pause domu", 60)
    require("p" in domains(m)["domu"][3], "xl list does not show that it is paused")
    m.shell("xl unpause domu", 60)
    require("p" not in domains(m)["domu"][3], "xl list shows a pause that is over")
    m.shell("xl rename domu other", 60)
    require(m.shell("xl domid other; xl domname 1", 60).split() == ["1", "other"], "the new name is not known")
    m.shell("! xl domid domu")
    m.shell("xl vcpu-pin other 0 0", 60)
    pins = m.shell("xl vcpu-list other", 60)
    # Asleep, it is where it was last.
    hard = "0" if smp > 1 else "all"
    require(re.search(rf"^other +1 +0 +\d+ +\S+ +[\d.]+ +{hard} / all", pins, re.M), f"xl vcpu-list: {pins}")
    require(re.search(r"^other +1 +\d+:\d\d:\d\d", m.shell("xl uptime other", 60), re.M), "xl uptime")
    # Counted, because the harness takes lines of the hypervisor out.
    require(m.shell("xl dmesg | grep -c 'Xen version 4.17'", 60).strip() == "1", "xl dmesg")

    m.shell("xl shutdown -w other", 180)
    until(m, "! xl domid other 2> /dev/null", "the end of the domain")
    m.shell(f"mount -o loop {IMAGE} /mnt", 60)
    require(digest(m.shell("sha256sum /mnt/file", 60)) == written, "the disk does not hold what the domU wrote")
    m.shell("umount /mnt", 60)
    until(m, "! losetup | grep -q domu.img", "the loop device is released")
    m.poweroff()


# Processors, scheduler, more. The first runs by default.
for _n, (_smp, _scheduler, _how) in enumerate([
        (2, "credit2", {}), (1, "credit", {"words": C_XENSTORED}), (4, "credit2", {"words": C_XENSTORED}), (2, "credit", {"suite": "trixie"})]):
    test(f"toolstack/life-{_smp}-cpus" + ("-6.12" if "suite" in _how else ""), "toolstack debian" + (" full" if _n else ""), cost=80, limit=900)(
        lambda t, smp=_smp, scheduler=_scheduler, how=_how: life(t, smp, scheduler, **how))


def expect_up(m, name, pattern, count=1, seconds=90):
    """Waits until a domain's console, as xenconsoled logs it, has shown its init so many times."""
    log = f"/var/log/xen/console/guest-{name}.log"
    until(m, f"[ $(cat {log} 2> /dev/null | grep -ac '^DOMU-UP {pattern}') -ge {count} ]", f"{name} is up", seconds)


def refused(m, command, words):
    """A command that must fail, and say why."""
    status, text = m.shell(command, 60, check=False)
    require(status != 0 and words and words in text, f"{command}: status {status}, not {words!r} but {text}")


def field(m, command, name, column):
    """A column (from 1) of the line of a table that begins with `name`."""
    return m.shell(f"{command} | awk '$1 == \"{name}\" {{print ${column}}}'", 60).split()


def commands_of_pools(m, last):
    """Schedulers and pools of CPUs, with a paused domain."""
    require(field(m, "xl sched-credit", "one", 3) == ["256"], "xl sched-credit: the default weight")
    m.shell("xl sched-credit -d one -w 512 -c 50")
    require(m.shell("xl sched-credit -d one | tail -1").split() == ["one", field(m, "xl list", "one", 2)[0], "512", "50"], "xl sched-credit -d")
    require("Cpu weight out of range" in m.shell("xl sched-credit -d one -w 0 2>&1; true"), "a weight of 0")
    require(m.shell("xl sched-credit -d one | tail -1").split()[2] == "512", "a weight that was refused")
    m.shell("xl sched-credit -s -p Pool-0 -t 20 -r 500")
    require("tslice=20ms ratelimit=500us" in m.shell("xl sched-credit -s"), "xl sched-credit -s")
    m.shell("xl sched-credit -s -p Pool-0 -t 30 -r 1000")
    if last == 0:
        return
    m.shell(f"xl cpupool-cpu-remove Pool-0 {last} && printf 'name=\"p1\"\\nsched=\"credit2\"\\n' > p2.cfg && xl cpupool-create p2.cfg", 60)
    m.shell(f"xl cpupool-rename p1 p2 && xl cpupool-cpu-add p2 {last}", 60)
    require(m.shell("xl cpupool-list | tail -1").split() == ["p2", "1", "credit2", "y", "0"], "xl cpupool-list")
    require(m.shell("xl cpupool-list -c | tail -1").split() == ["p2", str(last)], "xl cpupool-list -c")
    m.shell("xl cpupool-migrate one p2 && xl unpause one", 60)
    until(m, f"[ $(xl vcpu-list one | awk '$1 == \"one\" && $3 == 0 {{print $4}}') = {last} ]", "a vCPU runs in its pool")
    require(field(m, "xl sched-credit2 -p p2", "one", 3) == ["256"], "xl sched-credit2")
    refused(m, "xl cpupool-destroy p2", "Can't destroy cpupool 'p2'")
    require(field(m, "xl cpupool-list", "p2", 5) == ["1"], "the pool that could not be destroyed")
    m.shell(f"xl pause one && xl cpupool-migrate one Pool-0 && xl cpupool-destroy p2 && xl cpupool-cpu-add Pool-0 {last}", 60)
    require(field(m, "xl cpupool-list", "Pool-0", 2) == [str(last + 1)], "the CPU is not back")
    require(field(m, "xl cpupool-list", "p2", 1) == [], "the pool is still there")


def commands_of_devices(m):
    """A disk and a network card come to a running domain and go again; what it wrote is in dom0's file afterwards."""
    m.shell("truncate -s 8M /root/more.img && xl block-attach one file:/root/more.img,xvdb,w && xl network-attach one bridge=xenbr0", 60)
    state = "xenstore-read /local/domain/$(xl domid one)/device/{0}/state"
    until(m, f"[ \"$({state.format('vbd/51728')})\" = 4 ]", "the second disk is connected")
    until(m, f"[ \"$({state.format('vif/0')})\" = 4 ]", "the network card is connected")
    require(field(m, "xl block-list one", "51728", 4) == ["4"], "xl block-list")
    require(re.search(r"^0 +0 +00:16:3e:\S+ +\S+ +4 ", m.shell("xl network-list one"), re.M), "xl network-list")
    enter(m, "one")
    require(m.shell("echo 1 > /sys/devices/system/cpu/cpu1/online && nproc", 60).strip() == "2", "the second vCPU does not come back")
    m.shell("dd if=/dev/urandom of=/dev/xvdb bs=64k count=64 && sync", 60)
    written = digest(m.shell("dd if=/dev/xvdb bs=64k count=64 2> /dev/null | sha256sum", 60))
    kept = digest(m.shell("sha256sum /kept", 60))
    m.shell("ip addr add 10.0.0.3/24 dev eth0 && ip link set eth0 up")
    m.shell("( (while [ -e /sys/class/net/eth0 ] || [ -e /sys/block/xvdb ]; do sleep 1; done; echo DOMU-ALL-GONE) & )")
    leave(m)
    m.shell("ping -c 2 10.0.0.3", 60)
    m.shell("xl block-detach one xvdb && xl network-detach one 0", 60)
    log = "/var/log/xen/console/guest-one.log"
    until(m, f"grep -q ^DOMU-ALL-GONE {log}", "the domU has lost the disk and the network card")
    require(field(m, "xl block-list one", "51728", 1) == [], "xl block-detach")
    require(field(m, "xl network-list one", "0", 1) == [], "xl network-detach")
    until(m, "! losetup | grep -q more.img", "the loop device is released")
    require(digest(m.shell("head -c 4M /root/more.img | sha256sum", 60)) == written, "the disk does not hold what the domU wrote")
    refused(m, "xl block-detach one xvdz", "Device xvdz not connected")
    refused(m, "xl network-detach one 7", "Unknown device 7")
    return kept


# The init of an initramfs that goes on to a root on the first PV disk. What comes later in an initramfs replaces what was there.
ROOT_INIT = """
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t devtmpfs dev /dev
while read -r module; do insmod /lib/modules/$module; done < /lib/modules/order
until [ -b /dev/xvda ]; do sleep 0.1; done
mount /dev/xvda /mnt && umount /proc /dev && exec switch_root /mnt /init
"""


def disk_root(m):
    """Makes /root/root.img, a disk with the domU's files, and /root/root.cpio.gz, which mounts it as root."""
    m.shell("mkdir tree && (cd tree && busybox zcat ../domu.cpio.gz | busybox cpio -id) && truncate -s 24M root.img && mke2fs -q -F -d tree root.img", 120)
    script(m, "/root/tree/init", ROOT_INIT)
    m.shell("chmod +x tree/init && (cat domu.cpio.gz && cd tree && echo init | busybox cpio -o -H newc | busybox gzip) > root.cpio.gz && rm -r tree", 60)


def commands_of_memory(m, smp):
    """vCPUs and memory of a running domain of 96 MiB and 2 vCPUs."""
    m.shell("xl vcpu-set one 1", 60)
    until(m, "xl vcpu-list one | awk '$1 == \"one\" && $3 == 1 {print $5}' | grep -q -- --p", "the second vCPU is off")
    refused(m, f"xl vcpu-set one {smp + 1}", f"You have {smp} physical CPUs and want {smp + 1} vCPUs")
    m.shell("xl vcpu-set --ignore-host one 2", 60)
    # Its Linux waits for udev to take it; commands_of_devices() does that.
    require(m.shell("xenstore-read /local/domain/$(xl domid one)/cpu/1/availability").strip() == "online", "xl vcpu-set")
    soft = smp - 1
    m.shell(f"xl vcpu-pin one all 0 && xl vcpu-pin one 0 - {soft}", 60)
    # The only processor is all.
    pinned = f"0 / {soft}" if smp > 1 else "all / all"
    require(re.search(rf"^one +\d+ +0 .* {pinned}$", m.shell("xl vcpu-list one"), re.M), "xl vcpu-pin, soft")
    m.shell("xl vcpu-pin one all all all", 60)
    before = int(field(m, "xl info", "free_memory", 3)[0])
    m.shell("xl mem-set one 64", 60)
    until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 64 ]", "it has ballooned down")
    require(30 <= int(field(m, "xl info", "free_memory", 3)[0]) - before <= 34, "free memory did not grow by 32 MiB")
    m.shell("xl mem-set one 96", 60)
    until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 96 ]", "it has its memory back")
    refused(m, "xl mem-set one 128", "memory_dynamic_max must be less than or equal to memory_static_max")
    m.shell("xl mem-max one 128", 60)
    require(m.shell("xenstore-read /local/domain/$(xl domid one)/memory/static-max").strip() == str(128 << 10), "xl mem-max")


def tops(m):
    """xentop as a program uses it, and xl top as a person does."""
    top = m.shell("xentop -b -i 1", 60)
    for name, memory in (("Domain-0", 512 << 10), ("one", 96 << 10)):
        row = re.search(rf"^ *{name} +([-a-z]{{6}}) +\d+ +[\d.]+ +(\d+) ", top, re.M)
        require(row and memory <= int(row.group(2)) <= memory + 1024, f"xentop, {name}: {top}")
    # As any curses program it writes where it likes; m.text has no escape sequences any more.
    m.send("TERM=linux xl top; echo @@top$((1))@@\n")
    m.expect(r"xentop - \d\d:\d\d:\d\d +Xen 4\.17\.[^\n]*?2 domains: ", 60)
    m.expect(r"Domain-0[\x0f ]+[-a-z]{6}\d", 30)
    m.expect(r"[\x0f ]one[\x0f ]+[-a-z]{6}\d", 30)
    m.send("q")
    m.expect(r"@@top1@@\n", 60, plain=True)
    m.shell("true")


def own_programs(m):
    """Xen's own test programs: what they say, not only how they end."""
    said = {"test-xenstore": [r"^ta err +: \d+ ns"], "test-resource": ["Test ARM", "Test grant table"],
            "test-paging-mempool": ["Test default mempool size", "Test bad set size", "Test set continuation"]}
    for name, words in said.items():
        status, text = m.shell(f"/usr/lib/xen-4.17/bin/{name} 2>&1", 120, check=False)
        require(status == 0 and all(re.search(word, text, re.M) for word in words) and not re.search("(?i)fail|error|skip", text),
                f"{name}: status {status}, {text}")


def commands(t, smp, **how):
    """What else a user does with xl; each says what it did, or why not. Its domain has its root on a PV disk."""
    m = toolstack(t, smp, xen="sched=credit", **how)
    disk_root(m)
    one = config(m, "one", 96, 'vcpus = 2\\nacpi = 0\\non_reboot = "restart"\\ndisk = ["format=raw,vdev=xvda,access=rw,target=/root/root.img"]\\n')
    m.shell(f"sed -i s/domu.cpio/root.cpio/ {one} && xl create {one}", 180)
    expect_up(m, "one", ".* cpus=2 hypervisor=xen")
    enter(m, "one")
    m.shell("grep '^/dev/xvda / ext[24] ' /proc/mounts")
    m.shell("dd if=/dev/urandom of=/kept bs=64k count=64 && sync", 60)
    kept = digest(m.shell("sha256sum /kept", 60))
    leave(m)
    number = m.shell("xl domid one").strip()
    refused(m, "xl list nosuch", "nosuch is an invalid domain")
    require('"name": "one"' in m.shell("xl list -l one"), "xl list -l")
    require(re.search(r"^one .* [0-9a-f]{8}(-[0-9a-f]{4}){3}-", m.shell("xl list -v one"), re.M), "xl list -v")
    tops(m)

    # Before mem-set and mem-max: after those xl builds it anew with more than it may have, and fails, on the real Xen, too.
    m.shell("xl reboot one", 60)
    expect_up(m, "one", ".* cpus=2", count=2, seconds=120)
    require(int(m.shell("xl domid one")) > int(number), "it came back with its old number")
    commands_of_memory(m, smp)
    require(commands_of_devices(m) == kept, "the root does not hold what was written before the reboot")

    m.shell("xl dump-core one /root/core", 120)
    require("ELF" in m.shell("head -c 4 /root/core") and int(m.shell("stat -c %s /root/core")) > 64 << 20, "xl dump-core")
    m.shell("rm /root/core && xl debug-keys h && sleep 1")
    require(m.shell("xl dmesg | grep -c \"'h' pressed\"", 60).strip() == "1", "xl debug-keys")
    # xl's status is 0 all the same.
    require("Function not implemented" in m.shell("xl trigger one nmi 2>&1"), "xl trigger, which Xen on Arm does not have")
    m.shell("xl pause one", 60)
    commands_of_pools(m, smp - 1)
    m.shell("xl destroy one", 60)
    until(m, "! losetup | grep -q root.img", "the loop device is released")
    m.shell("mount -o loop,ro root.img /mnt", 60)
    require(digest(m.shell("sha256sum /mnt/kept", 60)) == kept, "dom0 does not find in the root what the domU wrote")
    m.shell("umount /mnt")
    crash = config(m, "crash", 64, 'on_reboot = "preserve"\\n')
    m.shell(f"sed -i 's/console=hvc0/console=hvc0 rdinit=\\/no root=none panic=1/' {crash} && xl create {crash}", 180)
    until(m, "xl list crash | grep -q -- '---s'", "a domain that is kept after its end")
    require(m.shell("grep -c 'not syncing' /var/log/xen/console/guest-crash.log").strip() != "0", "its last words are logged")
    m.shell("xl destroy crash", 60)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    own_programs(m)
    m.shell("xl cpupool-numa-split", 60)
    require(m.shell("xl cpupool-list | tail -n +2").split() == ["Pool-node0", str(smp), "credit", "y", "1"], "xl cpupool-numa-split")
    m.poweroff()


for _smp, _how in ((2, {"words": C_XENSTORED}), (1, {}), (4, {})):
    test(f"toolstack/commands-{_smp}-cpus", "toolstack debian" + ("" if _smp == 2 else " full"), cost=90, limit=900)(
        lambda t, smp=_smp, how=_how: commands(t, smp, **how))
