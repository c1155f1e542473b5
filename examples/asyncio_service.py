"""A web service that hands work to tasks and awaits their results, without blocking its event loop.

    python examples/asyncio_service.py

A small HTTP server stands for the framework of your choice: what matters is in `handle`. In an async framework
``delay`` belongs into a thread, because it talks to the broker; ``await result.aget()`` waits without one.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from dispatcher import Dispatcher

app = Dispatcher("asyncio_service")


@app.task
async def look_up(word: str) -> dict[str, Any]:
    """Ask two services at once; `async def` tasks of a worker share one event loop."""
    length, shout = await asyncio.gather(_count(word), _shout(word))
    return {"word": word, "length": length, "shout": shout}


async def _count(word: str) -> int:
    await asyncio.sleep(0.1)
    return len(word)


async def _shout(word: str) -> str:
    await asyncio.sleep(0.1)
    return word.upper()


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer ``GET /<word>`` with what the task found out about the word."""
    path = (await reader.readline()).split()[1].decode()
    result = await asyncio.to_thread(look_up.delay, path.removeprefix("/"))
    body = json.dumps(await result.aget(timeout=30)).encode()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n" + body)
    await writer.drain()
    writer.close()


async def ask(port: int, word: str) -> Any:
    """Send a request as a browser would."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET /{word} HTTP/1.1\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return json.loads(answer.partition(b"\r\n\r\n")[2])


async def main() -> None:
    """Serve twenty requests that come at the same time."""
    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        answers = await asyncio.gather(*(ask(port, f"word{number}") for number in range(20)))
    print(f"{len(answers)} answers, the last: {answers[-1]}")


if __name__ == "__main__":
    worker = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", "-q", "-A", "asyncio_service", "worker", "-P", "asyncio", "-c", "50"],
        cwd=Path(__file__).parent,
    )
    try:
        asyncio.run(main())
    finally:
        worker.terminate()
        worker.wait()
