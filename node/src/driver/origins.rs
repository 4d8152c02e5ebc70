//! Origin tasks: one per inbound mail stream. Slices come in, are checked against their headers, and go to the core;
//! receipts, and credit for what is durable, go back.

use std::sync::Arc;

use postroad_engine::exhibits::Exhibit;
use postroad_engine::io::check_request;
use postroad_engine::{Held, Input};
use postroad_net::{Stream, StreamReader};
use postroad_protocol::codec::decode;
use postroad_protocol::wire::mail::{Homeward, Outward, SliceName};
use postroad_protocol::{NodeId, VerifyError, wire};
use tokio::sync::mpsc;

use super::Shared;
use super::core::ToCore;
use super::offences::OFFENCE;
use super::streams::{StreamError, next_link, read_greeting, write, write_all};
use crate::metrics::Metrics;

/// Bytes of slices that one origin may have on the way to this node.
const CREDIT_BYTES: u64 = 8 << 20;
/// Messages that wait for one origin, at most.
const MAX_QUEUED: usize = 4_096;

/// Serves one stream until it ends.
pub(super) async fn serve(shared: Shared, origin: NodeId, stream: Stream) -> Result<(), StreamError> {
    let (mut reader, mut writer) = stream.framed();
    let Outward::Hello(federation) = read_greeting(&mut reader, 1_024).await? else {
        return Err(StreamError::Unexpected("no greeting"));
    };
    if federation != shared.federation.id() {
        return Err(StreamError::Federation);
    }
    if shared.view.borrow().head.node(&origin).is_none() {
        return Err(StreamError::Unexpected("mail from somebody who is no node"));
    }
    write(&mut writer, &Homeward::Hello(shared.federation.id(), CREDIT_BYTES)).await?;
    let link = next_link();
    let (sender, mut queue) = mpsc::channel(MAX_QUEUED);
    // Only the core keeps the queue open: when it lets go, the stream ends.
    let weak = sender.downgrade();
    if !shared.tell(ToCore::OriginUp(origin, link, sender)).await {
        return Err(StreamError::Stopping);
    }
    let send = async {
        while let Some(message) = queue.recv().await {
            write_all(&mut writer, &message, &mut queue).await?;
        }
        Err(StreamError::Ended)
    };
    let ended = tokio::select! {
        ended = send => ended,
        ended = receive(&shared, origin, &mut reader, weak) => ended,
    };
    let _ = shared.tell(ToCore::OriginDown(origin, link)).await;
    if let Err(StreamError::Verify(_)) = &ended {
        shared.offended(origin, OFFENCE).await?;
    }
    ended
}

async fn receive(
    shared: &Shared,
    origin: NodeId,
    reader: &mut StreamReader,
    homeward: mpsc::WeakSender<Homeward>,
) -> Result<(), StreamError> {
    loop {
        let bytes = reader.read(wire::MAX_MAIL_BYTES).await?.ok_or(StreamError::Ended)?;
        let length = bytes.len() as u64;
        let (federation, metrics) = (shared.federation.clone(), Arc::clone(&shared.metrics));
        // Decoding and hashing a slice takes milliseconds when it is large.
        let checked =
            shared.offload(move || check(&bytes, &federation, &metrics)).await.ok_or(StreamError::Stopping)?;
        let input = match checked? {
            Message::Exhibit(exhibit, error) => {
                shared.tell(ToCore::input(Input::Exhibit(exhibit))).await;
                return Err(error.into());
            }
            Message::Slice(held) => Input::Slice(origin, *held),
            Message::Resume(name) => Input::Resume(origin, name.slice, name.request),
        };
        let is_slice = matches!(input, Input::Slice(..));
        if !shared.tell(ToCore::input(input)).await {
            return Err(StreamError::Stopping);
        }
        if is_slice {
            // Sent when everything before it is durable (or refused): both make room.
            let credit = ToCore::Durable(homeward.clone(), Homeward::Credit(length));
            if !shared.tell(credit).await {
                return Err(StreamError::Stopping);
            }
        }
    }
}

enum Message {
    Slice(Box<Held>),
    Resume(Box<SliceName>),
    /// A slice that is not taken, and that its origin signed all the same.
    Exhibit(Box<Exhibit>, VerifyError),
}

fn check(bytes: &[u8], federation: &postroad_protocol::Federation, metrics: &Metrics) -> Result<Message, StreamError> {
    match decode::<Outward>(bytes)? {
        Outward::Hello(_) => Err(StreamError::Unexpected("a second greeting")),
        Outward::Slice(parcel) => match Held::examine(*parcel, federation) {
            Ok(held) => Ok(Message::Slice(Box::new(metrics.checked("slice", Ok(held))?))),
            Err((error, exhibit)) => match (metrics.checked::<()>("slice", Err(error)), exhibit) {
                (Err(error), Some(exhibit)) => Ok(Message::Exhibit(exhibit, error)),
                (Err(error), None) => Err(error.into()),
                (Ok(()), _) => Err(StreamError::Unexpected("a slice that is none")),
            },
        },
        Outward::Resume(name) => {
            if let Some(request) = &name.request {
                metrics.checked("custody-request", check_request(request, &name.slice, federation))?;
            }
            Ok(Message::Resume(name))
        }
    }
}
