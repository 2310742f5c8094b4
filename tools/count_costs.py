"""Count parameters and multiply-accumulates of every registered model into the table that `leanformer list` reads.

python tools/count_costs.py
"""

from __future__ import annotations

from pathlib import Path

from leanformer.bench import known
from leanformer.zoo import list_models

LINE = '"{}": [{}, {}]'


def main() -> None:
    rows = [LINE.format(name, *known.count_registered(name)) for name in list_models()]
    path = Path(known.__file__).with_name(known.TABLE)
    path.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    print(f"{len(rows)} models in {path.name}")


if __name__ == "__main__":
    main()
