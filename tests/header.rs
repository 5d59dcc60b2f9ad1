//! The committed header is the generated one, and says what Cargo.toml says.

use std::path::Path;

fn bindings(exclude: Vec<String>) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).expect("cbindgen.toml");
    config.export.exclude = exclude;
    let bindings =
        cbindgen::Builder::new().with_crate(root).with_config(config).generate().expect("bindings");
    let mut header = Vec::new();
    bindings.write(&mut header);
    String::from_utf8(header).expect("UTF-8")
}

fn generated() -> String {
    // cbindgen takes every public constant of the crate; only those of the C interface are meant.
    let internal = |line: &str| {
        let name = line.strip_prefix("#define ")?.split([' ', '(']).next()?;
        (!name.starts_with("FLIP_") && name != "SHELLFLIP_H").then(|| name.to_string())
    };
    let header = bindings(bindings(Vec::new()).lines().filter_map(internal).collect());
    // Safety sections are for Rust callers; what they say is in the text and in the conventions at the top.
    let mut text = String::new();
    let mut skip = false;
    for line in header.lines() {
        match line.trim() {
            " * # Safety" | "* # Safety" => skip = true,
            "*/" => skip = false,
            _ => {}
        }
        if !skip {
            text.push_str(line);
            text.push('\n');
        }
    }
    text.replace(" *\n */", " */")
}

#[test]
fn the_committed_header_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/shellflip.h");
    let generated = generated();
    if std::env::var_os("SHELLFLIP_WRITE_HEADER").is_some() {
        std::fs::create_dir_all(path.parent().expect("include/")).expect("include/");
        std::fs::write(&path, &generated).expect("include/shellflip.h");
    }
    let committed = std::fs::read_to_string(&path).expect("include/shellflip.h");
    assert!(committed == generated, "include/shellflip.h has drifted from src/ffi; run `make header`");
}

#[test]
fn the_header_has_the_version_of_the_package() {
    let header = generated();
    for (part, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        assert!(header.contains(&format!("#define FLIP_VERSION_{part} {value}\n")), "{part}\n{header}");
    }
}

#[test]
fn the_header_declares_nothing_but_flip_names() {
    for line in generated().lines() {
        let Some(name) = line.strip_prefix("#define ").and_then(|rest| rest.split([' ', '(']).next()) else {
            continue;
        };
        assert!(name.starts_with("FLIP_") || name == "SHELLFLIP_H", "{line}");
    }
}
