//! The table of docs/boards.md.

use std::path::Path;

use xenith_boot::fdt::host::{self, ConsoleUart, HostCpu, HostInfo};
use xenith_boot::fdt::tree::Tree;
use xenith_platforms::uart::Family;
use xenith_platforms::{BoardIo, Lookup, RegisterIo, Registers, detect};

/// A line of the table.
pub struct Row {
    pub name: String,
    pub model: String,
    pub soc: String,
    /// The driver and where it was found.
    pub console: Option<String>,
    pub cpus: String,
    pub ram_is_given: bool,
    pub in_qemu: bool,
}

const BEGIN: &str = "<!-- The table is made by: XENITH_BOARDS=update scripts/test boards -->\n";

/// Names the driver of the console.
pub fn console(uart: Option<&ConsoleUart<'_>>, family: Option<&Family>) -> Option<String> {
    uart?;
    Some(family?.name.to_string())
}

/// Registers that say that all is well.
struct Willing;

impl RegisterIo for Willing {
    fn read32(&self, _: usize) -> u32 {
        u32::MAX
    }
    fn write32(&self, _: usize, _: u32) {}
    fn read8(&self, _: usize) -> u8 {
        u8::MAX
    }
    fn write8(&self, _: usize, _: u8) {}
}

/// A board's devices by its tree.
struct Devices<'t, 'a>(&'t Tree<'a>);

impl Lookup for Devices<'_, '_> {
    fn registers(&mut self, compatible: &str) -> Option<Registers> {
        host::device_registers(self.0, compatible)?;
        Some(&Willing)
    }
    fn has(&self, compatible: &str) -> bool {
        host::device(self.0, compatible).is_some()
    }
}

/// A machine that was booted on its first CPU.
struct Booted(u64);

impl BoardIo for Booted {
    fn delay_us(&self, _: u32) {}
    fn smc(&self, _: u32, _: u32) -> u32 {
        0
    }
    fn boot_mpidr(&self) -> u64 {
        self.0
    }
}

/// Says how many CPUs there are and how they are started: by PSCI; by our platform's method; by PSCI that the firmware adds
/// to the tree, where nothing else is said; or by a method, in bold type, that nobody here knows.
pub fn cpu_method(host: &HostInfo<'_>, tree: &Tree<'_>) -> String {
    let cpus = &host.cpus.cpus;
    let count = cpus.len();
    if count == 1 {
        return "1".into();
    }
    if host.psci.is_some() {
        return format!("{count}, PSCI");
    }
    let is_root = |names: &[&str]| tree.root().is_compatible(names);
    let platform = detect(&is_root, &mut Devices(tree)).filter(|platform| platform.starts_cpus());
    if let Some(platform) = platform {
        let io = Booted(cpus[0].mpidr);
        let starts = |&(index, cpu): &(usize, &HostCpu<'_>)| {
            platform.cpu_on(&io, index, cpu.mpidr, 0x4000_0000).is_ok()
        };
        let started = 1 + cpus.iter().enumerate().skip(1).filter(starts).count();
        return match started {
            all if all == count => format!("{count}, {}", platform.name()),
            some => format!("{some} of {count}, {}", platform.name()),
        };
    }
    let mut methods = cpus.iter().map(|cpu| cpu.enable_method);
    match methods.find(|method| !method.is_empty()) {
        None => format!("{count}, firmware's PSCI"),
        Some(method) => format!("{count}, **{method}**"),
    }
}

fn line(row: &Row) -> String {
    let console = row.console.as_deref().unwrap_or("**none**");
    let qemu = if row.in_qemu { "yes" } else { "" };
    let ram = if row.ram_is_given { "" } else { "loader" };
    let model = row.model.replace('|', "/");
    format!(
        "| {} | {model} | {} | {console} | {} | {ram} | {qemu} |",
        row.name, row.soc, row.cpus
    )
}

/// Writes or checks the table.
pub fn check(document: &Path, rows: &[Row]) {
    let text = std::fs::read_to_string(document).expect("docs/boards.md");
    let (head, old) = text
        .split_once(BEGIN)
        .expect("the place of the table in docs/boards.md");
    let consoles = rows.iter().filter(|row| row.console.is_some()).count();
    let mut table = format!(
        "\n{} boards, {consoles} with a console.\n\n\
         | device tree | model | SoC | console | CPUs | RAM | in QEMU |\n|---|---|---|---|---|---|---|\n",
        rows.len()
    );
    for row in rows {
        table += &line(row);
        table.push('\n');
    }
    if std::env::var("XENITH_BOARDS").as_deref() == Ok("update") {
        std::fs::write(document, format!("{head}{BEGIN}{table}")).unwrap();
        return;
    }
    // Another kernel may have other boards: those that both know must be the same.
    let known: Vec<&str> = old
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .collect();
    for row in rows {
        let new = line(row);
        let prefix = format!("| {} |", row.name);
        if let Some(old) = known.iter().find(|old| old.starts_with(&prefix)) {
            assert_eq!(
                *old, new,
                "docs/boards.md is out of date: XENITH_BOARDS=update scripts/test boards"
            );
        } else {
            println!(
                "{} is not in docs/boards.md yet: XENITH_BOARDS=update scripts/test boards",
                row.name
            );
        }
    }
    assert!(
        known.len() + 20 > rows.len(),
        "docs/boards.md is out of date: XENITH_BOARDS=update scripts/test boards"
    );
}
