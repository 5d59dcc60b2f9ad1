//! The explorer: every world that two machines, the messages between them and a hostile environment can reach.
//!
//! It runs the shipped transition function, not a copy. Each promise of `properties.rs` is checked everywhere, and a
//! broken one is reported with the shortest list of moves that breaks it. Deliberately wrong rules ([`Wrong`]) show
//! that the explorer would notice.

mod coverage;
mod explorer;
mod properties;
mod scripts;
mod table;
mod world;

use explorer::{Counterexample, Explorer};
use world::Setting;

/// Deliberately wrong rules, for the explorer to refute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// READY is the whole handshake: the successor serves once it has sent it.
    OneMessageReady,
    /// The predecessor ends a successor whose LIVE does not come.
    KillOnCommitTimeout,
    /// The successor gives up when the predecessor dies before COMMIT.
    ExitOnPredecessorDeath,
    /// The predecessor's shutdown fires before RELEASED is sent.
    ShutdownBeforeReleased,
    /// COMMIT follows READY, whether the promised state was sent or not.
    CommitWithoutState,
    /// A question stays open when the upgrade that asked it is over.
    KeepsAsking,
    /// A successor whose promised state is lost serves without a word.
    SilentTakeOver,
    /// LIVE ends the upgrade, whatever probation was set up.
    NoProbation,
}

const PLAIN: Setting = Setting {
    draining: 0,
    max_draining: 1,
    requests: 3,
    noise: false,
    asks: false,
    state: false,
    probation: false,
};

fn hold(setting: Setting) -> Explorer {
    let mut explorer = Explorer::new(setting, None);
    let result = explorer.run();
    println!(
        "{setting:?}: {} states, {} transitions, {} at rest",
        explorer.states(),
        explorer.transitions,
        explorer.at_rest
    );
    if let Err(Counterexample { violation: (promise, how), moves, trace }) = result {
        panic!("{promise} is broken in {} moves: {how}\n{trace}", moves.len());
    }
    explorer
}

#[test]
fn every_promise_holds_in_every_reachable_world() {
    let (mut pairs, mut acts, mut states) = (Default::default(), Default::default(), 0);
    for setting in [
        PLAIN,
        // None may drain.
        Setting { max_draining: 0, requests: 2, ..PLAIN },
        // Two older generations do, and one must be gone first; the host is asked, both serve for a while.
        Setting { draining: 2, asks: true, probation: true, requests: 2, ..PLAIN },
        // One of them talks nonsense, or the predecessor's worker keeps its end open.
        Setting { noise: true, requests: 2, ..PLAIN },
        Setting { noise: true, asks: true, state: true, probation: true, requests: 1, ..PLAIN },
        // The host is asked before the start, and refuses more than once.
        Setting { asks: true, ..PLAIN },
        // State is handed over.
        Setting { state: true, requests: 2, ..PLAIN },
        // All of it.
        Setting { asks: true, state: true, probation: true, requests: 2, ..PLAIN },
    ] {
        let explorer = hold(setting);
        states += explorer.states();
        coverage::collect(&explorer.table, &mut pairs, &mut acts);
    }
    coverage::check(&pairs, &acts);
    assert!(states > 1_000_000, "only {states} states: the environment has lost its moves");
}

#[test]
fn the_explorer_refutes_each_wrong_rule() {
    for (wrong, setting, caught_by) in [
        (Wrong::OneMessageReady, PLAIN, "P2"),
        (Wrong::KillOnCommitTimeout, PLAIN, "P2"),
        (Wrong::ExitOnPredecessorDeath, PLAIN, "P4"),
        (Wrong::ShutdownBeforeReleased, PLAIN, "P8"),
        (Wrong::KeepsAsking, Setting { asks: true, ..PLAIN }, "P11"),
        (Wrong::KeepsAsking, Setting { state: true, ..PLAIN }, "P11"),
        (Wrong::CommitWithoutState, Setting { state: true, ..PLAIN }, "P12"),
        (Wrong::SilentTakeOver, Setting { state: true, ..PLAIN }, "P12"),
        (Wrong::NoProbation, Setting { probation: true, ..PLAIN }, "P13"),
    ] {
        let Err(Counterexample { violation: (promise, how), moves, trace }) =
            Explorer::new(setting, Some(wrong)).run()
        else {
            panic!("{wrong:?} was not noticed")
        };
        println!("{wrong:?} breaks {promise} in {} moves: {how}\n{trace}", moves.len());
        assert_eq!(promise, caught_by, "{wrong:?}");
    }
}
