"""Calls of a pipeline at a fixed rate whatever becomes of them, by REST and gRPC in turn: a process of its own.

Arguments: HOST:PORT, pipeline, calls a second, seconds. Prints one object of JSON: how the calls ended.
"""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc

sys.path.insert(0, str(Path(__file__).parent))

from product import inputs, message, values

from engine.protocol.messages import SERVICE, ModelInferRequest, ModelInferResponse

PATIENCE = 30.0


@dataclass
class Ends:
    """Seconds of the calls that were answered and of those that were refused with a time to come back; the others."""

    answered: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Caller:
    """Calls, and keeps how each ended."""

    def __init__(self, address: str, pipeline: str, session: aiohttp.ClientSession, channel: Any) -> None:
        self._url = f"http://{address}/v2/pipelines/{pipeline}/infer"
        self._session, self._metadata = session, (("seldon-model", f"{pipeline}.pipeline"),)
        self._infer = channel.unary_unary(
            f"/{SERVICE}/ModelInfer", ModelInferRequest.SerializeToString, ModelInferResponse.FromString
        )
        self.ends = {"rest": Ends(), "grpc": Ends()}

    async def rest(self, number: int) -> None:
        ends, since = self.ends["rest"], asyncio.get_running_loop().time()
        async with self._session.post(self._url, json=inputs(INPUT=[number])) as answer:
            body = await answer.json()
            seconds = asyncio.get_running_loop().time() - since
            if answer.status == 200 and body["outputs"][0]["data"] == [number + 1]:
                ends.answered.append(seconds)
            elif answer.status == 429 and int(answer.headers.get("Retry-After", "0")) > 0:
                ends.refused.append(seconds)
            else:
                ends.wrong.append(f"call {number}, after {seconds:.1f} s: {answer.status} {body}")

    async def grpc(self, number: int) -> None:
        ends, since = self.ends["grpc"], asyncio.get_running_loop().time()
        try:
            answer = await self._infer(message(INPUT=[number]), timeout=PATIENCE, metadata=self._metadata)
        except grpc.aio.AioRpcError as error:
            seconds = asyncio.get_running_loop().time() - since
            back = dict(error.trailing_metadata() or ()).get("grpc-retry-pushback-ms", "0")
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and int(back) > 0:
                ends.refused.append(seconds)
            else:
                ends.wrong.append(f"call {number}, after {seconds:.1f} s: {error.code().name} {error.details()}")
            return
        if values(answer, "INPUT") == [number + 1]:
            ends.answered.append(asyncio.get_running_loop().time() - since)
        else:
            ends.wrong.append(str(answer))


async def main(address: str, pipeline: str, rate: float, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        grpc.aio.insecure_channel(address) as channel,
    ):
        caller = Caller(address, pipeline, session, channel)
        begin, calls = loop.time(), []
        for number in range(int(rate * seconds)):
            await asyncio.sleep(max(0.0, begin + number / rate - loop.time()))
            calls.append(asyncio.ensure_future((caller.grpc if number % 2 else caller.rest)(number)))
        ended = await asyncio.gather(*calls, return_exceptions=True)
    failed = [f"{type(each).__name__}: {each}" for each in ended if each is not None]
    sys.stdout.write(json.dumps({"failed": failed, **{door: asdict(ends) for door, ends in caller.ends.items()}}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])))
