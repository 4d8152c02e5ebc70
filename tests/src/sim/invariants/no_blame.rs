//! Nobody honest can be blamed: in what is included, no origin forged, took what had expired, or put one sender's
//! bundles out of order within one incarnation.

use std::collections::{BTreeMap, BTreeSet};

use postroad_protocol::bundle::Bundle;
use postroad_protocol::cut::Cut;
use postroad_protocol::{Digest, Federation, MailboxId, NodeId};

use super::{Verdict, broken};

const NAME: &str = "no-blame";

/// The last counters that were included.
#[derive(Debug, Default)]
pub(in crate::sim) struct NoBlame {
    /// Origin, incarnation and sender → the last counter.
    counters: BTreeMap<(NodeId, u64, MailboxId), u64>,
}

impl NoBlame {
    /// The next cut; `bundles` knows what is in the batch of a header.
    pub(in crate::sim) fn ordered<'b>(
        &mut self,
        cut: &Cut,
        bundles: impl Fn(&Digest) -> Option<&'b [Bundle]>,
        sinners: &BTreeSet<NodeId>,
        federation: &Federation,
    ) -> Verdict {
        for sealed in &cut.body.headers {
            let header = &sealed.header.body;
            let origin = header.origin;
            if sinners.contains(&origin) {
                continue;
            }
            for bundle in bundles(&sealed.digest(federation)).unwrap_or_default() {
                let body = &bundle.signed.body;
                if body.via != origin {
                    return broken(NAME, format!("{origin:?} took a bundle that was meant for {:?}", body.via));
                }
                if body.valid_until < header.routing_epoch {
                    return broken(NAME, format!("{origin:?} sealed bundle {} after it had expired", body.counter));
                }
                let last = self.counters.entry((origin, header.incarnation, body.sender)).or_insert(0);
                if body.counter <= *last {
                    let counter = body.counter;
                    return broken(NAME, format!("{origin:?} put bundle {counter} of {:?} behind {last}", body.sender));
                }
                *last = body.last_counter();
            }
        }
        Ok(())
    }
}
