//! The table of docs/boards.md.

use std::path::Path;

use xenith_boot::fdt::host::{ConsoleUart, HostInfo};
use xenith_platforms::uart::Family;

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

/// Says how the other CPUs are started.
pub fn cpu_method(host: &HostInfo<'_>) -> String {
    let count = host.cpus.cpus.len();
    let method = host
        .cpus
        .cpus
        .iter()
        .map(|cpu| cpu.enable_method)
        .find(|method| !method.is_empty())
        .unwrap_or("");
    match (host.psci.is_some(), method) {
        _ if count == 1 => "1".into(),
        (true, _) => format!("{count}, PSCI"),
        (false, "") => format!("{count}, firmware's PSCI"),
        (false, method) => format!("{count}, {method}"),
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
