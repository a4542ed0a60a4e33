#!/usr/bin/env python3
"""Writes encodings.rs: instructions as arm-linux-gnueabihf-as encodes them, and what the decoder must say of each.

Run in this directory; needs binutils for arm-linux-gnueabihf. The expectation is made from the same description as the
assembler text, never from the encoding.
"""

import random
import re
import subprocess
import tempfile

random.seed(20260101)
cases = {"arm": [], "thumb": []}  # (text, expectation)
SIZES = {"": "Word", "b": "Byte", "h": "Half", "sb": "Byte", "sh": "Half"}


def instruction(load, transfer, rn, offset, add, index, writeback, wide):
    return "ok(%s, %s, %d, %s, %s, %s, %s, %s)" % (
        "Load" if load else "Store", transfer, rn, offset, "UP" if add else "DOWN", "INDEX" if index else "POST",
        writeback, wide)


def single(load, size, rt):
    return "one(%d, %s, %s)" % (rt, SIZES[size], "SIGNED" if size.startswith("s") else "PLAIN")


def imm(value):
    return "imm(%d)" % value


def reg(rm, shift="Lsl(0)"):
    return "reg(%d, %s)" % (rm, shift)


def forms(rn, text, offset, add):
    """The three indexed forms: (operand text, rn, offset, add, index, writeback)."""
    sign = "" if add else "-"
    operand = sign + text if not text.startswith("#") else "#" + sign + text[1:]
    yield "[r%d, %s]" % (rn, operand), rn, offset, add, True, "None"
    yield "[r%d, %s]!" % (rn, operand), rn, offset, add, True, "Offset"
    yield "[r%d], %s" % (rn, operand), rn, offset, add, False, "Offset"


def case(mode, text, expected):
    cases[mode].append((text, expected))


def three(limit=12):
    return random.sample(range(limit), 3)


def singles(mode):
    wide = ".w" if mode == "thumb" else ""
    for load, size in [(l, s) for l in (True, False) for s in SIZES if l or not s.startswith("s")]:
        name = ("ldr" if load else "str") + size
        extra = size not in ("", "b")  # A32 halfword and signed forms: 8-bit immediate, plain register.
        for add in (True, False):
            rt, rn, rm = three()
            limit = 255 if (mode == "thumb" or extra) else 4095
            for value in (1, 4, limit):
                for f in forms(rn, "#%d" % value, imm(value), add):
                    case(mode, "%s %s, %s" % (name + (wide if f[5] == "None" else ""), "r%d" % rt, f[0]),
                         instruction(load, single(load, size, rt), f[1], f[2], f[3], f[4], f[5], "WIDE"))
            if mode == "arm":
                for f in forms(rn, "r%d" % rm, reg(rm), add):
                    case(mode, "%s r%d, %s" % (name, rt, f[0]),
                         instruction(load, single(load, size, rt), f[1], f[2], f[3], f[4], f[5], "WIDE"))
                if not extra:
                    for text, shift in [("lsl #5", "Lsl(5)"), ("lsr #32", "Lsr(32)"), ("lsr #3", "Lsr(3)"),
                                        ("asr #32", "Asr(32)"), ("asr #31", "Asr(31)"), ("ror #7", "Ror(7)"),
                                        ("rrx", "Rrx")]:
                        for f in forms(rn, "r%d, %s" % (rm, text), reg(rm, shift), add):
                            case(mode, "%s r%d, %s" % (name, rt, f[0]),
                                 instruction(load, single(load, size, rt), f[1], f[2], f[3], f[4], f[5], "WIDE"))
                # Unprivileged, always post-indexed.
                value = 12
                case(mode, "%st r%d, [r%d], #%s%d" % (name, rt, rn, "" if add else "-", value),
                     instruction(load, single(load, size, rt), rn, imm(value), add, False, "Offset", "WIDE"))
        rt, rn, rm = three()
        if mode == "thumb":
            for value in (0, 256, 4095):
                case(mode, "%s.w r%d, [r%d, #%d]" % (name, rt, rn, value),
                     instruction(load, single(load, size, rt), rn, imm(value), True, True, "None", "WIDE"))
            for shift in range(4):
                case(mode, "%s.w r%d, [r%d, r%d, lsl #%d]" % (name, rt, rn, rm, shift),
                     instruction(load, single(load, size, rt), rn, reg(rm, "Lsl(%d)" % shift), True, True,
                                 "None", "WIDE"))
            case(mode, "%st r%d, [r%d, #8]" % (name, rt, rn),
                 instruction(load, single(load, size, rt), rn, imm(8), True, True, "None", "WIDE"))
        if load:
            for value in (-20, 36):
                case(mode, "%s%s r%d, [pc, #%d]" % (name, wide, rt, value),
                     instruction(load, single(load, size, rt), 15, imm(abs(value)), value >= 0, True,
                                 "None", "WIDE"))
    case(mode, "ldr%s sp, [r1, #4]" % wide,
         instruction(True, single(True, "", 13), 1, imm(4), True, True, "None", "WIDE"))
    case(mode, "str%s lr, [sp, #-8]!" % "",
         instruction(False, single(False, "", 14), 13, imm(8), False, True, "Offset", "WIDE"))


def thumb16():
    for load, size in [(l, s) for l in (True, False) for s in SIZES if l or not s.startswith("s")]:
        name = ("ldr" if load else "str") + size
        rt, rn, rm = three(8)
        case("thumb", "%s.n r%d, [r%d, r%d]" % (name, rt, rn, rm),
             instruction(load, single(load, size, rt), rn, reg(rm), True, True, "None", "NARROW"))
        if size in ("", "b", "h"):
            scale = {"": 4, "b": 1, "h": 2}[size]
            for value in (0, 1, 31):
                case("thumb", "%s.n r%d, [r%d, #%d]" % (name, rt, rn, value * scale),
                     instruction(load, single(load, size, rt), rn, imm(value * scale), True, True, "None",
                                 "NARROW"))
        if size == "":
            for value in (0, 4, 1020):
                case("thumb", "%s.n r%d, [sp, #%d]" % (name, rt, value),
                     instruction(load, single(load, size, rt), 13, imm(value), True, True, "None", "NARROW"))
    case("thumb", "ldr.n r3, [pc, #64]",
         instruction(True, single(True, "", 3), 15, imm(64), True, True, "None", "NARROW"))


def duals(mode):
    for load in (True, False):
        name = "ldrd" if load else "strd"
        for add in (True, False):
            rt, rn, rm = (4, 9, 7) if mode == "arm" else (3, 9, 7)
            rt2 = rt + 1 if mode == "arm" else 11
            offsets = [("#%d" % v, imm(v)) for v in ((1, 255) if mode == "arm" else (4, 1020))]
            if mode == "arm":
                offsets.append(("r7", reg(rm)))
            for text, offset in offsets:
                for f in forms(rn, text, offset, add):
                    case(mode, "%s r%d, r%d, %s" % (name, rt, rt2, f[0]),
                         instruction(load, "two(%d, %d)" % (rt, rt2), f[1], f[2], f[3], f[4],
                                     f[5], "WIDE"))
    case(mode, "ldrd r2, r3, [pc, #16]",
         instruction(True, "two(2, 3)", 15, imm(16), True, True, "None", "WIDE"))


def multiples(mode):
    modes = {"ia": (0, 1), "ib": (4, 1), "da": (None, -1), "db": (None, -1)}
    if mode == "thumb":
        del modes["ib"], modes["da"]
    for load in (True, False):
        for suffix, (low, sign) in modes.items():
            for writeback in (True, False):
                for registers in ([1, 2], [0, 3, 4, 8, 14], list(range(0, 9)) + [12]):
                    size = 4 * len(registers)
                    lowest = low if low is not None else (4 - size if suffix == "da" else -size)
                    by = "By(%d)" % (sign * size) if writeback else "None"
                    text = "%s%s%s r10%s, {%s}" % (
                        "ldm" if load else "stm", suffix, ".w" if mode == "thumb" else "", "!" if writeback else "",
                        ", ".join("r%d" % r for r in registers))
                    mask = sum(1 << r for r in registers)
                    case(mode, text, instruction(load, "many(%#x)" % mask, 10, imm(abs(lowest)),
                                                 lowest >= 0, True, by, "WIDE"))
    if mode == "thumb":
        for text, load, rn, mask, lowest, by in [
            ("stmia r2!, {r0, r3, r5}", False, 2, 0x29, 0, 12),
            ("ldmia r2!, {r0, r3, r5}", True, 2, 0x29, 0, 12),
            ("ldmia r2, {r0, r2, r5}", True, 2, 0x25, 0, None),
            ("push {r0, r7}", False, 13, 0x81, -8, -8),
            ("push {r4, lr}", False, 13, 0x4010, -8, -8),
            ("pop {r0, r7}", True, 13, 0x81, 0, 8),
        ]:
            writeback = "None" if by is None else "By(%d)" % by
            case("thumb", text, instruction(load, "many(%#x)" % mask, rn, imm(abs(lowest)), lowest >= 0,
                                            True, writeback, "NARROW"))


def refused():
    both = [
        ("ldrex r0, [r1]", "Exclusive"), ("strex r2, r0, [r1]", "Exclusive"), ("ldrexb r0, [r1]", "Exclusive"),
        ("strexh r2, r0, [r1]", "Exclusive"), ("ldrexd r2, r3, [r1]", "Exclusive"),
        ("strexd r6, r2, r3, [r1]", "Exclusive"),
        ("vldr d0, [r1]", "Coprocessor"), ("vstr s3, [r1, #4]", "Coprocessor"), ("vldmia r1!, {d0-d3}", "Coprocessor"),
        ("vld1.8 {d0}, [r1]", "Coprocessor"), ("vst2.16 {d0, d1}, [r1]!", "Coprocessor"),
        ("ldc p14, c5, [r1], #4", "Coprocessor"), ("stc p14, c5, [r1]", "Coprocessor"),
        ("ldr pc, [r1]", "ProgramCounter"), ("ldm r1, {r0, pc}", "ProgramCounter"),
        ("rfeia r1", "UserBank"), ("srsdb sp!, #19", "UserBank"),
        ("pld [r1]", "NotLoadStore"), ("pli [r1]", "NotLoadStore"), ("mov r8, r9", "NotLoadStore"),
        ("mul r8, r9, r10", "NotLoadStore"), ("mcr p15, 0, r0, c1, c0, 0", "NotLoadStore"), ("b .", "NotLoadStore"),
        ("ubfx r0, r1, #3, #5", "NotLoadStore"), ("hvc #0", "NotLoadStore"), ("smlal r0, r1, r2, r3", "NotLoadStore"),
    ]
    for mode in ("arm", "thumb"):
        for text, reason in both:
            case(mode, text, "no(%s)" % reason)
    case("arm", "swp r0, r1, [r2]", "no(Swap)")
    case("arm", "swpb r0, r1, [r2]", "no(Swap)")
    case("arm", "ldm r1, {r0, r13}^", "no(UserBank)")
    case("arm", "stm r1, {r0, r14}^", "no(UserBank)")
    case("thumb", "pop {r1, pc}", "no(ProgramCounter)")
    case("thumb", "tbb [r1, r2]", "no(Exclusive)")
    case("thumb", "movs r0, #1", "no(NotLoadStore)")
    case("thumb", "cbz r0, .+8", "no(NotLoadStore)")
    case("thumb", "bkpt #1", "no(NotLoadStore)")


def assemble(mode):
    source = ".syntax unified\n.arch armv7-a\n.arch_extension virt\n.arch_extension mp\n.fpu neon\n.%s\n" % mode
    for number, (text, _) in enumerate(cases[mode]):
        source += "case_%d: %s\n" % (number, text)
    with tempfile.TemporaryDirectory() as folder:
        with open(folder + "/a.s", "w", encoding="ascii") as file:
            file.write(source)
        subprocess.run(["arm-linux-gnueabihf-as", "-o", folder + "/a.o", folder + "/a.s"], check=True,
                       stderr=subprocess.DEVNULL)
        symbols = subprocess.run(["arm-linux-gnueabihf-nm", folder + "/a.o"], check=True, capture_output=True,
                                 text=True).stdout
        subprocess.run(["arm-linux-gnueabihf-objcopy", "-O", "binary", "-j", ".text", folder + "/a.o", folder + "/a"],
                       check=True)
        with open(folder + "/a", "rb") as file:
            code = file.read()
    starts = sorted((int(value, 16) & ~1, int(number)) for value, number in
                    re.findall(r"([0-9a-f]{8}) . case_(\d+)", symbols))
    result = []
    for index, (start, number) in enumerate(starts):
        end = starts[index + 1][0] if index + 1 < len(starts) else len(code)
        data = code[start:end]
        if mode == "arm":
            word = int.from_bytes(data[:4], "little")
        else:
            first = int.from_bytes(data[:2], "little")
            word = first << 16 | int.from_bytes(data[2:4], "little") if first >> 11 >= 0x1D else first
        text, expected = cases[mode][number]
        result.append('    (%#010x, "%s", %s),\n' % (word, text, expected))
    return "".join(result)


for m in ("arm", "thumb"):
    singles(m)
    duals(m)
    multiples(m)
thumb16()
refused()
with open("encodings.rs", "w", encoding="ascii") as out:
    out.write("// Written by make_encodings.py; do not edit. Thumb: the first halfword on top when there are two.\n")
    for m in ("arm", "thumb"):
        out.write("#[rustfmt::skip]\npub const %s: &[Case] = &[\n%s];\n" % (m.upper(), assemble(m)))
