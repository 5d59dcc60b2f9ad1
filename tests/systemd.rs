//! On a real systemd: the machine's own, and a newer one that knows `Type=notify-reload`. Each scenario runs on both,
//! with the unit of `examples/systemd` that is made for it.
//!
//! Where the machine may not boot one, this suite says so, and `notify.rs` is what is left: the same messages, on a
//! socket in systemd's place.

#[path = "systemd/crashes.rs"]
mod crashes;
#[path = "systemd/machine.rs"]
mod machine;
#[path = "systemd/reloads.rs"]
mod reloads;
#[path = "systemd/server.rs"]
mod server;
#[path = "systemd/stops.rs"]
mod stops;
#[path = "systemd/trixie.rs"]
mod trixie;
#[path = "systemd/units.rs"]
mod units;

use machine::{Machine, Release};
use std::time::Duration;

/// Runs a scenario on a fresh machine.
fn run(test: &str, release: impl FnOnce() -> Release, scenario: fn(&Machine)) {
    // A first debootstrap and the build of flipctl included.
    let _limit = testkit::limit(Duration::from_secs(600));
    if let Some(why) = machine::impossible() {
        println!(
            "SKIPPED: {test}: NO SYSTEMD CAN BE BOOTED HERE ({why}); notify.rs has a socket in its place"
        );
        return;
    }
    scenario(&Machine::boot(&release()));
}

macro_rules! scenarios {
    ($($file:ident::$scenario:ident),* $(,)?) => {
        mod on_this_machines_own {
            $(#[test]
            fn $scenario() {
                let own = || super::Release::own().expect("a systemd of its own");
                super::run(concat!("on_this_machines_own::", stringify!($scenario)), own, super::$file::$scenario);
            })*
        }
        mod on_trixie {
            $(#[test]
            fn $scenario() {
                let trixie = super::trixie::release;
                super::run(concat!("on_trixie::", stringify!($scenario)), trixie, super::$file::$scenario);
            })*
        }
    };
}

scenarios![
    reloads::twenty_reloads_under_load_fail_no_request,
    reloads::a_server_without_connections_is_replaced_200_times,
    reloads::a_failed_upgrade_leaves_the_unit_as_it_was_and_says_why,
    reloads::a_reload_that_only_signals_comes_through,
    reloads::a_slow_start_outlives_the_time_out_of_the_unit,
    crashes::a_new_main_process_that_crashes_is_restarted_while_the_old_one_drains,
    crashes::no_connection_is_refused_while_a_crashed_server_is_restarted,
    crashes::the_death_of_the_old_process_in_an_upgrade_restarts_the_unit,
    stops::a_stop_in_an_upgrade_ends_everything,
    stops::a_stop_in_a_drain_lets_requests_finish,
    stops::a_draining_process_never_makes_systemd_do_anything,
    units::a_unit_of_type_simple_is_refused_the_upgrade,
    units::a_forking_unit_finds_the_new_process_by_its_pid_file,
    units::the_watchdog_outlives_five_upgrades,
    units::socket_activation_starts_and_upgrades,
    units::an_unprivileged_server_is_replaced,
    units::the_shortest_notify_reload_unit_works,
    units::the_doctor_finds_each_setting_that_loses_the_service_and_nothing_in_the_recommended_unit,
];
