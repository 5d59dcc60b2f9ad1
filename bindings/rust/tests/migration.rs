//! The pages for those who come from other crates: every public item of theirs has a row, and the listed edits turn a program
//! against theirs into one against ours.

#[path = "migration/items.rs"]
mod items;
mod support;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{SOON, example};
use testkit::process::{Family, Signal, free_port, signal, temp_dir};
use testkit::wait_for;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The source of a crate of tests/peers.
fn source_of(name: &str) -> PathBuf {
    let mut metadata = cargo(&["metadata", "--format-version", "1"]);
    let output = metadata.stderr(Stdio::inherit()).output().expect("cargo metadata");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == name).expect("the crate");
    let manifest = Path::new(package["manifest_path"].as_str().expect("a path"));
    manifest.with_file_name("src").join("lib.rs")
}

fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()));
    // Of the package under test, which are none of the other's business.
    for (name, _) in
        std::env::vars().filter(|(name, _)| name.starts_with("CARGO_PKG") || name == "CARGO_MANIFEST_DIR")
    {
        command.env_remove(name);
    }
    command.args(arguments).arg("--manifest-path").arg(root().join("tests/peers/Cargo.toml"));
    command
}

/// The rows of a page: item, and what is said of it.
fn rows(page: &str) -> BTreeMap<String, (String, String)> {
    let mut rows = BTreeMap::new();
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        let [items, verdict, how] = cells[..] else { panic!("three cells: {line}") };
        for item in items.split(", ") {
            let row = (verdict.to_string(), how.to_string());
            assert!(rows.insert(item.trim_matches('`').to_string(), row).is_none(), "{item} twice");
        }
    }
    rows
}

fn every_item_has_a_row(name: &str) {
    let page = std::fs::read_to_string(root().join(format!("docs/from-{name}.md"))).expect("the page");
    let rows = rows(&page);
    let items = items::public_items(&source_of(name));
    assert!(items.len() > 25, "{items:#?}");
    let missing: Vec<_> = items.iter().filter(|item| !rows.contains_key(*item)).collect();
    assert!(missing.is_empty(), "without a row: {missing:#?}");
    let invented: Vec<_> = rows.keys().filter(|item| !items.contains(*item)).collect();
    assert!(invented.is_empty(), "no item of {name}: {invented:#?}");
    for (item, (verdict, how)) in rows {
        assert!(["the same", "better", "left out"].contains(&verdict.as_str()), "{item}: {verdict}");
        assert!(!how.is_empty(), "{item} has to say how, or why");
    }
}

#[test]
fn every_public_item_of_shellflip_has_a_row() {
    every_item_has_a_row("shellflip");
}

#[test]
fn every_public_item_of_ecdysis_has_a_row() {
    every_item_has_a_row("ecdysis");
}

/// The page's edits turn the one program into the other, byte for byte.
fn edits(name: &str) {
    let page = std::fs::read_to_string(root().join(format!("docs/from-{name}.md"))).expect("the page");
    let edits = page.split("```diff\n").nth(1).and_then(|rest| rest.split("```").next()).expect("the edits");
    let folder = temp_dir();
    let (program, patch) = (folder.path().join("program.rs"), folder.path().join("edits"));
    std::fs::copy(root().join(format!("tests/peers/src/bin/from_{name}.rs")), &program).expect("the program");
    std::fs::write(&patch, edits).expect("a file");
    let applied = Command::new("patch").arg("--quiet").arg(&program).arg(&patch).status().expect("patch(1)");
    assert!(applied.success(), "the edits of docs/from-{name}.md do not apply");
    let edited = std::fs::read_to_string(&program).expect("the program");
    let ours = format!("{}/tests/programs/from_{name}.rs", env!("CARGO_MANIFEST_DIR"));
    assert_eq!(edited, std::fs::read_to_string(ours).expect("ours"));
}

#[test]
fn programs_against_the_other_crates_compile_and_the_listed_edits_make_them_ours() {
    let target = std::env::current_exe().expect("a path");
    let target = target.ancestors().nth(3).expect("target").join("rust-peers");
    let check = cargo(&["check", "--quiet"]).arg("--target-dir").arg(&target).status().expect("cargo");
    assert!(check.success(), "tests/peers does not compile");
    edits("shellflip");
    edits("ecdysis");
}

#[test]
fn what_came_from_shellflip_hands_its_count_on() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let (family, folder, port) = (Family::new(), temp_dir(), free_port());
    let (program, socket) = (example("from_shellflip"), folder.path().join("socket"));
    let start = || family.program(&program).arg(format!("127.0.0.1:{port}")).arg(&socket);
    let mut server = start().start();
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port));
    server.wait_until("it listens", SOON, || connect().is_ok());
    let first = server.pid();
    let line = |client: &mut std::net::TcpStream| {
        let (mut byte, mut line) = ([0], String::new());
        while byte[0] != b'\n' {
            client.read_exact(&mut byte).expect("a line");
            line.push(char::from(byte[0]));
        }
        line
    };
    let mut client = connect().expect("a connection");
    let before: u64 = line(&mut client).trim().parse().expect("a count");
    let mut asks = start().arg("restart").start();
    assert_eq!(line(&mut client), "please leave\n");
    assert!(asks.wait(SOON).success(), "{}", asks.output());
    let second: i32 = asks.output().trim().parse().expect("the new pid");
    assert_ne!(second, first);
    let next =
        wait_for("the successor's count", SOON, || line(&mut connect().ok()?).trim().parse::<u64>().ok());
    assert!(next > before, "{next} after {before}");
    client.write_all(b"x").expect("the old one still listens to its client");
    drop(client);
    server.wait(SOON);
    signal(second, Signal::SIGTERM);
    family.wait_gone(second, SOON);
    family.assert_none_left(SOON);
}
