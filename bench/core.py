"""`python -m bench.core up …` is `seldon up …` without the extras: importing one fails as if it were not there."""

from __future__ import annotations

import sys

from engine.cli import main

# What `runtimes`, `onnx` and `explain` bring, and what only these bring.
EXTRAS = frozenset(
    ("fastapi", "lightgbm", "mlserver", "onnxruntime", "pandas", "pydantic", "scipy", "shap", "sklearn", "xgboost")
)


class NotInstalled:
    """A finder that knows of these only that they are not there."""

    @staticmethod
    def find_spec(name: str, _path: object, _target: object = None) -> None:
        if name.partition(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, NotInstalled)
    main()
