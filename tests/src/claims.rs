//! Declares tests that need a Godot. Where there is none they are *ignored with the reason*, never passed.
//!
//! The built-in test harness cannot ignore a test at run time, so a file of such claims is a target with
//! `harness = false` whose `main` comes from [`godot_claims!`](crate::godot_claims). Its command line and its
//! output are those of every Rust test. Claims run one after the other unless `--test-threads` says otherwise:
//! engines and watchdogs are measured by the clock, and the machine may be small.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Trial};

use crate::godot::fetch::{Template, template};
use crate::godot::{self, Godot};

const NO_TEMPLATE: &str = "no release template beside this Godot; `cargo xtask godot` unpacks one with the engine into an \
                           empty cache folder";

/// A named test that is given the engine.
#[derive(Debug, Clone, Copy)]
pub struct Claim {
    /// What is claimed, as a name: `records_before_a_crash_arrive`.
    pub name: &'static str,
    /// Panics when the claim does not hold.
    pub run: fn(&Godot),
}

/// A named test that is given the engine and a release build of it; panics when the claim does not hold.
pub type TemplateClaim = (&'static str, fn(&Godot, Template));

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

/// Runs claims of a release build of the engine, which is ignored where none was unpacked with the engine.
pub fn of_templates(claims: &[TemplateClaim]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let complete = |run: fn(&Godot, Template)| {
        let godot = match find() {
            Ok(godot) => godot,
            Err(ignored) => return ignored,
        };
        match template(&godot) {
            Some(template) => run(&godot, template),
            None => return Completion::ignored_with(NO_TEMPLATE),
        }
        Completion::Completed
    };
    let trials = claims
        .iter()
        .map(|&(name, run)| Trial::ignorable_test(name, move || Ok(complete(run))));
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
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
    claims
        .iter()
        .map(|claim| {
            let run = claim.run;
            Trial::ignorable_test(claim.name, move || Ok(complete(run, find())))
        })
        .collect()
}

fn complete(run: fn(&Godot), found: Result<Godot, Completion>) -> Completion {
    match found {
        Ok(godot) => {
            run(&godot);
            Completion::Completed
        }
        Err(ignored) => ignored,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(_: &Godot) {
        panic!("it was run");
    }

    #[test]
    fn without_a_godot_a_claim_is_ignored_with_the_reason_and_not_run() {
        let completion = complete(fails, Err(Completion::ignored_with("none here")));
        let Completion::Ignored { reason } = completion else {
            panic!("it counts as passed");
        };
        assert_eq!(reason.as_deref(), Some("none here"));
    }
}
