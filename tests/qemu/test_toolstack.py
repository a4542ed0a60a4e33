"""Debian 12's unmodified toolstack in dom0: xl makes, runs, shows and ends domains."""

import re

from harness import Failure, test
from test_dom0 import require

XEN = "console=dtuart dom0_mem=512M loglvl=all guest_loglvl=all"
IMAGE = "/root/domu.img"
# What a domain needs that is only made and ended.
SMALL = 'name = "{0}"\\nkernel = "/root/vmlinuz"\\nramdisk = "/root/domu.cpio.gz"\\nextra = "console=hvc0"\\nmemory = {1}\\n{2}'


def toolstack(t, smp):
    """dom0 with Debian's toolstack, at its shell."""
    m = t.debian("--toolstack", "--smp", smp, "--mem", "1G", "--xen-cmdline", XEN)
    m.login(300)
    return m


def free(m):
    """KiB of memory that no domain has, and of dom0's translation tables: those grow where it maps a page of another for the
    first time in a 2 MiB block, and stay. To the page, from the hypervisor's debug keys."""
    m.send("xl debug-keys mq\n")
    unused = int(m.expect(r"\(XEN\) .*free: (\d+) kB.*\n", 60).group(1))
    m.expect(r"\(XEN\) General information for domain 0:", 60)
    return unused + 4 * int(m.expect(r"\(XEN\) .*table_pages=(\d+)\r?\n", 60).group(1))


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


def enter(m, name):
    """Goes to the shell of a domain by xl console; m.shell() is that shell afterwards."""
    m.send(f"xl console {name}; echo @@out$((1))@@\n")
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


def digest(text):
    """The SHA-256 that sha256sum printed."""
    found = re.search(r"\b[0-9a-f]{64}\b", text)
    require(found, f"no checksum in {text!r}")
    return found.group(0)


def life(t, smp):
    """A domU from xl create to xl shutdown: list, console, disk, network, xenstore, pause, names, pins."""
    m = toolstack(t, smp)
    info = m.shell("xl info", 60)
    require(re.search(r"^xen_version +: 4\.17\.", info, re.M), f"xl info: {info}")
    m.shell("xl create /root/domu.cfg", 180)
    number, memory, vcpus, _ = domains(m)["domu"]
    require((number, memory, vcpus) == (1, 128, 1), f"xl list shows {number, memory, vcpus}")

    enter(m, "domu")
    require("xen" in m.shell("cat /sys/hypervisor/type"), "the domU does not know that it runs on Xen")
    m.shell("dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync", 120)
    written = digest(m.shell("sha256sum /mnt/file", 60))
    # What dom0 sends goes back again changed. busybox' nc ends when one side has: its input must last.
    m.shell("mkfifo /tmp/hold; (sleep 900 > /tmp/hold &); ( (nc -l -p 4000 < /tmp/hold > /tmp/got; "
            "(cat /tmp/got; echo end) | nc -l -p 4001) > /dev/null 2>&1 & )")
    leave(m)

    state = m.shell("for d in vbd/51712 vif/0; do xenstore-read /local/domain/1/device/$d/state; done", 60)
    require(state.split() == ["4", "4"], f"the front ends are not connected: {state}")
    m.shell("ping -c 3 10.0.0.2", 60)
    m.shell("dd if=/dev/urandom of=/tmp/sent bs=64k count=32; nc -w 20 10.0.0.2 4000 < /tmp/sent", 120)
    until(m, "nc -w 20 10.0.0.2 4001 < <(sleep 60) > /tmp/back && [ -s /tmp/back ]", "TCP from the domU", 30)
    sums = m.shell("(cat /tmp/sent; echo end) | sha256sum; sha256sum < /tmp/back", 60).split()
    require(sums[0] == sums[2], f"TCP changed what it carried: {sums}")

    m.shell("xl pause domu", 60)
    require("p" in domains(m)["domu"][3], "xl list does not show that it is paused")
    m.shell("xl unpause domu", 60)
    require("p" not in domains(m)["domu"][3], "xl list shows a pause that is over")
    m.shell("xl rename domu other", 60)
    require(m.shell("xl domid other; xl domname 1", 60).split() == ["1", "other"], "the new name is not known")
    m.shell("xl vcpu-pin other 0 0", 60)
    pins = m.shell("xl vcpu-list other", 60)
    # Asleep, it is where it was last.
    require(re.search(r"^other +1 +0 +\d+ +\S+ +[\d.]+ +0 / all", pins, re.M), f"xl vcpu-list: {pins}")
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


for _smp in (2, 1, 4):
    _tags = "toolstack debian" + ("" if _smp == 2 else " full")
    test(f"toolstack/life-{_smp}-cpus", _tags, cost=80, limit=900)(lambda t, smp=_smp: life(t, smp))


def expect_up(m, name, pattern, count=1, seconds=90):
    """Waits until a domain's console, as xenconsoled logs it, has shown its init so many times."""
    log = f"/var/log/xen/console/guest-{name}.log"
    until(m, f"[ $(grep -ac '^DOMU-UP {pattern}' {log} 2>/dev/null || echo 0) -ge {count} ]", f"{name} is up", seconds)


def refused(m, command, words):
    """A command that must fail, and say why."""
    status, text = m.shell(command, 60, check=False)
    require(status != 0 and words in text, f"{command}: status {status}, {text}")


def field(m, command, name, column):
    """A column (from 1) of the line of a table that begins with `name`."""
    return m.shell(f"{command} | awk '$1 == \"{name}\" {{print ${column}}}'", 60).split()


def commands_of_pools(m, last):
    """Schedulers and pools of CPUs, with two paused domains."""
    require(field(m, "xl sched-credit", "one", 3) == ["256"], "xl sched-credit: the default weight")
    m.shell("xl sched-credit -d one -w 512 -c 50")
    require(m.shell("xl sched-credit -d one | tail -1").split() == ["one", field(m, "xl list", "one", 2)[0], "512", "50"], "xl sched-credit -d")
    refused(m, "xl sched-credit -d one -w 0", "weight")
    m.shell("xl sched-credit -s -p Pool-0 -t 20 -r 500")
    require("tslice=20ms ratelimit=500us" in m.shell("xl sched-credit -s"), "xl sched-credit -s")
    m.shell("xl sched-credit -s -p Pool-0 -t 30 -r 1000")
    m.shell(f"xl cpupool-cpu-remove Pool-0 {last}; printf 'name=\"p2\"\\nsched=\"credit2\"\\n' > p2.cfg; xl cpupool-create p2.cfg; xl cpupool-cpu-add p2 {last}", 60)
    require(m.shell("xl cpupool-list | tail -1").split() == ["p2", "1", "credit2", "y", "0"], "xl cpupool-list")
    m.shell("xl cpupool-migrate one p2; xl unpause one", 60)
    until(m, f"[ $(xl vcpu-list one | awk '$1 == \"one\" && $3 == 0 {{print $4}}') = {last} ]", "a vCPU runs in its pool")
    require(field(m, "xl sched-credit2 -p p2", "one", 3) == ["256"], "xl sched-credit2")
    refused(m, "xl cpupool-destroy p2", "")
    m.shell(f"xl pause one; xl cpupool-migrate one Pool-0; xl cpupool-destroy p2; xl cpupool-cpu-add Pool-0 {last}", 60)
    require(field(m, "xl cpupool-list", "Pool-0", 2) == [str(last + 1)], "the CPU is not back")


def commands_of_devices(m):
    """Disks and network cards of a running domain."""
    m.shell("truncate -s 8M /root/more.img; xl block-attach one file:/root/more.img,xvdb,w", 60)
    state = "xenstore-read /local/domain/$(xl domid one)/device/{0}/state"
    until(m, f"[ \"$({state.format('vbd/51728')})\" = 4 ]", "the second disk is connected")
    require("51728" in m.shell("xl block-list one"), "xl block-list")
    m.shell("xl block-detach one xvdb", 60)
    require("51728" not in m.shell("xl block-list one"), "xl block-detach")
    m.shell("xl network-attach one bridge=xenbr0", 60)
    until(m, f"[ \"$({state.format('vif/0')})\" = 4 ]", "the network card is connected")
    require(re.search(r"^0 +0 +00:16:3e:\S+ +\S+ +4 ", m.shell("xl network-list one"), re.M), "xl network-list")
    m.shell("xl network-detach one 0", 60)


def commands(t, smp):
    """What else a user does with xl; each says what it did, or why not."""
    m = toolstack(t, smp)
    one = config(m, "one", 96, 'vcpus = 2\\nacpi = 0\\non_reboot = "restart"\\n')
    m.shell(f"xl create {one}", 180)
    expect_up(m, "one", ".* cpus=2 hypervisor=xen")
    number = m.shell("xl domid one").strip()
    refused(m, "xl list nosuch", "nosuch is an invalid domain")
    require('"name": "one"' in m.shell("xl list -l one"), "xl list -l")
    require(re.search(r"^one .* [0-9a-f]{8}(-[0-9a-f]{4}){3}-", m.shell("xl list -v one"), re.M), "xl list -v")
    top = m.shell("xentop -b -i 1", 60)
    require(re.search(r"^ *one +[-a-z]{6} +\d+ +[\d.]+ +\d+ ", top, re.M), f"xentop: {top}")
    require(m.shell("xl top -b -i 1 2>&1 | grep -c one", 60, check=False)[1].strip() in ("0", "1", "2"), "xl top")

    # Before mem-set and mem-max: after those xl builds it anew with more than it may have, and fails, on the real Xen, too.
    m.shell("xl reboot one", 60)
    expect_up(m, "one", ".* cpus=2", count=2, seconds=120)
    require(int(m.shell("xl domid one")) > int(number), "it came back with its old number")

    m.shell("xl vcpu-set one 1", 60)
    until(m, "xl vcpu-list one | awk '$1 == \"one\" && $3 == 1 {print $5}' | grep -q -- --p", "the second vCPU is off")
    refused(m, "xl vcpu-set one 5", "")
    m.shell("xl vcpu-pin one all 0; xl vcpu-pin one 0 - 1", 60)
    require(re.search(r"^one +\d+ +0 .* 0 / 1$", m.shell("xl vcpu-list one"), re.M), "xl vcpu-pin, soft")
    m.shell("xl vcpu-pin one all all all", 60)
    before = int(field(m, "xl info", "free_memory", 3)[0])
    m.shell("xl mem-set one 64", 60)
    until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 64 ]", "it has ballooned down")
    require(30 <= int(field(m, "xl info", "free_memory", 3)[0]) - before <= 34, "free memory did not grow by 32 MiB")
    m.shell("xl mem-set one 96", 60)
    until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 96 ]", "it has its memory back")
    commands_of_devices(m)

    m.shell("xl dump-core one /root/core", 120)
    require("ELF" in m.shell("head -c 4 /root/core") and int(m.shell("stat -c %s /root/core")) > 64 << 20, "xl dump-core")
    m.shell("rm /root/core; xl debug-keys h; sleep 1")
    require(m.shell("xl dmesg | grep -c \"'h' pressed\"", 60).strip() == "1", "xl debug-keys")
    # xl's status is 0 all the same.
    require("Function not implemented" in m.shell("xl trigger one nmi 2>&1"), "xl trigger, which Xen on Arm does not have")
    refused(m, "xl mem-set one 128", "")
    m.shell("xl mem-max one 128", 60)
    require(m.shell("xenstore-read /local/domain/$(xl domid one)/memory/static-max").strip() == str(128 << 10), "xl mem-max")
    m.shell("xl pause one", 60)
    if smp > 1:
        commands_of_pools(m, smp - 1)
    m.shell("xl destroy one", 60)
    crash = config(m, "crash", 64, 'on_reboot = "preserve"\\n')
    m.shell(f"sed -i 's/console=hvc0/console=hvc0 rdinit=\\/no root=none panic=1/' {crash}; xl create {crash}", 180)
    until(m, "xl list crash | grep -q -- '---s'", "a domain that is kept after its end")
    require(m.shell("grep -c 'not syncing' /var/log/xen/console/guest-crash.log").strip() != "0", "its last words are logged")
    m.shell("xl destroy crash", 60)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    for name in ("test-xenstore", "test-resource", "test-paging-mempool"):
        status, text = m.shell(f"/usr/lib/xen-4.17/bin/{name} 2>&1", 120, check=False)
        require(status == 0 and "fail" not in text.lower(), f"{name}: status {status}, {text}")
    m.poweroff()


for _smp in (2, 1, 4):
    _tags = "toolstack debian" + ("" if _smp == 2 else " full")
    test(f"toolstack/commands-{_smp}-cpus", _tags, cost=90, limit=900)(lambda t, smp=_smp: commands(t, smp))


def lasting(m, before, what):
    """Not a page may be lost for good."""
    for _ in range(20):
        if free(m) == before:
            return
        m.shell("sleep 1")
    raise Failure(f"{what}: {before - free(m)} KiB are lost")


def errors(m, good):
    """Creates that cannot be, and one that can."""
    for name in ("bad", "big"):
        status, text = m.shell(f"xl create {name}.cfg", 180, check=False)
        require(status != 0 and "error" in text, f"xl create of {name}: status {status}, {text}")
    m.shell(f"xl create -p {good}", 180)
    status, text = m.shell(f"xl create -p {good}", 180, check=False)
    require(status != 0 and "already exists" in text, f"the same name twice: status {status}, {text}")
    m.shell("xl destroy good", 120)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")


def robust(t, smp, cycles):
    """Errors, kills in the middle, crash loops and many cycles leave nothing behind."""
    m = toolstack(t, smp)
    good = config(m, "good")
    m.shell("head -c 100000 /dev/urandom > /root/rubbish", 60)
    m.shell("sed 's/vmlinuz/rubbish/; s/good/bad/' /root/good.cfg > /root/bad.cfg; "
            "sed 's/memory = 64/memory = 4096/; s/good/big/' /root/good.cfg > /root/big.cfg")
    # Twice: the first time much is touched for the first time.
    errors(m, good)
    before = free(m)
    errors(m, good)
    lasting(m, before, "errors")

    loop = f"n=0; while [ $n -lt {cycles} ]; do xl create -p {good} > /dev/null && xl destroy good || break; n=$((n+1)); done; echo cycles=$n"
    require(f"cycles={cycles}" in m.shell(f"( {loop} )", 60 + cycles * 30), "a create or a destroy failed")
    lasting(m, before, f"{cycles} cycles")

    other = config(m, "other", 48)
    m.shell(f"xl create -p {good} & a=$!; xl create -p {other} & b=$!; wait $a && wait $b", 240)
    require({"good", "other"} <= set(domains(m)), f"two at once: {domains(m)}")
    m.shell("xl destroy good; xl destroy other", 120)
    lasting(m, before, "two at once")

    # xl dies in the middle; its successor ends what is left.
    for tenths in (3, 8, 15):
        m.shell(f"xl create -p {good} & a=$!; sleep {tenths / 10}; kill -9 $a; wait $a; true", 120, check=False)
        clean = "for d in $(xl list | awk 'NR > 1 && $2 > 0 {print $2}'); do xl destroy $d; done; true"
        m.shell(clean, 120)
        m.shell(f"xl create -p {good} && (xl destroy good & a=$!; sleep {tenths / 30:.2f}; kill -9 $a; wait $a; true)", 240, check=False)
        m.shell(clean, 120)
        require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    lasting(m, before, "kills")

    # A kernel without init panics at once, again and again.
    loops = config(m, "loops", 64, 'on_crash = "restart"\\n')
    m.shell(f"sed -i 's/console=hvc0/console=hvc0 rdinit=\\/no root=none panic=1/' {loops}; xl create {loops}", 180)
    first = domains(m)["loops"][0]
    until(m, f"[ $(xl domid loops 2> /dev/null || echo 0) -ge {first + 2} ]", "two restarts after crashes", 240)
    m.shell("until xl destroy loops 2> /dev/null; do sleep 0.2; done", 120)
    m.shell("sleep 2; xl destroy loops 2> /dev/null; true", 60)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")
    lasting(m, before, "crash loop")
    m.poweroff()


test("toolstack/robust", "toolstack debian", cost=150, limit=1200)(lambda t: robust(t, 2, 5))
test("toolstack/robust-100-cycles", "toolstack debian full", cost=600, limit=3600)(lambda t: robust(t, 4, 100))
