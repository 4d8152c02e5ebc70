//! How bytes reach a peer: TCP with Noise and Yamux, or QUIC, both behind DNS.
//!
//! TCP is always offered, since QUIC does not get through everywhere; Noise and Yamux are what
//! every libp2p speaks. Windows are sized for strangers: a connection can make us hold tens of
//! megabytes at most, and only with as many streams open.

use std::time::Duration;

use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::{Boxed, OrTransport, Transport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, dns, noise, quic, tcp};

use crate::muxer::Bounds;

/// From the first byte of a connection to the last of its handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);

/// A QUIC connection that hears nothing for so long is dead.
const QUIC_IDLE: Duration = Duration::from_secs(30);

/// A silent address is given up after this time; TCP hears of a closed port, QUIC does not.
const QUIC_HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// How often a silent QUIC connection says that it lives.
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The receive window of one QUIC stream, in bytes.
const QUIC_STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// The receive window of one QUIC connection, in bytes.
const QUIC_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What a transport hands over: who is there, and the connection.
pub(crate) type Output = (PeerId, StreamMuxerBox);

/// TCP and QUIC under one roof.
///
/// # Errors
///
/// A text when the Noise keys cannot be made.
pub(crate) fn build(keypair: &Keypair, max_streams: usize) -> Result<Boxed<Output>, String> {
    // The resolver takes the transport for good, so falling back needs a second one.
    let resolved = match dns::tokio::Transport::system(plain(keypair, max_streams)?) {
        Ok(transport) => transport.boxed(),
        Err(error) => {
            tracing::warn!(%error, "no usable resolver configuration, using public resolvers");
            let (config, options) = (dns::ResolverConfig::default(), dns::ResolverOpts::default());
            dns::tokio::Transport::custom(plain(keypair, max_streams)?, config, options).boxed()
        }
    };
    Ok(resolved)
}

fn plain(keypair: &Keypair, max_streams: usize) -> Result<Boxed<Output>, String> {
    let noise = noise::Config::new(keypair).map_err(|e| e.to_string())?;
    let tcp = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(Bounds::new(max_streams))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let quic = quic::tokio::Transport::new(quic_config(keypair, max_streams))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let either = OrTransport::new(quic, tcp).map(|either, _| either.into_inner());
    Ok(libp2p::core::transport::timeout::TransportTimeout::new(either, HANDSHAKE_DEADLINE).boxed())
}

fn quic_config(keypair: &Keypair, max_streams: usize) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.max_idle_timeout = QUIC_IDLE.as_millis() as u32;
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.handshake_timeout = QUIC_HANDSHAKE_DEADLINE;
    config.max_concurrent_stream_limit = u32::try_from(max_streams / 2).unwrap_or(u32::MAX);
    config.max_stream_data = QUIC_STREAM_WINDOW_BYTES;
    config.max_connection_data = QUIC_CONNECTION_WINDOW_BYTES;
    config
}
