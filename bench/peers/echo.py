"""The least that aiohttp and grpc.aio do for a call: read a body, send it back. Nothing is parsed.

python -m bench.peers.echo prints its ports.
"""

from __future__ import annotations

import asyncio
import signal

import grpc
from aiohttp import web

from engine.protocol.messages import SERVICE


async def rest(request: web.Request) -> web.Response:
    return web.Response(body=await request.read(), content_type="application/json")


async def rpc(request: bytes, _context: object) -> bytes:
    return request


async def main() -> None:
    app = web.Application()
    app.router.add_post("/v2/models/{name}/infer", rest)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server = grpc.aio.server()
    handlers = {"ModelInfer": grpc.unary_unary_rpc_method_handler(rpc)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"ports {runner.addresses[0][1]} {port}", flush=True)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    await ended.wait()
    await server.stop(None)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
