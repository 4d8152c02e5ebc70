//! A signature means one thing: one statement of one kind in one federation.

use std::collections::BTreeSet;

use ed25519_dalek::Signer as _;
use minicbor::{Encode, Encoder};
use postroad_protocol::attestation::{Acknowledgement, Attestation};
use postroad_protocol::batch::Header;
use postroad_protocol::bundle::BundleBody;
use postroad_protocol::cut::CutHeader;
use postroad_protocol::receipt::{CustodyRequest, ReceiptBody};
use postroad_protocol::record::{NodeRecord, Registration, Start};
use postroad_protocol::signed::{Statement, Verify, sign_digest, verify_digest};
use postroad_protocol::{Digest, Federation, PublicKey, Signed, VerifyError};

use crate::common::story::story;
use crate::common::{World, key};

/// The same bytes as a bundle's body, under another name.
struct Lookalike(BundleBody);

impl<C> Encode<C> for Lookalike {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut Encoder<W>,
        ctx: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        self.0.encode(e, ctx)
    }
}

impl Statement for Lookalike {
    const KIND: &'static str = "lookalike";

    fn signer(&self) -> PublicKey {
        self.0.sender
    }
}

fn other_federation() -> Federation {
    World::builder().name("another").unborn().federation
}

#[test]
fn a_signature_holds_for_one_federation() {
    let story = story();
    let (ours, theirs) = (&story.world.federation, other_federation());
    assert_ne!(ours.id(), theirs.id());
    fn only_here<T: Verify>(value: &T, ours: &Federation, theirs: &Federation) {
        assert_eq!(value.verify(ours), Ok(()));
        assert!(matches!(value.verify(theirs), Err(VerifyError::Signature { .. } | VerifyError::Certificate { .. })));
    }
    let world = &story.world;
    only_here(&story.first.bundles[0], ours, &theirs);
    only_here(&*story.first.header, ours, &theirs);
    only_here(&world.fill(&story.first, 2), ours, &theirs);
    only_here(&world.request(&story.first, 2, &[1, 3]), ours, &theirs);
    only_here(&world.node_record(1, 1), ours, &theirs);
    only_here(&world.start(1, 1), ours, &theirs);
    only_here(&world.registration(1), ours, &theirs);
    only_here(&*story.attested.signed, ours, &theirs);
    only_here(&world.acknowledgement(2), ours, &theirs);
    only_here(world.certified(2), ours, &theirs);
    only_here(&*world.cuts[1], ours, &theirs);
}

#[test]
fn a_signature_holds_for_one_kind() {
    let story = story();
    let federation = &story.world.federation;
    let signed = &story.first.bundles[0].signed;
    let twin = Signed { body: Lookalike(signed.body.clone()), signature: signed.signature };
    assert_ne!(twin.body.digest(federation.id()), signed.body.digest(federation.id()));
    let refused = Err(VerifyError::Signature { kind: "lookalike", signer: signed.body.sender });
    assert_eq!(twin.verify(federation), refused);
}

#[test]
fn a_signature_holds_for_one_signer() {
    let story = story();
    let mut signed = story.first.bundles[0].signed.clone();
    signed.body.sender = story.world.mailbox(1);
    assert!(signed.verify(&story.world.federation).is_err());
}

#[test]
fn kinds_and_hash_tags_are_all_different() {
    let kinds = [
        BundleBody::KIND,
        Header::KIND,
        ReceiptBody::KIND,
        CustodyRequest::KIND,
        NodeRecord::KIND,
        Start::KIND,
        Registration::KIND,
        CutHeader::KIND,
        Attestation::KIND,
        Acknowledgement::KIND,
    ];
    let tags = [
        "genesis",
        "committee",
        "state",
        "included",
        "custody",
        "slice-leaf",
        "slice-mailbox",
        "bundle-leaf",
        "message",
        "recipient",
        "own",
        "own-salt",
        "recipient-salt",
    ];
    let all: BTreeSet<&str> = kinds.into_iter().chain(tags).collect();
    assert_eq!(all.len(), kinds.len() + tags.len());
    // A tag ends with a zero byte, which no tag has in it: none can run on into what is hashed.
    assert!(all.iter().all(|tag| !tag.contains('\0')));
    assert_ne!(Digest::tagged("own", &[b"-salt"]), Digest::tagged("own-salt", &[]));
}

#[test]
fn what_is_signed_is_the_digest_behind_the_protocol_name_and_nothing_less() {
    let (secret, digest) = (key("signer"), Digest([5; 32]));
    let raw = ed25519_dalek::SigningKey::from_bytes(&secret.seed());
    let sign = |bytes: &[u8]| postroad_protocol::Signature(raw.sign(bytes).to_bytes());
    let framed = sign(&[b"postroad/1:", digest.0.as_slice()].concat());
    assert_eq!(framed, sign_digest(&secret, digest));
    assert!(verify_digest(&secret.public(), digest, &framed));
    for other in [b"".as_slice(), b"postroad/2:", b"postroad/1", b"noise-libp2p-static-key:"] {
        assert!(!verify_digest(&secret.public(), digest, &sign(&[other, digest.0.as_slice()].concat())));
    }
}
