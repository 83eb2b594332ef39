//! Declares tests that need a Godot. Where there is none they are *ignored with the reason*, never passed.
//!
//! The built-in test harness cannot ignore a test at run time, so a file of such claims is a target with
//! `harness = false` whose `main` comes from [`godot_claims!`](crate::godot_claims). Its command line and its
//! output are those of every Rust test. Claims run one after the other unless `--test-threads` says otherwise:
//! engines and watchdogs are measured by the clock, and the machine may be small.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::godot::{self, Godot};

/// A named test that is given the engine.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// What is claimed, as a name: `records_before_a_crash_arrive`.
    pub name: &'static str,
    /// Panics when the claim does not hold.
    pub run: fn(&Godot),
}

/// Makes a test target's `main` out of functions that take a `&Godot`.
///
/// ```no_run
/// /// The engine starts and says its version.
/// fn the_engine_starts(godot: &sidekick_tests::godot::Godot) {
///     assert!(godot.version.major >= 4);
/// }
///
/// sidekick_tests::godot_claims!(the_engine_starts);
/// ```
#[macro_export]
macro_rules! godot_claims {
    ($($claim:ident),+ $(,)?) => {
        fn main() -> ::std::process::ExitCode {
            $crate::claims::main(&[
                $($crate::claims::Claim { name: stringify!($claim), run: $claim }),+
            ])
        }
    };
}

/// Runs the claims as the command line asks.
pub fn main(claims: &[Claim]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, trials(claims, find)).exit_code()
}

/// The engine, or why there is none. A wrong `GODOT4_BIN` fails the tests: somebody meant to run them.
fn find() -> Result<Godot, Completion> {
    match godot::find() {
        Ok(Some(godot)) => Ok(godot),
        Ok(None) => Err(Completion::ignored_with(
            "no Godot 4.5 or newer found; run `cargo xtask godot` once",
        )),
        Err(error) => panic!("{error}"),
    }
}

fn trials(claims: &[Claim], find: fn() -> Result<Godot, Completion>) -> Vec<Trial> {
    let trial = |claim: &Claim| {
        let run = claim.run;
        Trial::ignorable_test(claim.name, move || match find() {
            Ok(godot) => {
                run(&godot);
                Ok(Completion::Completed)
            }
            Err(ignored) => Ok(ignored),
        })
    };
    claims.iter().map(trial).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet() -> Arguments {
        Arguments {
            test_threads: Some(1),
            quiet: true,
            ..Arguments::default()
        }
    }

    fn holds(_: &Godot) {}

    #[test]
    fn without_a_godot_a_claim_is_ignored_and_not_passed() {
        let claims = [Claim {
            name: "holds",
            run: holds,
        }];
        let outcome = libtest_mimic::run(
            &quiet(),
            trials(&claims, || Err(Completion::ignored_with("none here"))),
        );
        assert_eq!(
            (outcome.num_passed, outcome.num_ignored, outcome.num_failed),
            (0, 1, 0)
        );
    }
}
