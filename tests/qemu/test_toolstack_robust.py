"""Debian's toolstack when things go wrong: errors, kills, crashes, many domains, little memory, xenstored that ends."""

import struct

from harness import TARGET, Failure, test
from test_dom0 import require
from test_toolstack import C_XENSTORED, XEN, config, create_fails, digest, domains, enter, expect_up, field, free, leave, refused, script, toolstack, until

DISK = 'acpi = 0\\ndisk = ["format=raw,vdev=xvda,access=rw,target=/root/domu.img"]\\n'
# Reasons of SCHEDOP_shutdown.
POWEROFF, REBOOT, CRASH, WATCHDOG = 0, 1, 3, 4
CONTENTS = "/local/domain/{0}"
BACKEND = "/local/domain/0/backend/vbd/{0}"
# (what is shown, what holds in its middle, what holds when that is over); {0} is the domain's number.
CREATES = [
    ("made, not built", f"xenstore-exists {CONTENTS}/name", f"xenstore-exists {CONTENTS}/store/ring-ref"),
    ("built, its disk not connected", f"xenstore-exists {BACKEND}", f"xenstore-exists {BACKEND}/51712/hotplug-status"),
]
DESTROYS = [
    ("its disk goes", f'[ "$(xenstore-read {BACKEND}/51712/state 2> /dev/null)" != 2 ]', f"! xenstore-exists {CONTENTS}"),
    ("gone from xenstore", f"! xenstore-exists {CONTENTS}", "false"),
]
# Runs a command by steps of some milliseconds until it is stopped where $1 holds; if $2 does not hold there,
# runs $3 then, and ends the command by signal $4. Status 3: it was not seen there. $outer is the first command so stopped.
MIDDLE = """
mark=$1 over=$2 meanwhile=$3 signal=$4; shift 4
[ -p /root/nap ] || mkfifo /root/nap
exec 9<> /root/nap
nap() { read -rt $1 -u 9; }
state() { s=Z; read -r _ _ s _ 2> /dev/null < /proc/$1/stat; }
setsid "$@" > /root/middle.log 2>&1 & a=$!
export outer=${outer:-$a}
while :; do
    kill -STOP $a 2> /dev/null
    state $a; while [ $s != T ]; do [ $s != Z ] || exit 3; state $a; done
    ! eval "$mark" || break
    kill -CONT $a
    nap 0.02
done
if eval "$over"; then r=3; else eval "$meanwhile"; r=$?; fi
kill -$signal $a
wait $a; echo ended=$?
exit $r
"""


def lasting(m, before, what):
    """Not a page may be lost for good."""
    for _ in range(20):
        if free(m) == before:
            return
        m.shell("sleep 1")
    raise Failure(f"{what}: {before - free(m)} KiB are lost")


def tiny(m, name, reason, more=""):
    """A domain of 8 MiB that ends at once for this reason, by SCHEDOP_shutdown (or hangs, with a watchdog timer of a second);
    writes its configuration and returns the path."""
    operation, argument = (6, [0, 1]) if reason == WATCHDOG else (2, [reason])
    code = [
        0xE3A0C01D,  # mov r12, #29       ; __HYPERVISOR_sched_op
        0xE3A00000 | operation,  # mov r0, #2     ; SCHEDOP_shutdown or SCHEDOP_watchdog
        0xE28F1004,  # adr r1, .+12       ; the last words
        0xE140EA71,  # hvc #0xea1
        0xEAFFFFFE,  # b .
        *argument,
    ]
    head = [0xEA00000A, *[0xE1A00000] * 8]  # b 0x30; nop
    image = struct.pack(f"<{len(head) + 3 + len(code)}I", *head, 0x016F2818, 0, 0x30 + 4 * len(code), *code)
    m.shell(f"printf '{''.join(f'{chr(92)}{byte:03o}' for byte in image)}' > /root/{name}.kernel")
    path = config(m, name, 8, more)
    m.shell(f"sed -i '/^ramdisk/d; /^extra/d; s/vmlinuz/{name}.kernel/' {path}")
    return path


def clean(m):
    """Ends what is left, as a person would."""
    m.shell("for d in $(xl list | awk 'NR > 1 && $2 > 0 {print $2}'); do xl destroy $d || exit 1; done", 120, check=False)
    until(m, "[ $(xl list | wc -l) = 2 ]", "no domain is left", 30)


def middle(m, place, number, command, meanwhile="true", signal="KILL"):
    """True if `command` was seen in the middle, and stopped there by the signal."""
    _, mark, over = (word.format(number) for word in place)
    status, text = m.shell(f"bash /root/middle '{mark}' '{over}' '{meanwhile}' {signal} {command}", 240, check=False)
    require(status in (0, 3), f"{command}, {place[0]}: {text}")
    if status == 0:
        require(("ended=137" if signal == "KILL" else "ended=0") in text, f"{command}, {place[0]}: {text}")
    return status == 0


def kills(m):
    """xl dies in the middle, where another process shows that it is; its successor ends what is left."""
    path = config(m, "middle", 64, DISK)
    script(m, "/root/middle", MIDDLE)
    for place in DESTROYS + CREATES:
        for _ in range(6):
            m.shell(f"xl create -p {path}", 180)
            number = domains(m)["middle"][0]
            if place in DESTROYS:
                hit = middle(m, place, number, "xl destroy middle")
            else:
                m.shell("xl destroy middle", 120)
                hit = middle(m, place, number + 1, f"xl create -p {path}", meanwhile=f"xl list {number + 1}")
            clean(m)
            if hit:
                break
        else:
            raise Failure(f"never seen in the middle: {place[0]}")
    until(m, "! losetup | grep -q domu.img", "the loop device is released")


def at_once(m, good):
    """Two xl create that are both in their middle; a create in the middle of a destroy."""
    other, path = config(m, "other", 48), config(m, "middle", 64, DISK)
    for _ in range(6):
        clean(m)
        m.shell(f"xl create -p {path}", 180)
        number = domains(m)["middle"][0]
        # The first goes on to its end while the second is stopped in its middle.
        _, mark, over = (word.format(number + 2) for word in CREATES[0])
        script(m, "/root/second", f"bash /root/middle '{mark}' '{over}' 'kill -CONT $outer; state $outer; while [ $s != Z ]; do nap 0.1; state $outer; done; true' CONT xl create -p {other}")
        if middle(m, CREATES[0], number + 1, f"xl create -p {good}", meanwhile="bash /root/second", signal="CONT"):
            break
    else:
        raise Failure("two at once: never both in the middle")
    require({"good", "other", "middle"} <= set(domains(m)), f"two at once: {domains(m)}")
    m.shell("xl destroy other && xl destroy good", 120)
    require(middle(m, DESTROYS[0], number, "xl destroy middle", meanwhile=f"xl create -p {good}", signal="CONT"), "not in the middle of the destroy")
    require(set(domains(m)) == {"Domain-0", "good"}, f"a create in the middle of a destroy: {domains(m)}")
    m.shell("xl destroy good", 120)


def ended(m, name):
    """Waits until xl, which looks after a domain, has acted on its end and is done."""
    until(m, f"! xl domid {name} 2> /dev/null", f"the end of {name}", 30)


def actions(m):
    """on_crash, on_poweroff and on_reboot: what becomes of a domain that ends."""
    log = "/var/log/xen/xl-{0}.log"
    for name, reason, more in (("off", POWEROFF, ""), ("again", REBOOT, 'on_reboot = "destroy"\\n'), ("crash", CRASH, 'on_crash = "destroy"\\n')):
        m.shell(f"xl create {tiny(m, name, reason, more)}", 60)
        ended(m, name)
        m.shell(f"grep 'shut down, reason code {reason} ' {log.format(name)} && grep 'Action for shutdown reason code {reason} is destroy' {log.format(name)}")
    for name, reason, event, state in (("kept", POWEROFF, "on_poweroff", "---s--"), ("keptcrash", CRASH, "on_crash", "---sc-")):
        m.shell(f"xl create {tiny(m, name, reason, f'{event} = {chr(34)}preserve{chr(34)}{chr(92)}n')}", 60)
        until(m, f"grep -q 'reason code {reason} is preserve' {log.format(name)}", f"{name}: xl's log")
        shown = domains(m)[name][3].replace("-", "")
        require(shown == state.replace("-", "") or reason == CRASH and shown == "c", f"{name}: {domains(m)}")
        refused(m, f"xl create -p {name}.cfg", "already exists")
        m.shell(f"xl destroy {name}", 60)
    for action in ("coredump-destroy", "coredump-restart"):
        m.shell("rm -f /var/lib/xen/dump/*")
        path = tiny(m, "dumped", CRASH, f'on_crash = "{action}"\\n')
        m.shell(f"xl create {path}", 60)
        number = domains(m).get("dumped", (0,))[0]
        if action == "coredump-destroy":
            ended(m, "dumped")
        else:
            until(m, f"[ $(xl domid dumped 2> /dev/null || echo 0) -gt {number} ]", "the restart after the dump", 60)
        # The first may still be written: xl list does not always show the domain meanwhile.
        first = "/var/lib/xen/dump/$(ls /var/lib/xen/dump | head -n 1)"
        until(m, f"[ -f {first} ] && [ $(stat -c %s {first}) -ge {8 << 20} ]", f"the dump of {action}", 60)
        name, size = m.shell("cd /var/lib/xen/dump && stat -c '%n %s' * | head -n 1; cd /root").split()
        require("dumped" in name and 8 << 20 <= int(size) <= 10 << 20, f"the dump of {action}: {name}, {size} bytes")
        require("ELF" in m.shell(f"head -c 4 /var/lib/xen/dump/{name}"), f"{action}: no ELF file")
        stop_loop(m, "dumped")
    m.shell("rm -f /var/lib/xen/dump/*")


def stop_loop(m, name):
    """Ends a domain that xl restarts again and again: with the xl that does it."""
    m.shell(f"for p in $(ps | awk '/[x]l create .*{name}[.]cfg/ {{print $1}}'); do kill -9 $p || exit 1; done", 60, check=False)
    clean(m)


def crash_loop(m):
    """A domain that crashes at once and is restarted, again and again."""
    m.shell(f"xl create {tiny(m, 'loops', CRASH, 'on_crash = {0}restart{0}{1}n'.format(chr(34), chr(92)))}", 60)
    first = domains(m).get("loops", (0,))[0]
    until(m, f"[ $(xl domid loops 2> /dev/null || echo 0) -ge {first + 4} ]", "four restarts after crashes", 120)
    require(int(m.shell("grep -c 'reason code 3 is restart' /var/log/xen/xl-loops.log")) >= 4, "xl's log of the loop")
    stop_loop(m, "loops")


def errors(m, good):
    """Creates that cannot be, and one that can."""
    create_fails(m, "bad.cfg", "no loader found: Invalid kernel")
    create_fails(m, "big.cfg", "xc_dom_boot_mem_init failed: Cannot allocate memory")
    create_fails(m, "none.cfg", "failed to open file '/root/nosuch': No such file or directory")
    create_fails(m, "nodisk.cfg", "/dev/nosuch")
    m.shell(f"xl create -p {good}", 180)
    create_fails(m, f"-p {good}", 'Domain with name "good" already exists')
    require(list(domains(m)) == ["Domain-0", "good"], f"after the same name twice: {domains(m)}")
    m.shell("xl destroy good", 120)
    require(list(domains(m)) == ["Domain-0"], f"left over: {domains(m)}")


def robust(t, smp, cycles, **how):
    """Errors, kills in the middle, crash loops and many cycles leave nothing behind."""
    m = toolstack(t, smp, **how)
    good = config(m, "good")
    m.shell("head -c 100000 /dev/urandom > /root/rubbish", 60)
    m.shell("sed 's/vmlinuz/rubbish/; s/good/bad/' good.cfg > bad.cfg && sed 's/memory = 64/memory = 4096/; s/good/big/' good.cfg > big.cfg && "
            "sed 's/domu.cpio.gz/nosuch/; s/good/none/' good.cfg > none.cfg")
    config(m, "nodisk", 64, 'disk = ["phy:/dev/nosuch,xvda,w"]\\n')
    # First everything once: much is touched for the first time.
    m.shell(f"xl create -p {config(m, 'disk', 64, DISK)} && xl destroy disk", 180)
    errors(m, good)
    before = free(m)
    errors(m, good)
    lasting(m, before, "errors")

    loop = f"n=0; while [ $n -lt {cycles} ]; do xl create -p {good} > /dev/null && xl destroy good || break; n=$((n+1)); done; echo cycles=$n"
    require(f"cycles={cycles}\n" in m.shell(f"( {loop} )", 60 + cycles * 30), "a create or a destroy failed")
    lasting(m, before, f"{cycles} cycles")
    kills(m)
    lasting(m, before, "kills")
    at_once(m, good)
    lasting(m, before, "two at once")
    actions(m)
    crash_loop(m)
    lasting(m, before, "ends and crashes")
    m.poweroff()


test("toolstack/robust", "toolstack debian", cost=150, limit=1200)(lambda t: robust(t, 2, 3, suite="trixie"))
test("toolstack/robust-6.1", "toolstack debian full", cost=150, limit=1200)(lambda t: robust(t, 1, 3, words=C_XENSTORED))
test("toolstack/robust-100-cycles", "toolstack debian full", cost=600, limit=3600)(lambda t: robust(t, 4, 100))


@test("toolstack/own-guests", "toolstack debian full", cost=90, limit=600)
def own_guests(t):
    """A watchdog's domain ends with that reason. A domain that maps grants crashes, another is destroyed: the granter has its
    grants back each time. The granter is destroyed: its pages stay with who maps them, until that lets them go."""
    # xl puts a kernel at the 32nd KiB of RAM and starts it there; our guests want a whole MiB, so a jump comes first.
    kernel = (TARGET / "images/guest-pair.zImage").read_bytes()
    size = 0x1f8000 + len(kernel)
    jump = [0xEA00000A, *[0xE1A00000] * 8, 0x016F2818, 0, size, 0xE51FF004, 0x40200000]  # ...; ldr pc, [pc, #-4]
    image = struct.pack(f"<{len(jump)}I", *jump).ljust(0x1f8000, b"\0") + kernel
    disk = t.file("pair.img", image.ljust((size + 511) // 512 * 512, b"\0"))
    m = t.debian("--toolstack", "--smp", 2, "--mem", "1G", "--xen-cmdline", XEN + " xsm=dummy", "--disk", disk, allow=[r"Domain \d+ crash"])
    m.login(300)
    m.shell(f"xl create {tiny(m, 'bitten', WATCHDOG, 'on_watchdog = {0}destroy{0}{1}n'.format(chr(34), chr(92)))}", 60)
    ended(m, "bitten")
    m.shell("grep 'shut down, reason code 4 ' /var/log/xen/xl-bitten.log")
    require("Watchdog timer fired for domain" in m.text, "the hypervisor's line about the watchdog")

    m.shell(f"head -c {size} /dev/vda > /root/pair.kernel")
    m.shell("p=$(pidof xenconsoled); d=$(readlink /proc/$p/exe); kill $p; sleep 1; $d --log=guest --log-dir=/tmp", 30)

    # The second time finds dom0's tables and the hypervisor's heap as large as they get.
    grants_of_the_dead(m)
    before = free(m)
    grants_of_the_dead(m)
    lasting(m, before, "grants of the dead")
    m.poweroff()


def grants_of_the_dead(m):
    """A domain that grants, three that map, one after the other."""
    def create(name, extra):
        path = config(m, name, 16, 'on_crash = "destroy"\\nvuart = "sbsa_uart"\\n')
        m.shell(f"sed -i '/^ramdisk/d; /^extra/d; s/vmlinuz/pair.kernel/' {path} && echo 'extra = \"{extra}\"' >> {path}")
        m.shell(f"xl create {path}", 120)

    def says(name, line):
        # Such a domain may not write to the hypervisor's console. Numbers of domains make lines unique.
        log = f"/tmp/guest-{name}*.log"
        until(m, f"grep -qs -e 'pair-{line}' -e PANIC {log}", f"{name}: {line}", 30)
        require("PANIC" not in (text := m.shell(f"cat {log}")), f"{line}: {text}")

    m.shell(f"xl create -p {config(m, 'number', 16)}", 120)
    granter = domains(m)["number"][0] + 1
    m.shell("xl destroy number", 60)
    create("granter", f"peer={granter + 1}")
    for number, ending in enumerate(("crashes", "stays", "outlives"), granter + 1):
        says("granter", f"a: grants to {number}")
        create(ending, f"peer={granter} me={number} pair={ending}")
        says(ending, f"b: {number} has all")
        says("granter", f"a: {number} has all")
        if ending != "outlives":
            m.shell("xl destroy stays" if ending == "stays" else "true", 60)
            ended(m, ending)
            says("granter", f"a: {number} is gone")
    m.shell("xl destroy granter", 60)
    says("outlives", f"b: {number} has outlived {granter}")
    require("(null)" in domains(m), f"the granter is gone while its pages are mapped: {domains(m)}")
    says("outlives", f"b: {number} has unmapped all")
    until(m, "[ $(xl list | wc -l) = 3 ]", "the end of the granter", 30)
    m.shell("xl destroy outlives", 60)


@test("toolstack/twenty", "toolstack debian full", cost=400, limit=3000)
def twenty(t):
    """Twenty Linux domains at once; all shut down."""
    m = toolstack(t, 2, mem="2G")
    paths = [config(m, f"d{n}", 64) for n in range(21)]
    m.shell(f"xl create {paths[20]}", 120)
    expect_up(m, "d20", ".*")
    m.shell("xl shutdown -w d20", 120)
    until(m, "[ $(xl list | wc -l) = 2 ]", "the end of the first")
    # The hypervisor's heap grows with the number of domains, and keeps what it has: so many have been there before.
    for path in paths[:20]:
        m.shell(f"xl create -p {path}", 240)
    m.shell("for d in $(xl list | awk 'NR > 2 {print $1}'); do xl destroy $d || exit 1; done", 240)
    before = free(m)
    for path in paths[:20]:
        m.shell(f"xl create {path}", 240)
    for n in range(20):
        expect_up(m, f"d{n}", ".*", seconds=400)
    found = domains(m)
    require(len(found) == 21 and len({row[0] for row in found.values()}) == 21, f"xl list: {found}")
    # Each answers by itself.
    for n in (0, 7, 19):
        enter(m, f"d{n}")
        m.shell("dd if=/dev/urandom bs=64k count=16 | sha256sum", 120)
        leave(m)
    # Without -w: with so many Debian's xl frees something twice when it hears of several ends at a time.
    m.shell("xl shutdown -a", 300)
    until(m, "[ $(xl list | wc -l) = 2 ]", "the end of all", 240)
    lasting(m, before, "twenty domains")
    m.poweroff()


@test("toolstack/little-memory", "toolstack debian full", cost=150, limit=1500)
def little_memory(t):
    """dom0 gives back memory while it has hardly any left, and a domU balloons at the same time; what both hold stays."""
    m = toolstack(t, 2)
    one = config(m, "one", 128, "acpi = 0\\n")
    m.shell(f"xl create {one}", 120)
    expect_up(m, "one", ".*")
    target = "/sys/devices/system/xen_memory/xen_memory0/target_kb"
    whole = int(m.shell(f"cat {target}"))
    available = "awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo"
    # All but 150 MiB is filled.
    m.shell(f"mount -t tmpfs -o size=90% tmpfs /mnt && dd if=/dev/urandom of=/mnt/fill bs=1M count=$(( $({available}) - 150 ))", 300)
    filled = digest(m.shell("sha256sum /mnt/fill", 120))
    enter(m, "one")
    m.shell("dd if=/dev/urandom of=/tmp/fill bs=64k count=256", 120)
    inside = digest(m.shell("sha256sum /tmp/fill", 60))
    # Back to the prompt, which enter() waits for the next time.
    m.send("break\n")
    m.expect(r"domu# ", 60)
    leave(m)
    unused = int(field(m, "xl info", "free_memory", 3)[0])
    for _ in range(3):
        m.shell(f"echo {whole - (96 << 10)} > {target}")
        m.shell("xl mem-set one 96", 60)
        until(m, f"[ $({available}) -lt 70 ]", "dom0 has hardly any memory left", 60)
        until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 96 ]", "the domU has ballooned down")
        # dom0's memory is mapped one to one and stays its own; the domU's is free.
        require(30 <= int(field(m, "xl info", "free_memory", 3)[0]) - unused <= 34 + 96, "free memory")
        require(digest(m.shell("sha256sum /mnt/fill", 120)) == filled, "dom0 lost what it held")
        m.shell(f"xl create -p {config(m, 'two', 16)} && xl destroy two", 180)
        m.shell(f"echo {whole} > {target} && xl mem-set one 128", 60)
        until(m, f"[ $({available}) -gt 110 ]", "dom0 has its memory back", 60)
        until(m, "[ $(xl list one | awk '$1 == \"one\" {print $3}') = 128 ]", "the domU has its memory back")
        require(int(field(m, "xl info", "free_memory", 3)[0]) == unused, "free memory is another afterwards")
    require(digest(m.shell("sha256sum /mnt/fill", 120)) == filled, "dom0 lost what it held")
    enter(m, "one")
    require(digest(m.shell("sha256sum /tmp/fill", 60)) == inside, "the domU lost what it held")
    leave(m)
    m.shell("xl shutdown -w one", 120)
    m.poweroff()


def xenstored(t, program, words):
    """A new xenstored takes over from the old one while domains run; one that dies takes what it knew of them with it."""
    m = toolstack(t, 2, words=words)
    one = config(m, "one", 96, DISK)
    m.shell(f"xl create {one}", 120)
    expect_up(m, "one", ".*")
    path = f"/usr/lib/xen-4.17/bin/{program}"
    m.shell(f"/usr/lib/xen-4.17/bin/xenstore-control live-update -t 10 {path}", 90)
    m.shell(f"pidof {program} && xl list one && truncate -s 8M more.img && xl block-attach one file:/root/more.img,xvdb,w", 60)
    until(m, "xl block-list one | grep -q '^51728 *0 *[0-9]* *4 '", "a disk that comes after the update")
    m.shell("xl block-detach one xvdb && xl shutdown -w one", 120)
    until(m, "[ $(xl list | wc -l) = 2 ]", "the end of the domain")

    number = int(m.shell(f"xl create {config(m, 'plain', 64)} && xl domid plain", 120).splitlines()[-1])
    expect_up(m, "plain", ".*")
    m.shell(f"kill -9 $(pidof {program}) && sleep 1", 30)
    status, _ = m.shell("timeout 10 xl list", 60, check=False)
    require(status == 124, f"xl list without xenstored: status {status}")
    # The init script starts it only when there is none; it knows no domain of before.
    m.shell("/etc/init.d/xen start", 90)
    require(domains(m)["(null)"][0] == number, f"after the restart: {domains(m)}")
    ran = float(m.shell(f"xl list | awk '$2 == {number} {{print $6}}'"))
    until(m, f"xl list | awk '$2 == {number} && $6 > {ran} {{found = 1}} END {{exit !found}}'", "the domain runs on", 120)
    pid = m.shell(f"pidof {program}")
    m.shell("/etc/init.d/xen start", 90)
    require(m.shell(f"pidof {program}") == pid, "a second start replaced it")
    # xenconsoled, which nobody told, has its console mapped: a new one has not.
    m.shell(f"xl destroy {number} && /etc/init.d/xen restart", 120)
    until(m, f"! xl list {number} 2> /dev/null", "the nameless domain is gone", 30)
    m.shell(f"xl create -p {config(m, 'new', 64)} && xl destroy new", 120)
    m.poweroff()


test("toolstack/xenstored-c", "toolstack debian full", cost=90, limit=900)(lambda t: xenstored(t, "xenstored", C_XENSTORED))
test("toolstack/xenstored-ocaml", "toolstack debian full", cost=90, limit=900)(lambda t: xenstored(t, "oxenstored", ""))
