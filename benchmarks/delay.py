"""A TCP forwarder that hands everything on a little later, in both directions.

    python -m benchmarks.delay 10.77.0.1 9443 127.0.0.1 9443 0.025

For kernels without netem.  It listens on the first address and connects to the second.  The delay
is for each way, so a round trip takes twice as long.  It does not limit the rate.  A TCP handshake
ends here and is not delayed; the TLS handshake and all that follows are.
"""

import asyncio
import sys

PIECE_BYTES = 2**16
UNDER_WAY = 256  # pieces that are kept back at most, in one direction


async def hand_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seconds: float
) -> None:
    """Write what is read, each piece `seconds` after it came, until the end or a cut."""
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
    clock = asyncio.get_running_loop().time

    async def take() -> None:
        piece = b"first"
        while piece:
            piece = await reader.read(PIECE_BYTES)
            await pieces.put((clock() + seconds, piece))

    async def give() -> None:
        while True:
            due, piece = await pieces.get()
            await asyncio.sleep(due - clock())
            if not piece:
                writer.write_eof()
                return
            writer.write(piece)
            await writer.drain()

    async with asyncio.TaskGroup() as both:
        both.create_task(take())
        both.create_task(give())


async def serve(listen: tuple[str, int], to: tuple[str, int], seconds: float) -> None:
    """Forward connections for ever."""

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        away: asyncio.StreamWriter | None = None
        try:
            back, away = await asyncio.open_connection(*to)
            async with asyncio.TaskGroup() as ways:
                ways.create_task(hand_on(reader, away, seconds))
                ways.create_task(hand_on(back, writer, seconds))
        except* OSError:
            pass  # one side cut the connection; the other learns it now
        finally:
            for each in (writer, away):
                if each is not None:
                    each.transport.abort() if each.is_closing() else each.close()

    async with await asyncio.start_server(forward, *listen) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    host, port, to_host, to_port, delay = sys.argv[1:]
    asyncio.run(serve((host, int(port)), (to_host, int(to_port)), float(delay)))
