// A js-libp2p peer against a node: identify, ping, a call and its answer, and calls that mean nothing.
// Prints one JSON object; exits with 1 when something is not as docs/protocol.md has it.
import './node20.mjs'
import assert from 'node:assert/strict'
import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { multiaddr } from '@multiformats/multiaddr'
import { decode } from 'cborg'
import { createLibp2p } from 'libp2p'

const CALL = '/postroad/1/call'
const CLIENT = '/postroad/1/client'
const STATUS = Uint8Array.of(0x82, 0x01, 0x80) // Question::Status
const MORE = 0x80000000

function frame(message) {
  const framed = new Uint8Array(4 + message.length)
  new DataView(framed.buffer).setUint32(0, message.length)
  framed.set(message, 4)
  return framed
}

// Everything that the node sends until it ends the stream.
async function readAll(stream) {
  const parts = []
  for await (const part of stream) parts.push(Buffer.from(part.subarray()))
  return Buffer.concat(parts)
}

function unframe(bytes) {
  const messages = []
  let message = []
  while (bytes.length > 0) {
    const head = bytes.readUInt32BE(0)
    const length = head % MORE
    message.push(bytes.subarray(4, 4 + length))
    assert.ok(bytes.length >= 4 + length, 'a whole frame')
    bytes = bytes.subarray(4 + length)
    if (head < MORE) {
      messages.push(Buffer.concat(message))
      message = []
    }
  }
  assert.equal(message.length, 0, 'a whole message')
  return messages
}

const address = multiaddr(process.argv[2])
const peer = await createLibp2p({
  transports: [tcp()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
})
const identified = new Promise((resolve) => peer.addEventListener('peer:identify', (event) => resolve(event.detail)))
const connection = await peer.dial(address)
assert.equal(connection.encryption, '/noise')
assert.equal(connection.multiplexer, '/yamux/1.0.0')
const { agentVersion, protocols } = await identified
assert.ok(agentVersion.startsWith('postroad/'), agentVersion)
assert.ok(protocols.includes(CALL) && protocols.includes(CLIENT), protocols.join())

async function exchange(protocol, bytes) {
  const stream = await connection.newStream(protocol)
  stream.send(bytes)
  return readAll(stream)
}

await peer.services.ping.ping(address)
const [answer, ...rest] = unframe(await exchange(CALL, frame(STATUS)))
assert.equal(rest.length, 0, 'one answer')
const [kind, [status]] = decode(answer)
assert.equal(kind, 2, 'Reply::Status')
assert.ok(status.length >= 10)
assert.equal(status[0].length, 32)
// No message: told so, and the stream ends. No frame: the stream ends.
const [refused] = unframe(await exchange(CALL, frame(Uint8Array.of(0xff))))
assert.equal(decode(refused)[0], 0, 'Reply::Refused')
await exchange(CLIENT, Uint8Array.of(0x7f, 0xff, 0xff, 0xff)).catch(() => {})
// The node lives, on the same connection.
await peer.services.ping.ping(address)
const [again] = unframe(await exchange(CALL, frame(STATUS)))
assert.equal(decode(again)[0], 2)
await peer.stop()
console.log(JSON.stringify({ agentVersion, epoch: status[3], version: status[9] }))
