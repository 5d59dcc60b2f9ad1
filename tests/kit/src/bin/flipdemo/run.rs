//! The demo itself: swap the file, send the signal, watch who answers.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use testkit::load::{Config, Identity, Load, Mark, Seen, get, hear};
use testkit::process::{Family, Proc, Process};

use crate::Options;
use crate::table::{self, Row};

/// For each single thing that is waited for; the limit of the whole demo holds besides.
const STEP: Duration = Duration::from_secs(10);

/// How long a version that is meant to crash may stay unseen; it can be gone before anyone looks.
const UNSEEN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Replace,
    Crash,
    Hang,
}

struct Demo<'a> {
    options: &'a Options,
    load: Load,
    server: Process,
    // After the server and before the directory: it ends whoever still runs from there.
    family: Family,
    live: PathBuf,
    _directory: TempDir,
    end: Instant,
    interrupted: Arc<AtomicBool>,
    /// Whether the first version is what serves, as against the second.
    first_version: bool,
}

/// True: all was as expected. An error: the demo could not be run.
pub fn run(options: &Options) -> Result<bool, String> {
    let mut demo = Demo::start(options)?;
    let mut problems = Vec::new();
    let mut as_expected = 0;
    table::print_head();
    for number in 1..=options.upgrades {
        let row = demo.pause().and_then(|()| demo.upgrade(number));
        match row {
            Ok(row) => {
                table::print_row(&row);
                as_expected += usize::from(row.problem.is_none());
                // After an upgrade that did not happen nobody knows who serves.
                if row.problem.is_some() {
                    break;
                }
            }
            Err(problem) => {
                problems.push(problem);
                break;
            }
        }
    }
    let log = demo.server.output();
    let report = demo.finish(&mut problems);
    table::print_summary(&report, as_expected, options.upgrades, &problems);
    let clean = problems.is_empty()
        && report.totals.failed == 0
        && report.totals.answered > 0
        && as_expected == options.upgrades;
    if !clean && !log.is_empty() {
        let lines: Vec<_> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(15)..];
        anstream::println!("\nThe last lines of the server:\n  {}", tail.join("\n  "));
    }
    Ok(clean)
}

impl<'a> Demo<'a> {
    fn start(options: &'a Options) -> Result<Demo<'a>, String> {
        let end = Instant::now() + Duration::try_from_secs_f64(options.limit_seconds).unwrap_or(STEP);
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM, signal_hook::consts::SIGHUP]
        {
            signal_hook::flag::register(signal, interrupted.clone())
                .map_err(|error| format!("cannot handle signal {signal}: {error}"))?;
        }
        let directory = tempfile::Builder::new()
            .prefix("flipdemo-")
            .tempdir()
            .map_err(|error| format!("cannot make a temporary directory: {error}"))?;
        let mut live = directory.path().join("server");
        // Interpreters and people go by it.
        if let Some(extension) = options.v1.extension() {
            live.set_extension(extension);
        }
        install(&options.v1, &live)?;
        let command = shlex::split(&options.server_cmd)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| format!("cannot make sense of the command {}", options.server_cmd))?;
        let address = options.address.to_string();
        let mut words = command
            .iter()
            .map(|word| word.replace("{live}", &live.to_string_lossy()).replace("{address}", &address));
        let family = Family::new();
        let mut server = family
            .program(words.next().unwrap_or_default())
            .args(words)
            .env("UPGRADE_TIMEOUT_MS", options.upgrade_timeout_ms.to_string())
            .log(directory.path().join("log"))
            .try_start()
            .map_err(|error| format!("cannot start {}: {error}", options.server_cmd))?;
        let begun = Instant::now();
        let answers = || match options.hello {
            true => hear(&options.address, Duration::from_secs(1)),
            false => get(&options.address, "/", Duration::from_secs(1)).map(|_| ()),
        };
        while let Err(error) = answers() {
            let stop = interrupted.load(Ordering::Relaxed);
            let ended = server.exit_status();
            if ended.is_some() || stop || begun.elapsed() > STEP {
                let status = ended.map_or(String::new(), |status| format!(" and has ended ({status})"));
                let output = server.output();
                return Err(format!("the server does not answer on {address} ({error}){status}\n{output}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let address = options.address.clone();
        let load = if options.hello { Config::hello(address) } else { Config::http(address) };
        let load = Load::start(load.connections(options.connections).streams(options.streams))
            .map_err(|error| format!("cannot start the load: {error}"))?;
        Ok(Demo {
            options,
            load,
            server,
            family,
            live,
            _directory: directory,
            end,
            interrupted,
            first_version: true,
        })
    }

    /// True once `condition` holds, false at the deadline of the step; the end of the whole demo is an error.
    fn wait(&self, deadline: Duration, mut condition: impl FnMut() -> bool) -> Result<bool, String> {
        let begun = Instant::now();
        while !condition() {
            if self.interrupted.load(Ordering::Relaxed) {
                return Err("interrupted".into());
            }
            if Instant::now() > self.end {
                return Err(format!("not over after {} s", self.options.limit_seconds));
            }
            if begun.elapsed() > deadline {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }

    /// Load alone, so that a table row stands for an upgrade and not for the end of the one before.
    fn pause(&self) -> Result<(), String> {
        let until = Instant::now() + Duration::from_millis(self.options.pause_ms);
        self.wait(STEP, || Instant::now() >= until && self.load.snapshot().latest.is_some()).map(|_| ())
    }

    /// The failing versions come at a third and two thirds of the way.
    fn step(&self, number: usize) -> Step {
        let third = self.options.upgrades.div_ceil(3);
        match number {
            _ if number == third && self.options.crash.is_some() => Step::Crash,
            _ if number == 2 * third && self.options.hang.is_some() => Step::Hang,
            _ => Step::Replace,
        }
    }

    fn upgrade(&mut self, number: usize) -> Result<Row, String> {
        let step = self.step(number);
        let next = match step {
            Step::Crash => self.options.crash.as_ref(),
            Step::Hang => self.options.hang.as_ref(),
            Step::Replace if self.first_version => Some(&self.options.v2),
            Step::Replace => Some(&self.options.v1),
        };
        install(next.ok_or("no such version")?, &self.live)?;
        let old = self.load.seen().last().map(|seen| seen.identity.clone()).ok_or("nobody answers")?;
        let log = self.server.output().len();
        let before: BTreeSet<Proc> = self.family.leftovers().into_iter().collect();
        let from = self.load.mark();
        kill(Pid::from_raw(old.pid), Signal::SIGUSR1)
            .map_err(|error| format!("cannot send SIGUSR1 to process {}: {error}", old.pid))?;
        let outcome = match step {
            Step::Replace => self.watch_replacement(&old, from)?,
            Step::Crash | Step::Hang => self.watch_failure(step, &old, from, log, &before)?,
        };
        let (serving, took, problem) = match outcome {
            Ok((serving, took)) => (serving, took, None),
            Err(problem) => (old, self.load.mark().after(from), Some(problem)),
        };
        if step == Step::Replace {
            self.first_version = !self.first_version;
        }
        let note = match step {
            _ if problem.is_some() => "",
            Step::Replace => "",
            Step::Crash => "new version crashed: old one serves on",
            Step::Hang => "new version hung: old one serves on",
        };
        let interval = self.load.between(from, self.load.mark());
        Ok(Row { number, serving, took, interval, note, problem })
    }

    /// Until another process has answered and the old one is gone.
    fn watch_replacement(&mut self, old: &Identity, from: Mark) -> Result<Outcome, String> {
        let newest = || self.load.seen().pop().filter(|seen| seen.identity != *old && seen.first >= from);
        if !self.wait(STEP, || newest().is_some())? {
            return Ok(Err(format!("no new process has answered in {STEP:?}; {} still serves", old.pid)));
        }
        let Some(Seen { identity: new, first, .. }) = newest() else {
            return Ok(Err("the new process was seen once and never again".into()));
        };
        let expected = old.generation.map(|generation| generation + 1);
        if new.pid == old.pid || new.generation != expected || new.version == old.version {
            return Ok(Err(format!("after {old:?} came {new:?}")));
        }
        if !self.wait(STEP, || !Proc(old.pid).alive())? {
            return Ok(Err(format!("the old process {} has not exited in {STEP:?}", old.pid)));
        }
        Ok(Ok((new, first.after(from))))
    }

    /// Until the new version is known to have failed, and the old process has answered a request sent after that.
    fn watch_failure(
        &mut self,
        step: Step,
        old: &Identity,
        from: Mark,
        log: usize,
        before: &BTreeSet<Proc>,
    ) -> Result<Outcome, String> {
        let mut started = false;
        let begun = Instant::now();
        let settled = self.wait(STEP + Duration::from_millis(self.options.upgrade_timeout_ms), || {
            let running = self.family.leftovers().iter().any(|process| !before.contains(process));
            started |= running;
            let said = self.server.output().get(log..).is_some_and(|log| log.contains("upgrade failed"));
            !running && (said || started || step == Step::Crash && begun.elapsed() > UNSEEN)
        })?;
        if !settled {
            let seen = if started { "it has not been ended" } else { "it was never started" };
            return Ok(Err(format!("the new version should have failed, and {seen}")));
        }
        let failed = self.load.mark();
        let answered = || {
            let seen = self.load.seen();
            seen.iter().any(|seen| seen.identity == *old && seen.last_sent >= failed)
        };
        if !self.wait(STEP, answered)? {
            return Ok(Err(format!("the old process {} does not answer any more", old.pid)));
        }
        if let Some(seen) = self.load.seen().iter().find(|seen| seen.first >= from) {
            return Ok(Err(format!("process {} answered, which should have failed", seen.identity.pid)));
        }
        Ok(Ok((old.clone(), failed.after(from))))
    }

    /// Stops the load, then the server, and sees to it that no process is left.
    fn finish(self, problems: &mut Vec<String>) -> testkit::load::Report {
        let Demo { load, mut server, family, _directory, .. } = self;
        let report = load.stop();
        if let Some(last) = report.seen.last() {
            let _ = kill(Pid::from_raw(last.identity.pid), Signal::SIGTERM);
        }
        let begun = Instant::now();
        let mut left = family.leftovers();
        while !left.is_empty() && begun.elapsed() < STEP / 2 {
            std::thread::sleep(Duration::from_millis(2));
            let _ = server.exit_status();
            left = family.leftovers();
        }
        problems.extend(
            left.into_iter().map(|process| format!("still there after SIGTERM: {}", process.describe())),
        );
        report
    }
}

/// Who serves now, and how long it took; or what went wrong.
type Outcome = Result<(Identity, Duration), String>;

/// By rename: a running program's file can be replaced, but not written to (ETXTBSY).
fn install(version: &Path, live: &Path) -> Result<(), String> {
    let new = live.with_file_name("new");
    fs::copy(version, &new)
        .and_then(|_| fs::rename(&new, live))
        .map_err(|error| format!("cannot install {}: {error}", version.display()))
}
