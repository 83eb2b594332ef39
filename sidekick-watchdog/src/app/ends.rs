//! What the watchdog records of each session's end, as stream `sidekick.end`: which sequence number was the last.
//!
//! With it analytics can tell a crash from a quiet server, and whether all of a session has arrived. The record follows
//! from what the state knows of the session, and is named by its epoch: told again after any failure, it is taken once.

use std::time::SystemTime;

use sidekick_ipc::value::{Value, encode};
use uuid::Uuid;

use crate::store::{AppendError, Derived, DerivedError, SessionState, Store};

/// The stream.
const STREAM: &str = "sidekick.end";
/// How the cause of an end begins that the game announced.
const CLEAN: &str = "quit with exit code ";

/// Why a session has ended, in words, when all of its ring was read.
pub(super) fn cause(clean_exit: Option<i32>) -> String {
    clean_exit.map_or_else(|| "died".to_owned(), |code| format!("{CLEAN}{code}"))
}

/// Records how `epoch`, a session of `source`, has ended. Nothing where it has not, or nobody remembers it.
///
/// # Errors
/// As [`Store::note`]; to be called again then.
pub(super) async fn note(store: &Store, source: &str, epoch: Uuid) -> Result<(), AppendError> {
    let Some(session) = store.session(source, epoch) else {
        return Ok(());
    };
    let game_version = store.game_version(source, session.launch, epoch);
    let Some(value) = value(epoch, &session, &game_version) else {
        return Ok(());
    };
    let variant = encode(&value);
    let record = Derived {
        source,
        id: epoch,
        incarnation: session.launch,
        time: SystemTime::now(),
        stream: STREAM,
        variant: &variant,
    };
    match store.note(&record).await {
        Ok(()) => Ok(()),
        Err(DerivedError::Append(error)) => Err(error),
        // It is small, and its stream is ours.
        Err(error) => {
            tracing::error!(%epoch, %error, "the end of a session is not recorded");
            Ok(())
        }
    }
}

fn value(epoch: Uuid, session: &SessionState, game_version: &str) -> Option<Value> {
    let end = session.end.as_ref()?;
    let text = |text: &str| Value::String(text.to_owned());
    let last_seq = session.next_seq.saturating_sub(1);
    let fields = [
        ("epoch", text(&epoch.to_string())),
        (
            "last_seq",
            Value::Int(i64::try_from(last_seq).unwrap_or(i64::MAX)),
        ),
        ("cause", text(&end.cause)),
        ("clean", Value::Bool(end.cause.starts_with(CLEAN))),
        ("tail_unknown", Value::Bool(end.tail_unknown)),
        ("game_version", text(game_version)),
    ];
    let entries = fields.map(|(key, value)| (text(key), value));
    Some(Value::Dictionary(entries.into()))
}
