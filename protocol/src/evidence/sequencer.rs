//! Faults of the committee: what it certified. A committee of one, so far.

use minicbor::{Decode, Encode};

use super::{ClaimError, Cleared, Fault, Verdict, in_order};
use crate::cut::{CertifiedCut, Cut};
use crate::error::VerifyError;
use crate::genesis::Federation;
use crate::signed::{Verified, Verify};
use crate::state::{State, StateKey, apply};

/// A certified cut that `apply` refuses, with the whole state before it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct InvalidCut {
    /// The cut before; none before the first.
    #[n(0)]
    pub before: Option<CertifiedCut>,
    /// All values of the state after that, in ascending order of key.
    #[n(1)]
    pub state: Vec<Row>,
    /// The cut.
    #[n(2)]
    pub cut: Cut,
}

/// One value of a state.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Row {
    /// Its key.
    #[n(0)]
    pub key: StateKey,
    /// Its canonical bytes.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub value: Vec<u8>,
}

impl InvalidCut {
    /// The claim that `cut` cannot follow `state`, which the cut `before` certified.
    pub fn of(state: &State, before: Option<CertifiedCut>, cut: Cut) -> InvalidCut {
        let keys = state.keys();
        let rows = keys.into_iter().filter_map(|key| Some(Row { key, value: state.value(&key)? }));
        InvalidCut { before, state: rows.collect(), cut }
    }

    fn state(&self, federation: &Federation) -> Result<State, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("invalid cut", reason));
        let mut state = State::genesis(federation);
        if let Some(before) = &self.before {
            before.verify(federation)?;
            let header = &before.header;
            (state.epoch, state.time_ms, state.age_ms) = (header.epoch, header.time_ms, header.age_ms);
            state.cut = header.digest(federation);
        }
        if self.state.windows(2).any(|pair| pair[0].key >= pair[1].key) {
            return Err(malformed("the state is not in ascending order"));
        }
        for row in &self.state {
            state.restore(row.key, &row.value).map_err(|_| malformed("the state holds what is no value"))?;
        }
        match &self.before {
            Some(before) if before.header.state != state.root() => Err(VerifyError::Path { what: "state" }.into()),
            None if !self.state.is_empty() => Err(malformed("there is nothing before the first cut")),
            _ => Ok(state),
        }
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let malformed = |reason| ClaimError::from(VerifyError::malformed("invalid cut", reason));
        let header = &self.cut.certified.header;
        self.cut.certified.verify(federation)?;
        let state = self.state(federation)?;
        if header.epoch != state.epoch + 1 {
            return Err(malformed("the state is not that before the cut"));
        }
        if self.cut.body.parts(federation) != [header.records, header.fills, header.headers] {
            return Err(malformed("the body is not what the cut commits to"));
        }
        for sealed in &self.cut.body.headers {
            // The cut commits to a header's digest, and not to the bytes of its signature.
            sealed.header.verify(federation)?;
        }
        if let Ok(cut) = Verified::check(self.cut.clone(), federation)
            && apply(&state, &cut, federation).is_ok()
        {
            return Err(Cleared::Valid { epoch: header.epoch }.into());
        }
        Ok(Verdict::new(Fault::InvalidCut, federation.sequencer(), header.epoch))
    }
}

/// Two certified cuts of one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct SplitOrder {
    /// The one with the lower digest.
    #[n(0)]
    pub first: CertifiedCut,
    /// The other one.
    #[n(1)]
    pub second: CertifiedCut,
}

impl SplitOrder {
    /// Of two cuts in any order.
    pub fn of(a: CertifiedCut, b: CertifiedCut, federation: &Federation) -> SplitOrder {
        let is_first = a.header.digest(federation) < b.header.digest(federation);
        let (first, second) = if is_first { (a, b) } else { (b, a) };
        SplitOrder { first, second }
    }

    pub(super) fn judge(&self, federation: &Federation) -> Result<Verdict, ClaimError> {
        let (first, second) = (&self.first.header, &self.second.header);
        self.first.verify(federation)?;
        self.second.verify(federation)?;
        if first.epoch != second.epoch {
            return Err(Cleared::OtherSlot.into());
        }
        in_order(first.digest(federation), second.digest(federation))?;
        Ok(Verdict::new(Fault::SplitOrder, federation.sequencer(), first.epoch))
    }
}
