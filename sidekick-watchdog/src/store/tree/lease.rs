//! Leases: who may, for how long, in log time (CORRECTNESS rule 22).

use sidekick_ipc::tree::{Answer, DeleteReason, ErrorKind, LeaseRef, Path};

use super::change::Change;
use super::node::{Held, Node};
use super::write::{Actor, Moment, done};
use super::{Done, Failure, Tree};

impl Change<'_> {
    pub(super) fn lease_grant(
        &mut self,
        actor: Actor<'_>,
        moment: &Moment<'_>,
        path: Path,
        ttl_ms: u64,
    ) -> Done {
        let held = self
            .tree
            .nodes
            .get(&path)
            .and_then(|node| node.held.as_ref());
        if let Some(held) = held {
            // The same game, gone on in a new process: what hangs on the lease goes over to it.
            let is_heir = !actor.source.is_empty()
                && held.source == actor.source
                && (moment.is_ended)(&held.source, &held.epoch);
            if held.epoch != actor.epoch && !is_heir {
                let left_ms = held.ends_ns.saturating_sub(moment.time_ns) / 1_000_000;
                let message = format!(
                    "the lease at {path} is held under token {}, for {left_ms} ms more unless it is renewed",
                    held.token
                );
                return Err(Failure::new(ErrorKind::LeaseHeld, message));
            }
        }
        // Higher than that of every grant before it, in this tree and in its log.
        let token = self.revision();
        let ttl_ns = ttl_ms.saturating_mul(1_000_000);
        let held = Held {
            token,
            ttl_ns,
            ends_ns: moment.time_ns.saturating_add(ttl_ns),
            source: actor.source.to_owned(),
            epoch: actor.epoch,
        };
        if self.tree.nodes.contains_key(&path) {
            self.update(&path, |node| node.held = Some(held));
            self.touch(&path, false, DeleteReason::Lease);
        } else {
            let mut node = Node::implicit();
            node.held = Some(held);
            self.create(&path, node);
        }
        self.settle();
        Ok(Answer {
            lease: Some(LeaseRef { path, token }),
            ..done()
        })
    }

    pub(super) fn lease_renew(&mut self, moment: &Moment<'_>, lease: LeaseRef) -> Done {
        self.tree.demand_lease(&lease)?;
        self.update(&lease.path, |node| {
            if let Some(held) = &mut node.held {
                held.ends_ns = moment.time_ns.saturating_add(held.ttl_ns);
            }
        });
        Ok(Answer {
            lease: Some(lease),
            ..done()
        })
    }

    pub(super) fn lease_release(&mut self, lease: &LeaseRef) -> Done {
        self.tree.demand_lease(lease)?;
        self.lease_end(&lease.path);
        Ok(done())
    }

    fn lease_end(&mut self, path: &Path) {
        self.update(path, |node| node.held = None);
        self.touch(path, false, DeleteReason::Lease);
        self.settle();
    }
}

impl Tree {
    /// How long a lease that is held under its token lives, and when it ends in log time, both in nanoseconds.
    pub(crate) fn lease_time(&self, lease: &LeaseRef) -> Option<(u64, u64)> {
        let held = self.nodes.get(&lease.path)?.held.as_ref()?;
        (held.token == lease.token).then_some((held.ttl_ns, held.ends_ns))
    }

    /// Ends every lease that is due at `time_ns`, each as a write of its own.
    pub(crate) fn expire(&mut self, time_ns: u64) {
        while let Some((ends_ns, path)) = self.index.ends.first().cloned() {
            if ends_ns > time_ns {
                return;
            }
            let _never_fails = self.change(|change| {
                change.lease_end(&path);
                Ok(done())
            });
        }
    }
}
