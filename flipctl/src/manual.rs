//! What is made from the command line's description: the manual page and the shells' completions. Called by
//! `make build`, which keeps them for `make install`, and by operators for `flipctl completions`.

use crate::args::Arguments;
use crate::doctor;
use crate::exit;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use std::io::{self, Write};

/// A completion script.
pub fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "flipctl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// flipctl(1), on one page: an operator looks in one place.
pub fn manual() -> String {
    let mut page = Vec::new();
    write(&mut page).expect("there is always room in memory");
    String::from_utf8_lossy(&page).into_owned()
}

fn write(to: &mut dyn Write) -> io::Result<()> {
    // No date: the same source gives the same page.
    let mut command = Arguments::command().disable_help_subcommand(true);
    command.build();
    let man = Man::new(command.clone()).section("1").source(format!("flipctl {}", env!("CARGO_PKG_VERSION")));
    let man = man.manual("libshellflip");
    man.render_title(to)?;
    man.render_name_section(to)?;
    man.render_synopsis_section(to)?;
    man.render_description_section(to)?;
    options(to, &command)?;
    commands(to, &command)?;
    let mut page = Roff::new();
    page.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in ENVIRONMENT {
        page.control("TP", []).text([bold(*name)]).text([roman(*meaning)]);
    }
    page.control("SH", ["DOCTOR"]);
    page.text([roman("What doctor finds, by the code that it prints:")]);
    for (code, meaning) in doctor::CODES {
        page.control("TP", []).text([bold(code)]).text([roman(meaning)]);
    }
    page.control("SH", ["EXIT STATUS"]);
    for (code, meaning) in exit::rows() {
        page.control("TP", []).text([bold(code.to_string())]).text([roman(meaning)]);
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([bold("systemctl"), roman("(1), "), bold("kill"), roman("(1), "), bold("nc"), roman("(1)")]);
    page.to_writer(to)
}

const ENVIRONMENT: &[(&str, &str)] = &[
    ("FLIPCTL_SOCKET", "The control socket, where neither --socket nor --pid-file is given."),
    ("FLIPCTL_PID_FILE", "The pid file, where nothing else says which server."),
    ("NO_COLOR", "If set, no colours."),
];

fn options(to: &mut dyn Write, command: &clap::Command) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("SH", ["OPTIONS"]);
    describe(&mut page, command);
    page.to_writer(to)
}

fn commands(to: &mut dyn Write, command: &clap::Command) -> io::Result<()> {
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    for one in command.get_subcommands().filter(|one| !one.is_hide_set()) {
        page.control("SS", [one.get_name()]);
        let about = one.get_long_about().or(one.get_about()).map(ToString::to_string).unwrap_or_default();
        for (number, paragraph) in about.split("\n\n").enumerate() {
            if number > 0 {
                page.control("PP", []);
            }
            page.text([roman(paragraph)]);
        }
        describe(&mut page, one);
    }
    page.to_writer(to)
}

/// The options of one command; what is the same for all is said once.
fn describe(page: &mut Roff, command: &clap::Command) {
    let is_root = command.get_name() == "flipctl";
    for one in command.get_arguments().filter(|one| !one.is_hide_set() && one.is_global_set() == is_root) {
        if !is_root && matches!(one.get_id().as_str(), "help" | "version") {
            continue;
        }
        let value = one.get_value_names().unwrap_or_default().first().map(ToString::to_string);
        let value = value.filter(|_| one.get_action().takes_values());
        let mut words = Vec::new();
        match one.get_long() {
            Some(long) => words.push(bold(format!("--{long}"))),
            None => words.push(bold(value.clone().unwrap_or_default())),
        }
        if let (Some(value), Some(_)) = (value, one.get_long()) {
            words.push(roman(format!(" {value}")));
        }
        let help = one.get_long_help().or(one.get_help()).map(ToString::to_string).unwrap_or_default();
        page.control("TP", []).text(words).text([roman(help + ".")]);
    }
}
