# shellcheck shell=bash
# What the scripts share: where things are, how they speak and how they fail.
# Sourced, never run. Everything a script says goes to standard error, so that
# standard output stays free for what the caller asked for.

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
me=scripts/$(basename "$0")
target_dir=${CARGO_TARGET_DIR:-$top/target}
images=$target_dir/images
# Downloads and what is unpacked from them: outside the tree, shared by all
# working copies.
cache=${XENITH_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/xenith}

say() { printf '%s\n' "$*" >&2; }
step() { printf -- '--> %s\n' "$*" >&2; }
# die CAUSE [REMEDY]: ends the script with a message.
die() {
	printf '%s: error: %s\n' "$me" "$1" >&2
	[ -z "${2:-}" ] || printf '%s:   try: %s\n' "$me" "$2" >&2
	exit 1
}
# bad_usage CAUSE: a mistake on the command line.
bad_usage() {
	printf '%s: error: %s\n%s:   try: %s --help\n' "$me" "$1" "$me" "$me" >&2
	exit 2
}
# usage: prints the comment at the head of the script as its help.
usage() { awk 'NR==1{next} /^#/{sub(/^# ?/, ""); print; next} {exit}' "$0"; }
# need TOOL...: ends with a remedy when a program is missing.
need() {
	local t
	for t; do
		command -v "$t" >/dev/null 2>&1 || die "the program '$t' is not installed" "scripts/setup"
	done
}
# kib FILE: its size for people.
kib() { awk -v b="$(stat -Lc %s "$1")" 'BEGIN{printf "%.1f KiB (%d bytes)", b/1024, b}'; }
# mib SIZE: 512, 512M or 2G as a number of MiB.
mib() {
	case "$1" in
	*[!0-9MmGg]* | "" | [!0-9]*) return 1 ;;
	*[Gg]) echo $((${1%?} * 1024)) ;;
	*[Mm]) echo "${1%?}" ;;
	*) echo "$1" ;;
	esac
}
# Debian puts cargo nowhere; rustup puts it here, often not yet in PATH.
case ":$PATH:" in
*":${CARGO_HOME:-$HOME/.cargo}/bin:"*) ;;
*) PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin ;;
esac
# depmod, modinfo and others of Debian live in sbin, which a user's PATH lacks.
PATH=$PATH:/usr/sbin:/sbin
export PATH
# llvm_tool NAME: the path of a program of rustup's llvm-tools component.
llvm_tool() {
	local root path
	root=$(cd "$top" && rustc --print sysroot) || die "rustc does not run here" "scripts/setup"
	for path in "$root"/lib/rustlib/*/bin/"$1"; do
		[ -x "$path" ] && { echo "$path"; return 0; }
	done
	die "$1 is missing: the rustup component 'llvm-tools' is not installed" "scripts/setup"
}
# guests ARCH: our own guests that there are for it. The UART's is of the bare
# 32-bit machine; the hostile one is instructions of AArch32 throughout.
guests() {
	case "$1" in
	arm32) echo demo bench hostile pair torture uart ;;
	*) echo demo bench pair torture ;;
	esac
}
# zimage ELF OUT: writes the raw image of an ELF file. The header of a zImage or
# of an arm64 Image is the first bytes of the code, so nothing is added; it is
# only checked.
zimage() {
	local at magic found
	case "$2" in
	*.Image) at=56 magic=644d5241 ;;
	*) at=36 magic=016f2818 ;;
	esac
	"$(llvm_tool llvm-objcopy)" -O binary "$1" "$2.tmp" || die "llvm-objcopy failed on $1"
	found=$(od -An -tx4 -j$at -N4 "$2.tmp" | tr -d ' ')
	if [ "$found" != $magic ]; then
		rm -f "$2.tmp"
		die "$1 does not begin with the header of ${2##*.} (found ${found:-nothing} at offset $at, not $magic)" \
			"check that the linker script places the header first"
	fi
	mv "$2.tmp" "$2"
}
