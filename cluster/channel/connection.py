"""Framed messages over one TCP connection, after both sides have proved that they know the cluster's secret.

The proof covers both nonces, roles and names, so a recorded or reflected proof is worthless.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from typing import Final

import msgspec

from cluster.channel.messages import (
    LENGTH,
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    Hello,
    Message,
    Proof,
    decode_body,
    encode_frame,
)
from cluster.errors import ChannelError

SECRET_VARIABLE: Final = "CHATGLM_CHANNEL_SECRET"  # noqa: S105 - the variable that holds it, in every process
HANDSHAKE_TIMEOUT_S: Final = 2.0
MAX_HANDSHAKE_FRAME_BYTES: Final = 1024
MAX_UNSENT_BYTES: Final = 8 * 2**20


class Connection:
    """One end of a channel. ``peer`` is the other side's name once the handshake is done."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.peer = ""

    async def receive(self, *, max_bytes: int = MAX_FRAME_BYTES) -> Message:
        """The next message.

        Raises:
            ChannelError: the peer closed, or sent something that is not a frame.
        """
        try:
            (length,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            if length > max_bytes:
                raise ChannelError(f"{self.peer or 'peer'} sent a frame of {length} bytes; {max_bytes} are allowed")
            return decode_body(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise ChannelError(f"the channel to {self.peer or 'peer'} was closed") from error
        except msgspec.DecodeError as error:
            raise ChannelError(f"{self.peer or 'peer'} sent a frame that is not a message") from error

    def send(self, message: Message) -> None:
        """Queue a message; never waits. A peer that leaves over 8 MiB unread is cut off (``receive`` then raises)."""
        if self._writer.is_closing():
            return
        self._writer.write(encode_frame(message))
        if self.unsent_bytes > MAX_UNSENT_BYTES:
            self.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes queued here because the peer does not read."""
        return self._writer.transport.get_write_buffer_size()

    def abort(self) -> None:
        """Close at once and drop what is queued; ``receive`` then raises."""
        self._writer.transport.abort()

    def close(self) -> None:
        """Close at once; frames already queued are still sent where the peer reads them."""
        self._writer.close()

    async def greet(self, *, role: str, name: str, secret: bytes) -> None:
        """Prove ourselves and check the peer.

        Raises:
            ChannelError: the peer is silent, speaks another version, has the same role or does not know the secret.
        """
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                await self._greet(role=role, name=name, secret=secret)
        except TimeoutError as error:
            raise ChannelError("the peer did not finish the handshake in time") from error

    async def _greet(self, *, role: str, name: str, secret: bytes) -> None:
        mine = Hello(PROTOCOL_VERSION, role, name, secrets.token_bytes(16))
        self.send(mine)
        theirs = await self.receive(max_bytes=MAX_HANDSHAKE_FRAME_BYTES)
        if not isinstance(theirs, Hello) or theirs.version != PROTOCOL_VERSION or theirs.role == role:
            raise ChannelError("the peer does not speak this version of the token channel")
        self.send(Proof(_mac(secret, mine, theirs)))
        proof = await self.receive(max_bytes=MAX_HANDSHAKE_FRAME_BYTES)
        if not isinstance(proof, Proof) or not hmac.compare_digest(proof.mac, _mac(secret, theirs, mine)):
            raise ChannelError("the peer does not know this cluster's channel secret")
        self.peer = theirs.name


def _mac(secret: bytes, speaker: Hello, listener: Hello) -> bytes:
    text = msgspec.msgpack.encode([speaker.role, speaker.name, speaker.nonce, listener.name, listener.nonce])
    return hmac.digest(secret, text, hashlib.sha256)
