from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

from engine import trial
from engine.protocol import rest_json
from engine.resources import load
from engine.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

BATCHED = """
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: double}
spec: {storageUri: "python:tried_in_a_batch:double"}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Model
metadata: {name: again}
spec: {storageUri: "python:tried_in_a_batch:double"}
---
apiVersion: mlops.seldon.io/v1alpha1
kind: Pipeline
metadata: {name: batched}
spec:
  steps:
    - {name: double, batch: {size: 8}}
    - {name: again, inputs: [double], batch: {size: 8, windowMs: 3600000}}
  output: {steps: [again]}
"""


async def test_a_try_waits_for_no_other_requests_of_a_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "tried_in_a_batch.py").write_text("def double(x):\n    return {'x': 2 * x}\n")
    (tmp_path / "batched.yaml").write_text(BATCHED)
    resources, problems = load([tmp_path / "batched.yaml"])
    assert not problems
    message = rest_json.decode_request(
        b'{"inputs": [{"name": "x", "shape": [2], "datatype": "INT64", "data": [1, 2]}]}'
    )
    models = {model.name: (model, tmp_path) for model in resources.models}
    tried = trial.run(resources.pipelines[0], models, message, Settings(batch_max_wait=3600.0))
    passed, error = await asyncio.wait_for(tried, 20)
    assert error is None
    assert [part.place for part in passed][-1] == "outputs"
