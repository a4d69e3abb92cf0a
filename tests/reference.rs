//! Random histories on the real engine, each step compared with what a naive model expects: the answer or the error, and
//! how often the KMS has been asked. `PROPTEST_CASES` says how many histories.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm)]

#[path = "reference/naive.rs"]
mod naive;
#[path = "reference/stage.rs"]
mod stage;

use proptest::prelude::*;
use proptest::test_runner::Config;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use naive::{BLOBS, CONTEXTS, GARBAGE, Grant, Naive, Step, Word};
use stage::Stage;

struct History;

impl ReferenceStateMachine for History {
    type State = Naive;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Naive> {
        Just(Naive::default()).boxed()
    }

    fn transitions(_: &Naive) -> BoxedStrategy<Step> {
        let (who, key, context) = (0..2_u8, 0..2_u8, 0..CONTEXTS);
        let grants = prop_oneof![3 => Just(Grant::All), 1 => Just(Grant::One), 1 => Just(Grant::None)];
        let silences =
            prop_oneof![2 => Just(None), 1 => Just(Some(Word::Unreachable)), 1 => Just(Some(Word::Throttled))];
        prop_oneof![
            30 => (who.clone(), 0..BLOBS, context.clone()).prop_map(Step::Decrypt),
            1 => (who.clone(), Just(GARBAGE), context).prop_map(Step::Decrypt),
            4 => (who.clone(), key.clone()).prop_map(|(who, key)| Step::Encrypt(who, key)),
            8 => prop_oneof![Just(5), Just(10), Just(30), Just(45), Just(60)].prop_map(Step::Advance),
            8 => Just(Step::Turn),
            3 => (key.clone(), any::<bool>()).prop_map(|(key, disabled)| Step::Disable(key, disabled)),
            3 => (key, any::<bool>()).prop_map(|(key, barred)| Step::Bar(key, barred)),
            3 => silences.prop_map(Step::Silence),
            2 => (who, grants).prop_map(|(who, grant)| Step::Policy(who, grant)),
            4 => Just(Step::Refresh),
            1 => Just(Step::Suspend),
            1 => Just(Step::WallClock),
            1 => Just(Step::Switch),
        ]
        .boxed()
    }

    fn preconditions(naive: &Naive, step: &Step) -> bool {
        !matches!(step, Step::Refresh) || naive.may_refresh()
    }

    fn apply(mut naive: Naive, step: &Step) -> Naive {
        naive.take(step);
        naive
    }
}

impl StateMachineTest for History {
    type SystemUnderTest = Stage;
    type Reference = Self;

    fn init_test(_: &Naive) -> Stage {
        Stage::new()
    }

    fn apply(mut stage: Stage, naive: &Naive, step: Step) -> Stage {
        let answer = stage.take(&step);
        assert_eq!((answer, stage.calls()), (naive.answer, naive.calls), "answer and calls so far, after {step:?}");
        stage
    }
}

prop_state_machine! {
    #![proptest_config(Config { failure_persistence: None, ..Config::default() })]

    #[test]
    fn the_engine_does_what_a_naive_model_expects(sequential 1..80 => History);
}
