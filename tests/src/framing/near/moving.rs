//! Near misses about moves: what homes said of mailboxes that live, lived or never lived there.

use postroad_protocol::batch::AttestationRef;
use postroad_protocol::evidence::{
    Broken, Claim, Closed, FalseBase, FalseHandoff, FalseHome, FalseImport, NotContinued, PendingThen, Refuted,
    SettledImport,
};
use postroad_protocol::moving::{Base, Handoff, Import};
use postroad_protocol::state::HomeProof;
use postroad_protocol::{MailboxId, Signature, Signed};

use super::{History, Prosecutor, View};

impl<'a> Prosecutor<'a> {
    /// Where a mailbox lives about when it was attested, or much later.
    pub(super) fn home_near(&mut self, h: &History, mailbox: &MailboxId, view: &View) -> Option<HomeProof> {
        let epoch = view.said.attestation.body.epoch;
        let epoch = match self.rng.permille(900) {
            true => epoch.max(1) + self.rng.below(h.last_epoch().saturating_sub(epoch).max(1)),
            false => self.epoch_near(h, epoch),
        };
        h.home(mailbox, epoch.min(h.last_epoch()))
    }

    /// A mailbox that has moved, if there is one; else any.
    fn moved(&mut self, h: &History) -> Option<MailboxId> {
        let last = h.states.last()?;
        let has_moved = |id: &&MailboxId| last.mailbox(id).is_some_and(|known| known.moved.is_some());
        let moved: Vec<MailboxId> = h.mailboxes.iter().filter(has_moved).copied().collect();
        match self.rng.permille(900) {
            true => self.pick(&moved).or_else(|| self.pick(&h.mailboxes)),
            false => self.pick(&h.mailboxes),
        }
    }

    /// An attestation that names the mailbox most of the time.
    fn view_of(&mut self, h: &'a History, mailbox: &MailboxId) -> Option<&'a View> {
        let names = |view: &&View| view.said.map.contains(mailbox);
        let naming: Vec<&View> = h.views.iter().filter(names).collect();
        match self.rng.permille(850) {
            true => self.pick(&naming),
            false => (!h.views.is_empty()).then(|| &h.views[self.rng.index(h.views.len())]),
        }
    }

    /// What an attestation says of a mailbox, as an import or a handoff names it; with a slip now and then.
    fn base(&mut self, h: &History, mailbox: &MailboxId, view: &View) -> Option<Base> {
        let body = &view.said.attestation.body;
        let mut log = view.said.map.get(mailbox)?.log;
        let digest = view.said.attestation.digest(&h.federation);
        let mut attestation = AttestationRef { number: body.number, digest, epoch: body.epoch };
        match self.rng.below(8) {
            0 => log.size += 1,
            1 => attestation.number += 1,
            _ => {}
        }
        Some(Base { node: body.node, attestation, log })
    }

    /// Nobody has said so: a signature for something else.
    fn unsigned<T>(&mut self, h: &'a History, body: T) -> Option<Signed<T>> {
        let signature: Signature = self.batch(h)?.header.signature;
        Some(Signed { body, signature })
    }

    fn refuted(&mut self, h: &'a History, mailbox: &MailboxId, view: &'a View) -> Option<Refuted> {
        let other = if self.rng.permille(700) { view } else { self.view_of(h, mailbox)? };
        Some(match other.anchor.clone().filter(|_| self.rng.permille(400)) {
            Some(anchor) => Refuted::Other(Box::new(anchor)),
            None => Refuted::Log(Box::new(other.of(mailbox))),
        })
    }

    pub(super) fn false_handoff(&mut self, h: &'a History) -> Option<Claim> {
        let mailbox = self.moved(h)?;
        let view = self.view_of(h, &mailbox)?;
        let Base { node, attestation, log } = self.base(h, &mailbox, view)?;
        let handoff = Handoff { node, mailbox, home: self.pick(&h.nodes)?, attestation, log };
        let handoff = self.unsigned(h, handoff)?;
        let by = self.refuted(h, &mailbox, view)?;
        Some(Claim::FalseHandoff(Box::new(FalseHandoff { handoff, by })))
    }

    pub(super) fn false_import(&mut self, h: &'a History) -> Option<Claim> {
        let mailbox = self.moved(h)?;
        let view = self.view_of(h, &mailbox)?;
        if self.rng.permille(400) {
            let settled = self.import(h, &mailbox).map(|settled| settled.import);
            let import = match settled.filter(|_| self.rng.permille(900)) {
                Some(import) => import,
                None => {
                    let base = self.base(h, &mailbox, view);
                    let (home, previous) = (self.pick(&h.nodes)?, self.batch(h)?.digest);
                    let through = self.epoch_near(h, 1);
                    self.unsigned(h, Import { mailbox, home, previous, base, through, missing: Vec::new() })?
                }
            };
            let named = import.body.base.map(|base| base.attestation.digest);
            let said = |view: &&View| Some(view.said.attestation.digest(&h.federation)) == named;
            let view = h.views.iter().find(said).filter(|_| self.rng.permille(800)).unwrap_or(view);
            let by = self.refuted(h, &mailbox, view)?;
            return Some(Claim::FalseImport(FalseImport::Base(Box::new(FalseBase { import, by }))));
        }
        let home = self.home_near(h, &mailbox, view)?;
        let size = view.said.map.get(&mailbox).map_or(0, |said| said.log.size);
        let base = home.value.as_ref().and_then(|value| value.moved.as_ref()?.import.as_ref()?.base);
        let from = base.map_or(0, |base| base.log.size);
        let broken = match self.rng.below(3) {
            0 => Broken::Shorter,
            1 => {
                let index = self.rng.below(size.max(1)) as usize;
                let former = |other: &&View| other.said.map.get(&mailbox).map(|said| said.log) == base.map(|it| it.log);
                let former = h.views.iter().find(former).unwrap_or(view);
                let theirs = h.leaf(former.said.map.get(&mailbox)?, index)?;
                Broken::Entry(Box::new(theirs), Box::new(h.leaf(view.said.map.get(&mailbox)?, index)?))
            }
            _ => {
                let index = from + self.rng.below(size.saturating_sub(from).max(1));
                Broken::Early(Box::new(h.leaf(view.said.map.get(&mailbox)?, index as usize)?))
            }
        };
        let claim = NotContinued { mailbox, attested: view.of(&mailbox), home, broken };
        Some(Claim::FalseImport(FalseImport::Continued(Box::new(claim))))
    }

    pub(super) fn false_home(&mut self, h: &'a History) -> Option<Claim> {
        let mailbox = self.moved(h)?;
        let view = self.view_of(h, &mailbox)?;
        let other = self.or_other(h);
        let home = self.home_near(other, &mailbox, view)?;
        Some(Claim::FalseHome(Box::new(FalseHome { mailbox, attested: view.of(&mailbox), home })))
    }

    /// An import of a mailbox that a cut has settled.
    fn import(&mut self, h: &History, mailbox: &MailboxId) -> Option<SettledImport> {
        let settled: Vec<SettledImport> = h.cuts.iter().filter_map(|cut| SettledImport::find(cut, mailbox)).collect();
        (!settled.is_empty()).then(|| settled[self.rng.index(settled.len())].clone())
    }

    /// That an import took over whatever it is.
    pub(super) fn closed(&mut self, h: &'a History, mailbox: &MailboxId) -> Option<Closed> {
        let by = self.import(h, mailbox)?;
        let digest = by.import.body.previous;
        let of = |cut| SettledImport::find(cut, mailbox).map(|settled| settled.import);
        let after = h.cuts.iter().filter_map(of).find(|import| import.digest(&h.federation) == digest);
        let after = after.filter(|_| self.rng.permille(900)).map(Box::new);
        let epoch = 1 + self.rng.below(h.last_epoch());
        let state = &h.states[epoch as usize];
        let pending = state.all_pending().next().filter(|_| self.rng.permille(300));
        let pending = pending.and_then(|(key, pending)| {
            let (cut, path) = (h.certified(epoch)?.clone(), state.prove_pending(key));
            Some(Box::new(PendingThen { cut, pending: pending.clone(), path, parts: state.parts() }))
        });
        Some(Closed { by, after, pending })
    }
}
