//! Whether players can be sent to the server, as the status tells it: for the registry.

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::api::{EngineState, EngineStatus, Status};
use crate::registry::Presence;

/// Follows the status in a task of its own, for as long as somebody makes it.
pub(super) fn follow(
    mut status: watch::Receiver<Status>,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<Presence> {
    let (sender, presence) = watch::channel(Presence::default());
    tasks.spawn(async move {
        // Where a game says that players may come, they do not come before.
        let mut says_ready = false;
        loop {
            let now = presence_of(&status.borrow_and_update().engine, &mut says_ready);
            sender.send_if_modified(|presence| std::mem::replace(presence, now) != now);
            if status.changed().await.is_err() {
                return;
            }
        }
    });
    presence
}

fn presence_of(engine: &EngineStatus, says_ready: &mut bool) -> Presence {
    *says_ready |= engine.ready || engine.ready_required;
    match engine.state {
        EngineState::Running if engine.ready || !*says_ready => Presence::Up,
        EngineState::Stopping => Presence::Draining,
        EngineState::Starting
        | EngineState::Running
        | EngineState::Hung
        | EngineState::Backoff
        | EngineState::CrashLoop
        | EngineState::Stopped
        | EngineState::GaveUp => Presence::Away,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn players_are_sent_where_somebody_serves() {
        let mut says_ready = false;
        let mut engine = EngineStatus {
            state: EngineState::Running,
            ..EngineStatus::default()
        };
        assert_eq!(presence_of(&engine, &mut says_ready), Presence::Up);
        engine.ready = true;
        assert_eq!(presence_of(&engine, &mut says_ready), Presence::Up);
        // The next one loads, and will say so as the one before did.
        engine.ready = false;
        assert_eq!(presence_of(&engine, &mut says_ready), Presence::Away);
        engine.state = EngineState::Stopping;
        assert_eq!(presence_of(&engine, &mut says_ready), Presence::Draining);
        for state in [
            EngineState::Hung,
            EngineState::Backoff,
            EngineState::Starting,
        ] {
            engine.state = state;
            assert_eq!(presence_of(&engine, &mut says_ready), Presence::Away);
        }
    }
}
