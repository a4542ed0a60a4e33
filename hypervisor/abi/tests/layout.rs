//! Compares the structures of this crate with offsets and sizes dumped from Xen's headers
//! (`fixtures/abi-arm32-4.17.tsv`; `tests/abi/check-headers` at the top compares with the headers themselves).

#[path = "common/layout.rs"]
mod layout;

use std::collections::BTreeMap;

use layout::Row;

/// (offset, size) by (structure, field); an offset of `None` is a member of a union; a field `(total)` is the whole.
fn fixture() -> BTreeMap<(&'static str, &'static str), (Option<usize>, usize)> {
    let mut rows = BTreeMap::new();
    for line in include_str!("fixtures/abi-arm32-4.17.tsv").lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let cells: Vec<&str> = line.split('\t').collect();
        let path = cells[1].split('[').next().unwrap();
        let size = cells[3].parse().unwrap();
        assert!(
            rows.insert((cells[0], path), (cells[2].parse().ok(), size))
                .is_none(),
            "twice in the fixture: {line}"
        );
    }
    rows
}

#[test]
fn structures_match_the_headers() {
    let fixture = fixture();
    let mut compared = 0;
    let mut wrong = Vec::new();
    for row in layout::rows() {
        let (name, path, offset, size) = match row {
            Row::Struct(name, size) => (name, "(total)", 0, Some(size)),
            Row::Field(name, path, offset, size) => (name, path, offset, size),
            Row::Const(..) => continue,
        };
        let Some(&(expected_offset, expected_size)) = fixture.get(&(name, path)) else {
            continue;
        };
        compared += 1;
        if expected_offset.is_some_and(|o| o != offset) || size.is_some_and(|s| s != expected_size)
        {
            wrong.push(format!(
                "{name}.{path}: at {offset} size {size:?}, headers say {expected_offset:?} size {expected_size}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared >= 150, "only {compared} rows compared");
}

#[test]
fn every_field_of_the_fixture_is_described() {
    /// Padding, and members of unions that this crate gives as raw words.
    const RAW: &[(&str, &str)] = &[
        ("evtchn_init_control", "_pad"),
        ("evtchn_status", "u.interdomain.dom"),
        ("evtchn_status", "u.unbound.dom"),
        ("grant_entry_v2", "full_page.hdr"),
        ("grant_entry_v2", "sub_page.frame"),
        ("grant_entry_v2", "sub_page.hdr"),
        ("grant_entry_v2", "sub_page.length"),
        ("grant_entry_v2", "sub_page.page_off"),
        ("grant_entry_v2", "transitive.gref"),
        ("grant_entry_v2", "transitive.hdr"),
        ("grant_entry_v2", "transitive.pad0"),
        ("grant_entry_v2", "transitive.trans_domid"),
        ("shared_info", "vcpu_info"),
    ];
    let described: Vec<(&str, &str)> = layout::rows()
        .iter()
        .filter_map(|row| match *row {
            Row::Struct(name, _) => Some((name, "(total)")),
            Row::Field(name, path, ..) => Some((name, path)),
            Row::Const(..) => None,
        })
        .collect();
    let missing: Vec<_> = fixture()
        .iter()
        .filter(|(key, (offset, _))| {
            offset.is_some() && !described.contains(key) && !RAW.contains(key)
        })
        .map(|(key, _)| *key)
        .collect();
    assert!(missing.is_empty(), "{missing:?}");
}
