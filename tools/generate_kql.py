"""Write the files of `kql/` that depend on the catalogue: `python tools/generate_kql.py`.

Here: writing the files. Not here: their text (`defender_adx_pipeline.adx.generated`). A test fails while they differ.
"""

from pathlib import Path

from defender_adx_pipeline.adx.generated import GENERATED
from defender_adx_pipeline.catalogue import load_catalogue

FOLDER = Path(__file__).parent.parent / "kql"


def main() -> None:
    """Write every generated file."""
    tables = tuple(load_catalogue().values())
    for name, write in GENERATED.items():
        (FOLDER / name).write_text(write(tables), encoding="utf-8")


if __name__ == "__main__":
    main()
