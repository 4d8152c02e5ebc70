"""A py-libp2p peer against a node: identify, ping, a call and its answer, and calls that mean nothing.

Prints one JSON object; exits with 1 when something is not as docs/protocol.md has it.
"""

import json
import struct
import sys

import cbor2
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY, parse_identify_response
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.utils.varint import read_length_prefixed_protobuf
from multiaddr import Multiaddr

CALL = TProtocol("/postroad/1/call")
CLIENT = TProtocol("/postroad/1/client")
STATUS = bytes([0x82, 0x01, 0x80])  # Question::Status
MORE = 1 << 31


def frame(message):
    return struct.pack(">I", len(message)) + message


def unframe(data):
    messages, message = [], b""
    while data:
        (head,) = struct.unpack(">I", data[:4])
        length = head % MORE
        assert len(data) >= 4 + length, "a whole frame"
        message += data[4 : 4 + length]
        data = data[4 + length :]
        if head < MORE:
            messages.append(message)
            message = b""
    assert not message, "a whole message"
    return messages


async def read_all(stream):
    """Everything that the node sends until it ends the stream."""
    data = b""
    while True:
        try:
            part = await stream.read(65536)
        except StreamEOF:
            return data
        if not part:
            return data
        data += part


async def main(address):
    info = info_from_p2p_addr(Multiaddr(address))
    host = new_host(key_pair=create_new_key_pair(), muxer_preference="YAMUX")
    async with host.run(listen_addrs=[]):
        await host.connect(info)

        async def exchange(protocol, data):
            stream = await host.new_stream(info.peer_id, [protocol])
            await stream.write(data)
            return await read_all(stream)

        stream = await host.new_stream(info.peer_id, [IDENTIFY])
        identified = parse_identify_response(await read_length_prefixed_protobuf(stream, True))
        assert identified.agent_version.startswith("postroad/"), identified.agent_version
        assert {CALL, CLIENT} <= set(identified.protocols), identified.protocols
        await PingService(host).ping(info.peer_id)
        [answer] = unframe(await exchange(CALL, frame(STATUS)))
        kind, [status] = cbor2.loads(answer)
        assert kind == 2 and len(status) >= 10 and len(status[0]) == 32, "Reply::Status"
        # No message: told so, and the stream ends. No frame: the stream ends.
        [refused] = unframe(await exchange(CALL, frame(b"\xff")))
        assert cbor2.loads(refused)[0] == 0, "Reply::Refused"
        try:
            await exchange(CLIENT, b"\x7f\xff\xff\xff")
        except StreamError:
            pass
        # The node lives, on the same connection.
        await PingService(host).ping(info.peer_id)
        [again] = unframe(await exchange(CALL, frame(STATUS)))
        assert cbor2.loads(again)[0] == 2
        print(json.dumps({
            "agentVersion": identified.agent_version,
            "epoch": status[3],
            "version": status[9],
        }))


async def within_a_minute():
    with trio.fail_after(60):
        await main(sys.argv[1])


trio.run(within_a_minute)
