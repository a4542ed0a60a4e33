"""The words that the tests wait for: the one place to edit when a message changes.

Patterns are loose on purpose: they name what a reader must find in a message
(the cause, and the option or property to change), not its wording.
"""

# --- what ends any test at once, unless the test expects it -------------------
FORBIDDEN = [
    r"\(XEN\).*[Pp]anic",
    r"\(XEN\).*panicked",
    r"\(XEN\).*Assertion .* failed",
    r"\(XEN\).*BUG at",
    r"\(XEN\).*(unexpected|Unexpected|Unhandled) (hypervisor )?(trap|abort|exception)",
    r"\(XEN\).*[Cc]rash",
    r"Kernel panic",
    r"\bBUG: ",
    r"Internal error: ",
    r"\bOops\b",
    r"Unable to handle kernel",
    r"Unhandled (fault|prefetch abort|exception)",
    r"rcu.*(self-detected stall|detected stalls)",
    r"watchdog: .*lockup",
    r"irq \d+: nobody cared",
    r"---\[ cut here \]---",
]

# --- the way up --------------------------------------------------------------
BANNER = r"(?i)\(XEN\).*\bxen\w*( hypervisor)? version \S+"
DOM0_UP = r"XENITH-DOM0-UP hypervisor=(\S+) uptime=([\d.]+) (.*)\n"
PROMPT = r"dom0# "
POWER_DOWN = r"reboot: Power down"
# The notice that the keyboard is the hypervisor's, or dom0's again.
INPUT_TO_XEN = r"(?i)\(XEN\) .*serial input to xen"
INPUT_TO_DOM0 = r"(?i)\(XEN\) .*serial input to dom0"

# --- debug keys: key, what its output must contain ----------------------------
KEYS = [
    ("h", r"(?i)\(XEN\).*'h'(.|\n)*\(XEN\).*'q'"),
    ("q", r"(?i)\(XEN\).*(General information for domain 0|domain 0)"),
    ("d", r"(?i)\(XEN\).*(registers|PC:)"),
    ("r", r"(?i)\(XEN\).*(scheduler|runq|run queue)"),
    ("m", r"(?i)\(XEN\).*(memory|heap|pages)"),
]

# --- bad input: name -> what must stand in the messages -----------------------
# All of the patterns must be found. The second element says how it ends:
# "reset" - the machine restarts by itself; "any" - a message is all there is.
BAD = {
    "no-vfp": ([r"no floating-point unit", r"VFP and NEON"], "any"),
    "vfp-d16": ([r"32 doubleword registers", r"NEON"], "any"),
    "dtb-truncated": ([r"(?i)device tree|DTB|FDT", r"(?i)truncated|size|bytes|length|short|corrupt|damaged"], "any"),
    "dtb-bad-magic": ([r"(?i)device tree|DTB|FDT", r"(?i)magic|d00dfeed|not a|no usable"], "any"),
    "dtb-corrupt": ([r"(?i)device tree|DTB|FDT", r"(?i)corrupt|invalid|malformed|token|structure|bad|damaged"], "any"),
    "dtb-oversized": ([r"(?i)device tree|DTB|FDT", r"(?i)2 ?MiB|2097152|too (big|large|long)|larger|limit"], "any"),
    "module-no-reg": ([r"(?i)module", r"\breg\b"], "reset"),
    "module-overlap": ([r"(?i)module", r"(?i)overlap"], "reset"),
    "module-outside-ram": ([r"(?i)module", r"(?i)outside|not in|no (memory|RAM)|memory bank"], "reset"),
    "no-kernel": ([r"(?i)kernel", r"(?i)no |missing|not found|multiboot,kernel"], "reset"),
    "kernel-not-zimage": ([r"(?i)kernel", r"(?i)zImage|format|magic"], "reset"),
    "dom0-mem-too-large": ([r"dom0_mem"], "reset"),
    "dom0-mem-zero": ([r"dom0_mem"], "reset"),
    "no-gich": ([r"(?i)gic", r"(?i)virtuali[sz]ation|GICH|hypervisor|vcpu|\breg\b"], "any"),
    "virtualization-off": ([r"(?i)virtuali[sz]ation ext|hyp mode|EL2", r"virtualization=on|(?i:firmware|boot loader)"], "any"),
    "cortex-a9": ([r"(?i)virtuali[sz]ation"], "any"),
}
# With noreboot a fatal error stops instead of restarting, and says so.
NOREBOOT = r"(?i)\(XEN\).*(noreboot|manual reset)"
