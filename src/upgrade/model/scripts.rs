//! What the explorer's own machines never do to each other, or say without its text: one machine, event by event.

use crate::error::Failure;
use crate::upgrade::{
    Action, Event, Final, Machine, Origin, Outcome, PredecessorSays, Question, Request, Setup, SuccessorSays,
    Timer, Why,
};

const COMMIT: Event = Event::FromPredecessor(PredecessorSays::Commit);
const STATE: Event = Event::FromPredecessor(PredecessorSays::State);
const READY: Event = Event::FromSuccessor(SuccessorSays::Ready);
const ASK: Event = Event::Ask(Request::Upgrade, Origin::Answered);

fn run(mut machine: Machine, events: impl IntoIterator<Item = Event>) -> (Machine, Vec<Action>) {
    let mut last = Vec::new();
    for event in events {
        last = machine.step(event);
    }
    (machine, last)
}

/// After these events.
fn successor(state_promised: bool, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
    let setup = Setup { with_predecessor: true, state_promised, ..Setup::default() };
    run(Machine::new(setup), events).1
}

/// Serving, and asked to upgrade; then after these events.
fn predecessor(setup: Setup, events: impl IntoIterator<Item = Event>) -> Vec<Action> {
    let (machine, last) = run(Machine::new(setup), [Event::HostReady, Event::ListenedFurther(Ok(())), ASK]);
    assert_eq!(last[0], Action::Accept);
    run(machine, events).1
}

fn asks() -> Setup {
    Setup { asks_before_start: true, ..Setup::default() }
}

fn promises() -> Setup {
    Setup { promises_state: true, ..Setup::default() }
}

/// What the successor is told, and so what the requester will be.
fn aborted(actions: &[Action]) -> &str {
    match actions.iter().find(|action| matches!(action, Action::ToSuccessor(PredecessorSays::Abort(_)))) {
        Some(Action::ToSuccessor(PredecessorSays::Abort(text))) => text,
        _ => panic!("no ABORT in {actions:?}"),
    }
}

#[test]
fn commit_before_the_promised_state_breaks_the_protocol() {
    let wrong = "COMMIT before the promised STATE".to_string();
    let withdrawn = Action::ToPredecessor(SuccessorSays::Withdrawn(wrong.clone()));
    let over = [withdrawn, Action::ReadyDone(Err(Final::Protocol(wrong)))];
    assert_eq!(successor(true, [Event::HostReady, COMMIT]), over);
    assert_eq!(successor(true, [Event::HostReady, Event::HostLeft, COMMIT]), over);
    assert_eq!(successor(true, [Event::HostReady, STATE, COMMIT]), [Action::ListenFurther]);
    assert_eq!(successor(true, [STATE, Event::HostReady, COMMIT]), [Action::ListenFurther]);
}

#[test]
fn state_that_was_not_promised_or_comes_twice_breaks_the_protocol() {
    let over = Action::ReadyDone(Err(Final::Protocol("STATE that was not promised".into())));
    for actions in [
        successor(false, [STATE]),
        successor(false, [Event::HostReady, STATE]),
        successor(true, [STATE, STATE]),
        successor(true, [STATE, Event::HostReady, Event::HostLeft, COMMIT, STATE]),
    ] {
        assert_eq!(actions.last(), Some(&over));
    }
}

#[test]
fn lost_state_is_told_until_the_host_knows() {
    let lost = [Action::ReadyDone(Err(Final::StateLost))];
    let died = Event::PredecessorDied;
    assert_eq!(successor(true, [Event::HostReady, died.clone()]), lost);
    assert_eq!(successor(true, [died.clone(), Event::HostReady, Event::HostReady]), lost);
    let told = [died.clone(), Event::HostReady, Event::HostToldOfLoss, Event::HostReady];
    assert_eq!(successor(true, told), [Action::ListenFurther]);
    assert_eq!(successor(true, [STATE, died, Event::HostReady]), [Action::ListenFurther]);
}

#[test]
fn a_host_that_refuses_the_start_is_quoted() {
    let no = Event::HostAnswered(Question::Starting, Err("a backup is running".into()));
    let why = Why::Refused("a backup is running".into());
    assert_eq!(why.sentence(), "this host refused: a backup is running");
    assert_eq!(why.failure(), Failure::Refused);
    assert_eq!(predecessor(asks(), [no]), [Action::UpgradeDone(Err(why))]);
}

#[test]
fn a_host_that_does_not_answer_is_told_which_event_it_was() {
    let why = Why::Unanswered(Question::Starting);
    assert_eq!(why.sentence(), "the host did not answer the STARTING event by the upgrade deadline");
    assert_eq!(why.failure(), Failure::Deadline);
    let actions = predecessor(asks(), [Event::Timer(Timer::Upgrade)]);
    assert_eq!(actions, [Action::StopAsking, Action::UpgradeDone(Err(why))]);

    for ready in [false, true] {
        let before = [Some(Event::Spawned), ready.then_some(READY), Some(Event::Timer(Timer::Upgrade))];
        let actions = predecessor(promises(), before.into_iter().flatten());
        assert_eq!(actions[0], Action::StopAsking);
        assert_eq!(aborted(&actions), "the host did not answer the STATE event by the upgrade deadline");
    }
    // Once it has answered, the new process is late.
    let sent = [
        Event::Spawned,
        Event::HostAnswered(Question::State, Ok(())),
        Event::StateSent(Ok(Outcome::Taken)),
        Event::Timer(Timer::Upgrade),
    ];
    assert_eq!(aborted(&predecessor(promises(), sent)), "was not ready by the upgrade deadline");
}

#[test]
fn state_that_cannot_be_handed_over_ends_the_upgrade_with_its_reason() {
    let why = Why::State("disk full".into());
    assert_eq!(why.failure(), Failure::State);
    assert!(!why.about_successor());
    let no = [Event::Spawned, READY, Event::HostAnswered(Question::State, Err("disk full".into()))];
    let unsealed = [
        Event::Spawned,
        Event::HostAnswered(Question::State, Ok(())),
        Event::StateSent(Err("disk full".into())),
    ];
    for events in [no.to_vec(), unsealed.to_vec()] {
        let actions = predecessor(promises(), events);
        assert_eq!(aborted(&actions), "the state was not handed over: disk full");
        assert!(!actions.contains(&Action::StopAsking), "it was answered");
    }
}

#[test]
fn commit_waits_for_the_state_and_for_ready_whichever_comes_last() {
    let commit = [Action::ToSuccessor(PredecessorSays::Commit)];
    let written = Event::HostAnswered(Question::State, Ok(()));
    let sent = Event::StateSent(Ok(Outcome::Taken));
    assert_eq!(predecessor(promises(), [Event::Spawned, READY]), []);
    let ready_first = [Event::Spawned, READY, written.clone(), sent.clone()];
    assert_eq!(predecessor(promises(), ready_first), commit);
    assert_eq!(predecessor(promises(), [Event::Spawned, written, sent, READY]), commit);
}

#[test]
fn ready_twice_before_commit_breaks_the_protocol() {
    let actions = predecessor(promises(), [Event::Spawned, READY, READY]);
    assert_eq!(aborted(&actions), "broke the protocol: READY twice");
}

#[test]
fn state_that_the_socket_refused_is_never_followed_by_commit() {
    let gone = [
        Event::Spawned,
        Event::HostAnswered(Question::State, Ok(())),
        Event::StateSent(Ok(Outcome::Gone)),
        READY,
    ];
    assert_eq!(predecessor(promises(), gone), []);
}
