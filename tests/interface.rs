//! Every function of the header, called from C in every state in which that is not what it is for: with NULL, after a
//! panic, in a forked child, after `flip_free`. The list comes from the header: a new function is tested by the rules
//! below, or fails here until its exception is written down.

use libc::{EBADF, ECANCELED, ECHILD, EINVAL, ENOTRECOVERABLE, ETIMEDOUT};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;
use testkit::host::{SOON, c_program, library_folder};
use testkit::process::{Family, Output};

/// NULL where the header gives it a meaning: function, parameter.
const NULL_MEANS_SOMETHING: &[(&str, &str)] = &[
    ("flip_config_free", "config"),
    ("flip_free", "flip"),
    ("flip_init", "config"),
    ("flip_set_env", "value"),
    ("flip_event_free", "event"),
    ("flip_event_answer", "reason"),
    ("flip_config_set_control_socket", "address"),
    ("flip_config_set_pid_file", "path"),
];

/// What still works in a forked child, and what a call with good arguments returns there. All else that takes the
/// handle is ECHILD, flip_init too.
const WORKS_IN_A_CHILD: &[(&str, i64)] = &[
    ("flip_accept", -(ETIMEDOUT as i64)),
    ("flip_conn_begin", 0),
    ("flip_conn_end", 0),
    ("flip_conn_count", 0),
    ("flip_drain", -(EINVAL as i64)),
    ("flip_generation", 0),
    ("flip_wait_shutdown", -(ETIMEDOUT as i64)),
    ("flip_free", 0),
    // The event at hand is a line for the log.
    ("flip_event_state_fd", -(EINVAL as i64)),
    ("flip_event_answer", -(EINVAL as i64)),
    // A listener's address, and a directory.
    ("flip_config_set_control_socket", -(EINVAL as i64)),
    ("flip_config_set_pid_file", -(EINVAL as i64)),
    ("flip_control", -(EINVAL as i64)),
    ("flip_control_status", -(EINVAL as i64)),
];

/// What each kind of parameter is given, by its name; these names are in `tests/c/interface.c`.
const ARGUMENTS: &[(&str, &str)] = &[
    ("flip", "flip"),
    ("config", "config"),
    ("out_flip", "&other"),
    ("listener", "listener"),
    ("address", "\"tcp://127.0.0.1:0?name=second\""),
    ("executable", "\"/bin/true\""),
    ("argv", "command"),
    ("name", "\"A\""),
    ("value", "\"b\""),
    ("path", "\"/\""),
    ("signum", "SIGUSR2"),
    ("request", "FLIP_REQUEST_UPGRADE"),
    ("ms", "60000"),
    ("n", "1"),
    ("mask", "0"),
    ("on", "1"),
    ("out_event", "&no_event"),
    ("event", "event"),
    ("status", "0"),
    ("reason", "\"because\""),
    ("fd", "listener"),
    ("buffer", "buffer"),
    ("size", "sizeof buffer"),
    ("timeout_ms", "patience"),
];

/// One function of the header.
struct Function {
    returns: String,
    name: String,
    /// Type and name.
    parameters: Vec<(String, String)>,
}

impl Function {
    fn takes(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(_, name)| name == parameter)
    }

    fn is_pointer(&self, index: usize) -> bool {
        self.parameters[index].0.ends_with('*')
    }
}

/// The header without comments and directives.
fn code() -> String {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/include/shellflip.h")).unwrap();
    let mut code = String::new();
    let mut rest = text.as_str();
    while let Some((before, comment)) = rest.split_once("/*") {
        code.push_str(before);
        rest = comment.split_once("*/").expect("the end of a comment").1;
    }
    code.push_str(rest);
    let lines: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
    lines.join(" ")
}

fn header() -> Vec<Function> {
    let code = code().replace('*', " * ");
    let words = code.split_whitespace().collect::<Vec<_>>().join(" ");
    words.split(';').filter_map(prototype).collect()
}

/// `int flip_x ( flip_t * flip, int ms )`.
fn prototype(text: &str) -> Option<Function> {
    let (head, parameters) = text.split_once('(')?;
    let (returns, name) = head.trim().rsplit_once(' ')?;
    let returns = returns.rsplit('{').next().unwrap_or(returns);
    let parameters = parameters.split(')').next()?.trim();
    let parameters = match parameters {
        "void" => Vec::new(),
        _ => parameters
            .split(',')
            .map(|one| one.trim().rsplit_once(' ').expect("a type and a name"))
            .map(|(kind, name)| (kind.to_string(), name.to_string()))
            .collect(),
    };
    Some(Function { returns: returns.trim().into(), name: name.into(), parameters })
}

/// The part of the C program that is made from the header.
fn calls(functions: &[Function]) -> String {
    let mut text = format!("#define FUNCTIONS {}\nstatic volatile int patience;\n", functions.len());
    let names: Vec<String> = functions.iter().map(|one| format!("\"{}\"", one.name)).collect();
    writeln!(text, "static const char *const names[] = {{ {} }};", names.join(", ")).unwrap();
    let bits = |one: &Function| {
        (0..one.parameters.len()).filter(|i| one.is_pointer(*i)).map(|i| 1 << i).sum::<u32>().to_string()
    };
    let bits: Vec<String> = functions.iter().map(bits).collect();
    writeln!(text, "static const unsigned pointers[] = {{ {} }};", bits.join(", ")).unwrap();
    text.push_str("static long call(int which, unsigned nulls)\n{\n    switch (which) {\n");
    for (number, function) in functions.iter().enumerate() {
        let argument = |(index, (_, name)): (usize, &(String, String))| {
            let value = ARGUMENTS.iter().find(|(of, _)| of == name).map(|(_, value)| value);
            let value = value.unwrap_or_else(|| panic!("{}: what to give for {name}?", function.name));
            match function.is_pointer(index) {
                true => format!("nulls & {}u ? NULL : {value}", 1 << index),
                false => value.to_string(),
            }
        };
        let arguments: Vec<String> = function.parameters.iter().enumerate().map(argument).collect();
        let call = format!("{}({})", function.name, arguments.join(", "));
        match function.returns.as_str() {
            "void" => writeln!(text, "    case {number}: {call}; return 0;"),
            _ => writeln!(text, "    case {number}: return (long){call};"),
        }
        .unwrap();
    }
    text.push_str("    }\n    (void)nulls;\n    return -1;\n}\n");
    text
}

/// The program, compiled once.
fn program() -> PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let build = || {
        let folder = library_folder().join(format!("c/interface-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("calls.h"), calls(&header())).unwrap();
        let include = format!("-I{}", folder.display());
        c_program("tests/c/interface.c", &[&include, "-Wno-unused-function"])
    };
    PROGRAM.get_or_init(build).clone()
}

/// What one call gave.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    nulls: u32,
    result: i64,
    error: String,
}

/// Runs the program to its good end and reads its lines.
fn run(family: &Family, arguments: &[&str], environment: &[(&str, &str)]) -> Vec<Row> {
    let mut program = family.program(program()).args(arguments).output(Output::File);
    for (name, value) in environment {
        program = program.env(name, value);
    }
    let mut process = program.start();
    let status = process.wait(SOON * 2);
    let output = process.output();
    assert!(status.success(), "{arguments:?}: {status}\n{output}");
    process.wait_for_output("end 0 0", SOON);
    let row = |line: &str| {
        let mut words = line.splitn(4, ' ');
        let name = words.next().filter(|name| name.starts_with("flip_"))?.to_string();
        let nulls = words.next()?.parse().ok()?;
        let result = words.next()?.parse().ok()?;
        Some(Row { name, nulls, result, error: words.next().unwrap_or_default().to_string() })
    };
    process.output().lines().filter_map(row).collect()
}

#[test]
fn the_header_is_read_and_every_exception_names_a_function_of_it() {
    let functions = header();
    assert!(functions.len() >= 25, "{}", functions.len());
    let upgrade = functions.iter().find(|one| one.name == "flip_upgrade").expect("flip_upgrade");
    assert_eq!((upgrade.returns.as_str(), upgrade.parameters.len()), ("int", 2));
    assert_eq!(code().matches('(').count(), functions.len(), "a prototype was not understood");
    let exceptions = NULL_MEANS_SOMETHING.iter().map(|(name, _)| name);
    for name in exceptions.chain(WORKS_IN_A_CHILD.iter().map(|(name, _)| name)) {
        assert!(functions.iter().any(|one| one.name == *name), "{name}");
    }
}

#[test]
fn null_is_refused_wherever_the_header_gives_it_no_meaning() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let rows = run(&family, &["null"], &[]);
    for function in header() {
        let own: BTreeMap<u32, &Row> =
            rows.iter().filter(|row| row.name == function.name).map(|row| (row.nulls, row)).collect();
        for index in (0..function.parameters.len()).filter(|index| function.is_pointer(*index)) {
            let parameter = &function.parameters[index].1;
            let row = own.get(&(1 << index)).unwrap_or_else(|| panic!("{}: {parameter}", function.name));
            if NULL_MEANS_SOMETHING.contains(&(&function.name, parameter)) {
                // The text may be an earlier call's.
                let refused = row.result == -i64::from(EINVAL) && row.error == format!("{parameter} is NULL");
                assert!(!refused, "{row:?}");
                continue;
            }
            let refused = if function.returns == "int" { -i64::from(EINVAL) } else { 0 };
            assert_eq!(row.result, refused, "{parameter}: {row:?}");
            // flip_request is for signal handlers, where a text cannot be made.
            if function.name != "flip_request" {
                assert_eq!(row.error, format!("{parameter} is NULL"), "{row:?}");
            }
        }
    }
    family.assert_none_left(SOON);
}

#[test]
fn a_panic_behind_any_function_becomes_an_error_and_the_process_goes_on() {
    let _limit = testkit::limit(Duration::from_secs(120));
    let family = Family::new();
    for function in header() {
        let fault = format!("{}=panic", function.name);
        let log = testkit::process::temp_dir();
        let log = log.path().join("log");
        let rows = run(
            &family,
            &["panic", &function.name],
            &[("SHELLFLIP_FAULT", &fault), ("SHELLFLIP_FAULT_LOG", log.to_str().unwrap())],
        );
        let hits = std::fs::read_to_string(&log).unwrap_or_default();
        assert!(hits.contains(&format!(" {} panic", function.name)), "no fault point in {}", function.name);
        let unusable = -i64::from(ENOTRECOVERABLE);
        let says = format!("the handle is unusable since an internal error: {} panicked", function.name);
        match (function.returns.as_str(), function.name.as_str()) {
            ("int", "flip_last_failure") | ("void", _) => assert_eq!(rows[0].result, 0, "{:?}", rows[0]),
            ("int", _) => assert_eq!(rows[0].result, unusable, "{:?}", rows[0]),
            // Never NULL, whatever happens.
            (_, "flip_last_error" | "flip_version") => assert_ne!(rows[0].result, 0, "{:?}", rows[0]),
            _ => assert_eq!(rows[0].result, 0, "{:?}", rows[0]),
        }
        for row in &rows[1..] {
            assert_eq!(row.result, unusable, "after {}: {row:?}", function.name);
            if function.name != "flip_last_error" {
                assert_eq!(row.error, says);
            }
        }
        assert_eq!(rows.len(), 3);
    }
    family.assert_none_left(SOON);
}

#[test]
fn a_forked_child_has_its_own_connections_and_nothing_else() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let rows = run(&family, &["fork"], &[]);
    for function in header() {
        let row = rows.iter().find(|row| row.name == function.name);
        let Some(row) = row else {
            assert!(["flip_config_free", "flip_event_free"].contains(&&*function.name), "{}", function.name);
            continue;
        };
        let works = WORKS_IN_A_CHILD.iter().find(|(name, _)| *name == function.name);
        match works {
            Some((_, result)) => assert_eq!(row.result, *result, "{row:?}"),
            None if function.name == "flip_shutdown_fd" => assert!(row.result >= 3, "{row:?}"),
            None if function.takes("flip") || function.name == "flip_init" => {
                assert_eq!(row.result, -i64::from(ECHILD), "{row:?}");
            }
            None => assert!(row.result >= 0, "{row:?}"),
        }
    }
    family.assert_none_left(SOON);
}

#[test]
fn a_worker_sees_shutdown_when_its_master_is_killed() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    run(&family, &["orphan"], &[]);
    family.assert_none_left(SOON);
}

#[test]
fn a_freed_handle_is_refused_and_another_can_be_had() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let rows = run(&family, &["freed"], &[]);
    for function in header().iter().filter(|one| one.takes("flip") && one.name != "flip_free") {
        let own: Vec<&Row> = rows.iter().filter(|row| row.name == function.name).collect();
        assert_eq!(own.len(), 3, "{}", function.name);
        for row in own {
            assert_eq!(row.result, -i64::from(EBADF), "{row:?}");
        }
    }
    family.assert_none_left(SOON);
}

#[test]
fn flip_free_wakes_every_call_that_waits() {
    let _limit = testkit::limit(Duration::from_secs(90));
    let family = Family::new();
    // The others with a time-out do not wait in generation 0; flip_ready: tests/successor.rs.
    for name in ["flip_accept", "flip_wait_shutdown", "flip_drain", "flip_upgrade"] {
        let rows = run(&family, &["cancel", name], &[]);
        assert_eq!(rows[0].name, name);
        assert_eq!(rows[0].result, -i64::from(ECANCELED), "{:?}", rows[0]);
    }
    family.assert_none_left(SOON);
}

#[test]
fn a_thread_that_is_cancelled_in_a_call_ends_behind_it_and_harms_nobody() {
    let _limit = testkit::limit(Duration::from_secs(60));
    let family = Family::new();
    let program = family.program(c_program("tests/c/cancelled.c", &["-pthread"]));
    let mut process = program.output(Output::File).start();
    let status = process.wait(SOON * 2);
    assert!(status.success() && process.output() == "cancelled\n", "{status}\n{}", process.output());
    family.assert_none_left(SOON);
}
