//! One slice of one batch on its way: who was asked to hold it, who has answered, and until when to wait.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use postroad_protocol::batch::{Header, SliceRef};
use postroad_protocol::receipt::{Custody, CustodyRequest, Receipt, RefusedLeaf};
use postroad_protocol::slice::{SliceBody, SliceKey};
use postroad_protocol::wire::mail::{Outward, SliceName, SliceParcel};
use postroad_protocol::{Digest, Federation, NodeId, Signed, Verified};

use super::Origin;
use crate::io::Time;

/// A slice on its way.
#[derive(Debug)]
pub(super) struct Leg {
    pub(super) key: SliceKey,
    pub(super) slice: SliceRef,
    pub(super) deadline: Option<Time>,
    /// For a slice of this node's own: the leaves that its receipt refuses.
    pub(super) refused: Vec<RefusedLeaf>,
    body: Arc<SliceBody>,
    /// The destination's own receipt.
    destination: Option<Receipt>,
    request: Option<Signed<CustodyRequest>>,
    /// The custodians of that request, with their receipts.
    custodians: BTreeMap<NodeId, Option<Receipt>>,
    /// When each node was last sent something that it has to answer.
    sent: BTreeMap<NodeId, Time>,
    /// Who was sent the body.
    has_body: BTreeSet<NodeId>,
    failed: BTreeSet<NodeId>,
}

impl Leg {
    pub(super) fn new(key: SliceKey, slice: SliceRef, body: Arc<SliceBody>) -> Leg {
        Leg {
            key,
            slice,
            deadline: None,
            refused: Vec::new(),
            body,
            destination: None,
            request: None,
            custodians: BTreeMap::new(),
            sent: BTreeMap::new(),
            has_body: BTreeSet::new(),
            failed: BTreeSet::new(),
        }
    }

    pub(super) fn body(&self) -> Arc<SliceBody> {
        Arc::clone(&self.body)
    }

    /// The whole slice, as it goes to a holder under the request of now.
    pub(super) fn parcel(&self, header: &Signed<Header>) -> Outward {
        Outward::Slice(Box::new(SliceParcel {
            header: header.clone(),
            destination: self.key.destination,
            request: self.request.clone(),
            body: (*self.body).clone(),
        }))
    }

    /// The slice's name, for a holder that was sent the body before.
    pub(super) fn resume(&self) -> Outward {
        Outward::Resume(Box::new(SliceName { slice: self.key, request: self.request.clone() }))
    }

    /// Notes that something was sent to `node`, which has `deadline_ms` to answer.
    pub(super) fn send_to(&mut self, node: NodeId, now: Time, deadline_ms: u64) {
        self.sent.insert(node, now);
        self.has_body.insert(node);
        let deadline = now.after_ms(deadline_ms);
        self.deadline = Some(self.deadline.map_or(deadline, |other| other.max(deadline)));
    }

    pub(super) fn has_body(&self, node: &NodeId) -> bool {
        self.has_body.contains(node)
    }

    /// Whether an answer of `node` would complete something.
    pub(super) fn awaits(&self, node: &NodeId) -> bool {
        match &self.request {
            None => *node == self.key.destination && self.destination.is_none(),
            Some(_) => self.custodians.get(node).is_some_and(Option::is_none),
        }
    }

    /// All nodes whose answer is awaited.
    pub(super) fn awaited(&self) -> Vec<NodeId> {
        match &self.request {
            None if self.destination.is_none() => vec![self.key.destination],
            None => Vec::new(),
            Some(_) => self.custodians.iter().filter(|(_, receipt)| receipt.is_none()).map(|(node, _)| *node).collect(),
        }
    }

    pub(super) fn failed(&mut self, nodes: &[NodeId]) {
        self.failed.extend(nodes);
    }

    pub(super) fn has_failed(&self, node: &NodeId) -> bool {
        self.failed.contains(node)
    }

    /// Asks exactly these custodians, under a new request; none at all for an own slice whose receipt then stands
    /// alone. Returns whether anything is to be sent.
    pub(super) fn ask(&mut self, chosen: Vec<NodeId>, origin: &Origin, incarnation: u64) -> bool {
        self.deadline = None;
        self.custodians.clear();
        self.request = None;
        if chosen.is_empty() {
            return false;
        }
        self.custodians = chosen.iter().map(|node| (*node, None)).collect();
        let body = CustodyRequest {
            origin: origin.me,
            incarnation,
            header: self.key.header,
            destination: self.key.destination,
            slice: self.slice.root,
            custodians: chosen,
        };
        self.request = Some(Signed::sign(body, &origin.secret, &origin.federation).into_inner());
        true
    }

    pub(super) fn request_digest(&self, federation: &Federation) -> Option<Digest> {
        self.request.as_ref().map(|request| request.digest(federation))
    }

    /// Takes a receipt. Returns how long its holder took, if it was asked.
    pub(super) fn take_receipt(
        &mut self,
        receipt: &Verified<Receipt>,
        now: Time,
        federation: &Federation,
    ) -> Option<u64> {
        if receipt.item.slice != self.slice.root {
            return None;
        }
        let holder = receipt.holder();
        let elapsed_ms = self.sent.remove(&holder).map(|sent| now.since_ms(sent));
        match receipt.item.request {
            None if holder == self.key.destination => self.destination = Some((**receipt).clone()),
            Some(digest) if self.request_digest(federation) == Some(digest) => {
                if let Some(slot) = self.custodians.get_mut(&holder) {
                    *slot = Some((**receipt).clone());
                }
            }
            _ => {}
        }
        if self.awaited().is_empty() {
            self.deadline = None;
        }
        elapsed_ms
    }

    /// The receipts, once they are complete. The destination's own one makes custodians unnecessary, except for a slice
    /// of the origin for itself.
    pub(super) fn custody(&self) -> Option<Custody> {
        let own = self.key.destination == self.key.origin;
        let custodians: Option<Vec<Receipt>> = self.custodians.values().cloned().collect();
        match (&self.destination, &self.request) {
            (Some(receipt), _) if !own => Some(Custody { request: None, receipts: vec![receipt.clone()] }),
            (Some(receipt), None) => Some(Custody { request: None, receipts: vec![receipt.clone()] }),
            (Some(receipt), Some(request)) => {
                let mut receipts = vec![receipt.clone()];
                receipts.extend(custodians?);
                Some(Custody { request: Some(request.clone()), receipts })
            }
            (None, Some(request)) => Some(Custody { request: Some(request.clone()), receipts: custodians? }),
            (None, None) => None,
        }
    }
}
